"""The loops that runner is measured against, as one writes them by hand: `python loops.py <name> [key=value ...]`.

Each prints what it took as JSON. They train the same models on the same samples, in the same number of batches.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

TRAINED_ON, BATCH, EVALUATED_ON = 48_000, 64, 12_000
MEAN, STD = 0.1307, 0.3081


def mlp() -> nn.Module:
    """784-128-64-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    """The notebooks' network: 3x3 convolutions 32-64-128, head 128-64-10."""
    from runner.model.cnn import CNN

    return CNN((1, 28, 28), 10, channels=[32, 64, 128], strides=[1, 2, 2], hidden=[64])


MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "cnn": cnn}


def images(root: str) -> tuple[Tensor, Tensor]:
    """All of MNIST's training images, uint8 (N, 28, 28), and their classes."""
    from runner.data.idx import read_idx

    folder = Path(root) / "MNIST" / "raw"
    return (
        torch.from_numpy(read_idx(folder / "train-images-idx3-ubyte", 3)),
        torch.from_numpy(read_idx(folder / "train-labels-idx1-ubyte", 1)).long(),
    )


def tensors(
    root: str, model: str = "mlp", epochs: int = 4, samples: int = TRAINED_ON, channels_last: bool = False
) -> dict[str, Any]:
    """A bare loop on tensors: randperm, index, forward, backward, fused SGD."""
    pixels, targets = images(root)
    inputs = pixels[:samples, None].float().div_(255).sub_(MEAN).div_(STD)
    targets = targets[:samples]
    net = MODELS[model]()
    if channels_last:
        net, inputs = net.to(memory_format=torch.channels_last), inputs.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, fused=True)
    loss = nn.CrossEntropyLoss()
    seconds = []
    for _ in range(epochs):
        began = time.perf_counter()
        for index in torch.randperm(samples).split(BATCH):
            optimizer.zero_grad()
            loss(net(inputs[index]), targets[index]).backward()
            optimizer.step()
        seconds.append(time.perf_counter() - began)
    return {"epoch_seconds": seconds}


def notebook_loader(root: str, samples: int) -> Any:
    """The notebooks' `DataLoader`: each image through PIL, `ToTensor` and `Normalize`."""
    from torchvision import transforms
    from torchvision.datasets import MNIST

    each = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
    data = torch.utils.data.Subset(MNIST(root, train=True, transform=each), range(samples))
    return torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True)


def notebook(root: str, model: str = "mlp", epochs: int = 2, samples: int = TRAINED_ON) -> dict[str, Any]:
    """The notebooks' loop: `.item()` after each batch."""
    loader, net, loss = notebook_loader(root, samples), MODELS[model](), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    seconds = []
    for _ in range(epochs):
        began, running, correct = time.perf_counter(), 0.0, 0
        for inputs, targets in loader:
            optimizer.zero_grad()
            outputs = net(inputs)
            value = loss(outputs, targets)
            value.backward()
            optimizer.step()
            running += value.item()
            correct += (outputs.argmax(1) == targets).sum().item()
        seconds.append(time.perf_counter() - began)
    return {"epoch_seconds": seconds}


def lightning(root: str, model: str = "mlp", epochs: int = 2, samples: int = TRAINED_ON) -> dict[str, Any]:
    """Lightning's `Trainer` on the notebooks' loader, its progress bar on."""
    import logging

    import lightning as L  # noqa: N812 - its own name for itself

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.loss, self.seconds = MODELS[model](), nn.CrossEntropyLoss(), list[float]()

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            inputs, targets = batch
            value: Tensor = self.loss(self.net(inputs), targets)
            self.log("train/loss", value)
            return value

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

        def on_train_epoch_start(self) -> None:
            self.began = time.perf_counter()

        def on_train_epoch_end(self) -> None:
            self.seconds.append(time.perf_counter() - self.began)

    module = Module()
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    trainer.fit(module, notebook_loader(root, samples))
    return {"epoch_seconds": module.seconds}


def tiny(epochs: int = 10_000) -> dict[str, Any]:
    """The notebooks' 4-5-4-1 net on two samples, with nothing but the training."""
    inputs = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]])
    targets = torch.tensor([[0.0], [1.0]])
    net = nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 1), nn.Sigmoid())
    optimizer, loss = torch.optim.SGD(net.parameters(), lr=0.1), nn.MSELoss()
    began = time.perf_counter()
    for _ in range(epochs):
        optimizer.zero_grad()
        loss(net(inputs), targets).backward()
        optimizer.step()
    return {"seconds": time.perf_counter() - began}


def forward(root: str, model: str = "mlp") -> dict[str, Any]:
    """The forward pass over 12,000 samples, in whichever batch size is the fastest."""
    pixels, _ = images(root)
    inputs = pixels[TRAINED_ON : TRAINED_ON + EVALUATED_ON, None].float().div_(255).sub_(MEAN).div_(STD)
    net = MODELS[model]().eval()
    best = float("inf")
    with torch.inference_mode():
        for size in (256, 512, 1024, 2048, 4096):
            for seconds in _passes(net, inputs, size):
                best = min(best, seconds)
    return {"seconds": best}


def _passes(net: nn.Module, inputs: Tensor, size: int) -> Iterator[float]:
    for _ in range(5):
        began = time.perf_counter()
        for batch in inputs.split(size):
            net(batch)
        yield time.perf_counter() - began


LOOPS: dict[str, Callable[..., dict[str, Any]]] = {
    loop.__name__: loop for loop in (tensors, notebook, lightning, tiny, forward)
}

if __name__ == "__main__":
    _, name, *words = sys.argv
    given = dict(word.split("=", 1) for word in words)
    kinds = {"epochs": int, "samples": int, "channels_last": "True".__eq__}
    print(json.dumps(LOOPS[name](**{key: kinds.get(key, str)(value) for key, value in given.items()})))
