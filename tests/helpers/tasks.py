"""Tasks and models as users write them, for tests of commands: `task._target_=helpers.tasks.Adversarial`."""

import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from runner.callbacks import Callback
from runner.task import Task
from runner.task.supervised import Supervised


class Pair(nn.Module):
    """A generator and a discriminator of images of digits."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.G = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 64))
        self.D = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 1))


class Adversarial(Task):
    """A GAN."""

    def step(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        real = batch[0].flatten(1)
        fake = model.G(torch.randn(len(real), 4, dtype=real.dtype))
        yield "discriminator", F.softplus(-model.D(real)).mean() + F.softplus(model.D(fake.detach())).mean()
        yield "generator", F.softplus(-model.D(fake)).mean()
        yield "size", fake.norm(dim=1).mean()


class Steady(Task):
    """A GAN whose noise is part of the images: its losses do not depend on how a batch is divided."""

    def step(self, model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        real = batch[0].flatten(1)
        fake = model.G(real[:, 20:24])
        yield "discriminator", F.softplus(-model.D(real)).mean() + F.softplus(model.D(fake.detach())).mean()
        yield "generator", F.softplus(-model.D(fake)).mean()
        yield "size", fake.norm(dim=1).mean()


PAIR = [
    "task=custom",
    "task._target_=helpers.tasks.Adversarial",
    "model=custom",
    "model._target_=helpers.tasks.Pair",
    "optimizers.generator={params: G.*, _target_: torch.optim.Adam, lr: 0.002}",
    "optimizers.discriminator={params: D.*, _target_: torch.optim.Adam, lr: 0.002}",
]


class Forgetful(Task):
    """A step that returns nothing."""

    def step(self, model: Any, batch: Any) -> Any:
        model(batch[0])


class Vector(Task):
    """A loss for each sample."""

    def step(self, model: Any, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


class Failing(Task):
    """A step that fails."""

    def step(self, model: Any, batch: Any) -> Tensor:
        return model(batch[0]) @ batch[1]


class Stepless(Task):
    """A task without a step."""


class NoTask(nn.Module):
    """A module that is no task."""


class Scored(Task):
    """A trained scale, and a score for which higher is better."""

    maximized = ("score",)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def step(self, model: Any, batch: Any) -> dict[str, Tensor]:
        images, digits = batch
        logits = model(images) * self.scale
        return {"loss": F.cross_entropy(logits, digits), "score": (logits.argmax(1) == digits).double().mean()}


class Contrastive(Task):
    """A loss over all pairs of a batch."""

    def step(self, model: Any, batch: Any) -> dict[str, Tensor]:
        codes = F.normalize(model(batch[0]), dim=1)
        return {"loss": F.cross_entropy(5 * codes @ codes.T, torch.arange(len(codes)))}


class Classified(Task):
    """A classifier with a loss of its own; `form` is that of its outputs and targets."""

    def __init__(self, form: str = "logits") -> None:
        super().__init__()
        self.form = form

    def step(self, model: Any, batch: Any) -> dict[str, Tensor]:
        logits, digits = model(batch[0]), batch[1]
        outputs, targets = {
            "logits": (logits, digits),
            "probabilities": (logits.softmax(1), digits),
            "classes": (logits.argmax(1), digits),
            "one": (logits[:, 3], (digits == 3).long()),
            "labels": (logits, F.one_hot(digits, 10)),
            "values": (logits[:, 0], digits.float()),
        }[self.form]
        return {"loss": F.cross_entropy(logits, digits), "outputs": outputs, "targets": targets}


class Normed(Task):
    """A step that needs two samples."""

    def step(self, model: Any, batch: Any) -> Tensor:
        logits = model(batch[0])
        return F.cross_entropy(F.batch_norm(logits, None, None, training=True), batch[1])


class Queue(Task):
    """A task that draws a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", torch.randn(8, 10))

    def step(self, model: Any, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1]) + 0 * self.get_buffer("queue").sum()


