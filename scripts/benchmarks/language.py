"""Hand-written loops of a character GPT in nanoGPT's shape: 4 layers, 128 wide, block 128, batch 12."""

import time

import torch
from timed_lightning import fit
from torch import Tensor, nn
from turns import Turn, warm

BATCH, BLOCK = 12, 128


def windows(samples: int) -> tuple[Tensor, int]:
    """Return windows (N, BLOCK + 1) of the text that `data=text` reads, and the number of characters."""
    from runner.data.text import text

    source = text(block=BLOCK)
    assert source.classes is not None
    return torch.stack([source.train[index] for index in range(samples)]), len(source.classes)  # type: ignore[index]


def network(characters: int) -> nn.Module:
    """Return the model of both sides."""
    from runner.model.gpt import GPT

    return GPT((BLOCK + 1,), characters, layers=4, heads=4, width=128)


def adamw(net: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of both sides."""
    return torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)


def loss_of(net: nn.Module, ids: Tensor) -> Tensor:
    """Return the mean cross entropy of the next character."""
    return nn.functional.cross_entropy(net(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def char_gpt(samples: int, epochs: int) -> dict[str, list[float]]:
    """Train in a bare loop on windows in memory."""
    ids, characters = windows(samples)
    net = network(characters)
    optimizer, turn, seconds = adamw(net), Turn(), []
    for epoch in range(epochs):
        if epoch:
            turn.wait()
        began = time.perf_counter()
        for index in torch.randperm(samples).split(BATCH):
            optimizer.zero_grad()
            loss_of(net, ids[index]).backward()
            optimizer.step()
        seconds.append(time.perf_counter() - began)
    turn.over()
    return {"seconds": warm(seconds)}


def char_gpt_lightning(samples: int, epochs: int) -> dict[str, list[float]]:
    """Train with Lightning's `Trainer`, its progress bar and its loader of the same windows in memory."""
    ids, characters = windows(samples)
    loader: torch.utils.data.DataLoader[Tensor] = torch.utils.data.DataLoader(
        ids,  # type: ignore[arg-type]
        batch_size=BATCH,
        shuffle=True,
    )
    return fit(network(characters), loss_of, adamw, loader, epochs, Turn())
