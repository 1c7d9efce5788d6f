"""Hand-written loops that runner is measured against.

`python loops.py <name> <file> [key=value ...]` writes a loop's figures to the file as JSON. The loops train the same
models on the same samples with the same batch size; `seconds` has the time of each epoch but the first.
"""

import importlib
import inspect
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from language import char_gpt, char_gpt_lightning
from timed_lightning import fit
from torch import Tensor, nn
from turns import Turn, warm

BATCH = 64
MEAN, STD = 0.1307, 0.3081  # of MNIST's training images


def mlp() -> nn.Module:
    """Return the network 784-128-64-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    """Return the network of 3x3 convolutions 32-64-128 with the head 128-64-10."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(),
        nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "cnn": cnn}


def images(root: str, samples: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """Return some of MNIST's training images, normalised, (N, 1, 28, 28), and their classes."""
    from runner.data.idx import read_idx

    folder = Path(root) / "MNIST" / "raw"
    pixels = torch.from_numpy(read_idx(folder / "train-images-idx3-ubyte", 3))
    classes = torch.from_numpy(read_idx(folder / "train-labels-idx1-ubyte", 1))
    some = slice(first, first + samples)
    return pixels[some, None].float().div_(255).sub_(MEAN).div_(STD), classes[some].long()


def train(net: nn.Module, inputs: Tensor, targets: Tensor, epochs: int, turn: Turn | None = None) -> list[float]:
    """Train in a bare loop on tensors (randperm, index, forward, backward, fused SGD); return each epoch's seconds."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, fused=True)
    loss = nn.CrossEntropyLoss()
    seconds = []
    for epoch in range(epochs):
        if epoch and turn:
            turn.wait()
        began = time.perf_counter()
        for index in torch.randperm(len(inputs)).split(BATCH):
            optimizer.zero_grad()
            loss(net(inputs[index]), targets[index]).backward()
            optimizer.step()
        seconds.append(time.perf_counter() - began)
    return seconds


def tensors(root: str, model: str, samples: int, epochs: int, channels_last: bool = False) -> dict[str, list[float]]:
    """Train on MNIST in a bare loop."""
    inputs, targets = images(root, samples)
    net = MODELS[model]()
    if channels_last:
        net, inputs = net.to(memory_format=torch.channels_last), inputs.contiguous(memory_format=torch.channels_last)
    turn = Turn()
    seconds = train(net, inputs, targets, epochs, turn)
    turn.over()
    return {"seconds": warm(seconds)}


def notebook_loader(root: str, samples: int) -> Any:
    """Return the notebooks' `DataLoader`: each image goes through PIL, `ToTensor` and `Normalize`."""
    from torchvision import transforms
    from torchvision.datasets import MNIST

    each = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
    data = torch.utils.data.Subset(MNIST(root, train=True, transform=each), range(samples))
    return torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True)


def notebook(root: str, model: str, samples: int, epochs: int) -> dict[str, list[float]]:
    """Train in the notebooks' loop: `.item()` after each batch."""
    loader, net, loss = notebook_loader(root, samples), MODELS[model](), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    seconds = []
    for _ in range(epochs):
        began, total, correct = time.perf_counter(), 0.0, 0
        for inputs, targets in loader:
            optimizer.zero_grad()
            outputs = net(inputs)
            value = loss(outputs, targets)
            value.backward()
            optimizer.step()
            total += value.item()
            correct += int((outputs.argmax(1) == targets).sum().item())
        seconds.append(time.perf_counter() - began)
    return {"seconds": warm(seconds)}


def lightning(root: str, model: str, samples: int, epochs: int) -> dict[str, list[float]]:
    """Train with Lightning's `Trainer` and progress bar on the notebooks' loader."""
    cross_entropy = nn.CrossEntropyLoss()

    def loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        return cross_entropy(net(inputs), targets)

    def sgd(net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    return fit(MODELS[model](), loss, sgd, notebook_loader(root, samples), epochs)


def tiny(epochs: int) -> dict[str, list[float]]:
    """Train 4-5-4-1 on two samples, and nothing else."""
    inputs = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]])
    targets = torch.tensor([[0.0], [1.0]])
    net = nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 1), nn.Sigmoid())
    optimizer, loss = torch.optim.SGD(net.parameters(), lr=0.1), nn.MSELoss()
    began = time.perf_counter()
    for _ in range(epochs):
        optimizer.zero_grad()
        loss(net(inputs), targets).backward()
        optimizer.step()
    return {"seconds": [time.perf_counter() - began]}