class Weighed(Task):
    """A loss over a weight that is no good."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.weight = {"shape": torch.tensor([2.0]), "text": "many", "zero": 0, "negative": -1}[kind]

    def step(self, model: Any, batch: Any) -> dict[str, Any]:
        return {"loss": F.cross_entropy(model(batch[0]), batch[1]), "weight": self.weight}


class Detached(Task):
    """A loss without a gradient."""

    def step(self, model: Any, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1]).detach()


class HalfMade(Task):
    """A constructor that does not call that of its class."""

    def __init__(self) -> None:
        self.width = 1


class Hasty(Contrastive):
    """A task that says of an inherited step that it takes larger batches."""

    larger_batches = True


class Compared(Supervised):
    """`supervised` with a step of its own."""

    def step(self, model: Any, batch: Any) -> dict[str, Any]:
        return {**super().step(model, batch)}


class Shaped(nn.Module):
    """A model of digits that keeps the shape which it gets."""

    def __init__(self, input_shape: tuple[int, ...], num_outputs: int) -> None:
        super().__init__()
        self.shape = input_shape
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, num_outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)


class FailsOnRankOne(Supervised):
    """Raises in the second step of training, on one of several ranks."""

    def __init__(self) -> None:
        super().__init__()
        self._steps = 0

    def step(self, model: Any, batch: Any) -> Any:
        self._steps += self.training
        if self._steps > 1 and os.environ.get("RANK") == "1":
            raise ValueError("this rank fails")
        return super().step(model, batch)


class Partial(nn.Sequential):
    """A classifier of digits with a layer that no step uses."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        self.spare = nn.Linear(3, 3)

    def forward(self, input: Tensor) -> Tensor:
        return self[1](self[0](input))


def confident(outputs: Tensor, targets: Tensor) -> float:
    """Return a number that depends on the order of all samples."""
    right = (outputs.argmax(1) == targets).double()
    return float((right * torch.arange(len(right))).sum() / len(right) ** 2)


class AsksOnRankOne(Callback):
    """Asks to end training after the third step, on rank 1 only."""

    def after_step(self, state: Any) -> None:
        """Ask."""
        if state.progress.step == 3 and os.environ["RANK"] == "1":
            state.request_stop("rank 1 asked for it")


class Stacked(nn.Module):
    """A model with methods besides `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 8)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2))
        self.head = nn.Linear(8, 10)

    def encode(self, images: Tensor) -> Tensor:
        codes = self.stem(images.flatten(1))
        for layer in self.layers:
            codes = layer(codes)
        return codes

    def without_tanh(self, images: Tensor) -> Tensor:
        codes = self.stem(images.flatten(1))
        for layer in self.layers:
            codes = layer[0](codes)
        return codes


class ByMethods(Task):
    """A step that calls methods of the model, and not the model; `inside`: parts of its layers, and not the layers."""

    def __init__(self, inside: bool = False, in_evaluation: bool = False) -> None:
        super().__init__()
        self.inside, self.in_evaluation = inside, in_evaluation

    def step(self, model: Any, batch: Any) -> Tensor:
        inside = self.inside or (self.in_evaluation and not self.training)
        codes = model.without_tanh(batch[0]) if inside else model.encode(batch[0])
        return F.cross_entropy(model.head(codes), batch[1])


class OfItsRank(nn.Module):
    """A model whose first weights, or shapes, are those of the rank."""

    def __init__(self, shapes: bool = False) -> None:
        super().__init__()
        rank = int(os.environ.get("RANK", "0"))
        width = 8 + rank * shapes
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10))
        self.register_buffer("flags", torch.full((3,), rank > 0))
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(rank))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs."""
        outputs: Tensor = self.layers(inputs) + self.flags.sum()
        return outputs


class Reading(Task):
    """A step that reads a value."""

    def step(self, model: Any, batch: Any) -> Tensor:
        loss = F.cross_entropy(model(batch[0]), batch[1])
        return loss * 2 if loss.item() > 100 else loss