def four(samples: int, epochs: int) -> dict[str, list[float]]:
    """Train on dict batches of four tensors in a bare loop."""
    from four import Net
    from four import samples as make

    (inputs, targets), net, turn = make(samples), Net(), Turn()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, fused=True)
    loss = nn.CrossEntropyLoss()
    seconds = []
    for epoch in range(epochs):
        if epoch:
            turn.wait()
        began = time.perf_counter()
        for index in torch.randperm(samples).split(BATCH):
            optimizer.zero_grad()
            loss(net(**{name: part[index] for name, part in inputs.items()}), targets[index]).backward()
            optimizer.step()
        seconds.append(time.perf_counter() - began)
    turn.over()
    return {"seconds": warm(seconds)}


def forward(root: str, samples: int, held_out: int, epochs: int) -> dict[str, list[float]]:
    """Run only the MLP's forward pass over held-out samples, with the fastest of four batch sizes.

    As with a validation, each pass follows an epoch of training, so the caches hold other data.
    """
    inputs, targets = images(root, samples)
    others, _ = images(root, held_out, first=60_000 - held_out)
    net, turn = mlp(), Turn()

    def once(size: int) -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            for batch in others.split(size):
                net(batch)
        return time.perf_counter() - began

    size, seconds = 1024, []
    for epoch in range(epochs):
        if epoch:
            turn.wait()
        train(net, inputs, targets, epochs=1)
        if epoch == 1:  # choose before measuring: the best of several noisy figures would be too good
            sizes = (512, 1024, 2048, 4096)
            size = min(sizes, key=lambda size: statistics.median(once(size) for _ in range(20)))
        seconds.append(once(size))
    turn.over()
    return {"seconds": warm(seconds)}


def decoding(path: str, size: int, workers: int) -> dict[str, list[float]]:
    """Load a folder's images with a `DataLoader` and do nothing else: one epoch, the first, as in runner's run."""
    from runner.data.image_file import read_image

    files = sorted(Path(path).rglob("*.jpg"))

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> Tensor:
            return read_image(files[index], size)

    loader = torch.utils.data.DataLoader(Images(), batch_size=BATCH, shuffle=True, num_workers=workers)
    began = time.perf_counter()
    for _ in loader:
        pass
    return {"seconds": [time.perf_counter() - began]}


def resnet(samples: int, size: int, epochs: int) -> dict[str, list[float]]:
    """Train ResNet-18 on tensors in a bare loop."""
    from torchvision.models import resnet18

    inputs = torch.randn(samples, 3, size, size).contiguous(memory_format=torch.channels_last)
    net = resnet18(num_classes=10).to(memory_format=torch.channels_last)
    return {"seconds": warm(train(net, inputs, torch.randint(10, (samples,)), epochs))}


_EPOCHS = (tensors, notebook, lightning, tiny, four, forward, decoding, resnet, char_gpt, char_gpt_lightning)
LOOPS: dict[str, Callable[..., dict[str, list[float]]]] = {loop.__name__: loop for loop in _EPOCHS}


def main(name: str, file: str, *words: str) -> None:
    """Run a loop, or `<module>.<function>`, with options typed as `key=value`."""
    module, _, function = name.rpartition(".")
    loop = getattr(importlib.import_module(module), function) if module else LOOPS[name]
    kinds = {key: parameter.annotation for key, parameter in inspect.signature(loop).parameters.items()}
    typed = (word.split("=", 1) for word in words)
    options = {key: value == "True" if kinds[key] is bool else kinds[key](value) for key, value in typed}
    Path(file).write_text(json.dumps(loop(**options)))


if __name__ == "__main__":
    main(*sys.argv[1:])
