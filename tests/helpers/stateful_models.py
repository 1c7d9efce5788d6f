"""Models, losses, optimizers, schedulers and data sets with and without hidden state."""

import enum
import itertools
import random
from array import array
from collections import Counter as Counts
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from random import uniform
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantize
from torch.nn.utils import parametrizations
from torch.utils.data import Dataset

from helpers.training import divided, net
from runner.data.source import Source
from runner.loss import CrossEntropy
from runner.scheduler import Schedule


class Base(nn.Module):
    """Scales its inputs by `factor`, which subclasses compute from their state."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.set_up()

    def set_up(self) -> None: ...

    def factor(self, inputs: Tensor) -> Any:
        return 1.0

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs * self.factor(inputs))

    @classmethod
    def reset(cls) -> None:
        """Reset state outside of objects, like a new process."""


class Plain(Base): ...


class Dropout(Base):
    def set_up(self) -> None:
        self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 3))


class Counter(Base):
    def set_up(self) -> None:
        self.counter = 0

    def factor(self, inputs: Tensor) -> Any:
        self.counter += self.training
        return 1 + self.counter / 100


class DeepCounter(Base):
    def set_up(self) -> None:
        self.parts = nn.ModuleList([Counter()])

    def factor(self, inputs: Tensor) -> Any:
        return self.parts[0].factor(inputs)


class TensorAttribute(Base):
    def set_up(self) -> None:
        self.mean = torch.zeros(6)

    def factor(self, inputs: Tensor) -> Any:
        self.mean = 0.9 * self.mean + 0.1 * inputs.mean(0)
        return 1 + self.mean


class ArrayInPlace(Base):
    def set_up(self) -> None:
        self.seen = np.zeros(3)

    def factor(self, inputs: Tensor) -> Any:
        self.seen += 0.01
        return 1 + float(self.seen[0])


class History(Base):
    def set_up(self) -> None:
        self.history: list[float] = []

    def factor(self, inputs: Tensor) -> Any:
        self.history.append(inputs.mean().item())
        return 1 + sum(self.history) / 100


class Memory(Base):
    def set_up(self) -> None:
        self.memory: dict[str, Any] = {"means": {}}

    def factor(self, inputs: Tensor) -> Any:
        self.memory["means"][len(self.memory["means"])] = inputs.mean()
        return 1 + len(self.memory["means"]) / 50


class Helper:
    def __init__(self) -> None:
        self.calls = 0


class InHelper(Base):
    def set_up(self) -> None:
        self.helper = Helper()

    def factor(self, inputs: Tensor) -> Any:
        self.helper.calls += 1
        return 1 + self.helper.calls / 50


class InPlainList(Base):
    """BatchNorm in a plain list, and therefore not registered."""

    def set_up(self) -> None:
        self.layers = [nn.BatchNorm1d(6, momentum=0.5)]

    def factor(self, inputs: Tensor) -> Any:
        self.layers[0](inputs)
        return 1 + self.layers[0].running_mean


class NonPersistent(Base):
    def set_up(self) -> None:
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def factor(self, inputs: Tensor) -> Any:
        self.seen += 0.01
        return 1 + self.seen


class ExtraState(Counter):
    def get_extra_state(self) -> Any:
        return {"counter": np.int64(self.counter)}

    def set_extra_state(self, state: Any) -> None:
        self.counter = int(state["counter"])


class OwnGenerator(Base):
    def set_up(self) -> None:
        self.drawn = torch.Generator().manual_seed(1)

    def factor(self, inputs: Tensor) -> Any:
        return 1 + torch.rand(inputs.shape, generator=self.drawn) / 5


class NumpyGenerators(Base):
    def set_up(self) -> None:
        self.drawn = {"new": np.random.default_rng(1), "old": np.random.RandomState(1), "python": random.Random(1)}

    def factor(self, inputs: Tensor) -> Any:
        return 1 + self.drawn["new"].normal() / 9 + self.drawn["old"].normal() / 9 + self.drawn["python"].random() / 9


class LateGenerator(Base):
    def set_up(self) -> None:
        self.drawn: torch.Generator | None = None

    def factor(self, inputs: Tensor) -> Any:
        self.drawn = self.drawn or torch.Generator().manual_seed(1)
        return 1 + torch.rand(inputs.shape, generator=self.drawn) / 5


class LastActivations(Base):
    def forward(self, inputs: Tensor) -> Tensor:
        self.features = self.net(inputs)
        self.last, self.norm = self.features.detach(), self.features.norm().item()
        return self.features


class Cache(Base):
    """Creates the same state at each first call."""

    def set_up(self) -> None:
        self.positions: Tensor | None = None
        self.by_size: dict[int, Tensor] = {}

    def factor(self, inputs: Tensor) -> Any:
        if self.positions is None:
            self.positions = torch.linspace(0.9, 1.1, inputs.shape[1])
        return self.by_size.setdefault(inputs.shape[1], self.positions)


class SpectralNorm(Base):
    def set_up(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(torch.nn.utils.spectral_norm(nn.Linear(6, 16)), nn.ReLU(), nn.Linear(16, 3))


class OfTheClass(Base):
    """A counter outside of any object."""

    calls: ClassVar[list[int]] = []

    def factor(self, inputs: Tensor) -> Any:
        type(self).calls.append(1)
        return 1 + len(self.calls) / 100

    @classmethod
    def reset(cls) -> None:
        cls.calls.clear()


class Later(Base):
    """Changes only after the validation of an epoch: not within two steps."""

    def set_up(self) -> None:
        self.stage = 0

    def factor(self, inputs: Tensor) -> Any:
        if not self.training and inputs.shape[0] < 32:
            self.stage += 1
        return 1 + self.stage / 10


KINDS: dict[type[Base], set[str]] = {
    Plain: set(),
    Dropout: set(),
    Counter: {"model.counter"},
    DeepCounter: {"model.parts.0.counter"},
    TensorAttribute: {"model.mean"},
    ArrayInPlace: {"model.seen"},
    History: {"model.history"},
    Memory: {"model.memory"},
    InHelper: {"model.helper.calls"},
    InPlainList: {"model.layers[0].running_mean", "model.layers[0].running_var", "model.layers[0].num_batches_tracked"},
    NonPersistent: set(),
    ExtraState: set(),
    OwnGenerator: set(),
    NumpyGenerators: set(),
    LateGenerator: set(),
    LastActivations: set(),
    Cache: set(),
    SpectralNorm: set(),
    OfTheClass: {"model.calls"},
    Later: {"model.stage"},
}
"""The models, and the paths to report."""


class Parametrized(Base):
    def set_up(self) -> None:
        torch.manual_seed(0)
        first, last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.net = nn.Sequential(
            parametrizations.spectral_norm(first), nn.ReLU(), parametrizations.weight_norm(nn.Linear(16, 16)),
            parametrizations.orthogonal(nn.Linear(16, 16)), last,
        )  # fmt: skip


class Normalised(Base):
    def set_up(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16, momentum=None), nn.SyncBatchNorm(16), nn.Linear(16, 3)
        )


class Recurrent(Base):
    def set_up(self) -> None:
        torch.manual_seed(0)
        self.lstm, self.gru = nn.LSTM(2, 4, 2, dropout=0.2, batch_first=True), nn.GRU(4, 3, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.gru(self.lstm(inputs.unflatten(1, (3, 2)))[0])[0][:, -1]


class Attention(Base):
    """Reads its weights without an effect."""

    def set_up(self) -> None:
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(2, 1, dropout=0.1, batch_first=True)
        self.last_attention: Tensor | None = None

    def factor(self, inputs: Tensor) -> Any:
        tokens = inputs.unflatten(1, (3, 2))
        outputs, weights = self.attention(tokens, tokens, tokens)
        self.last_attention = weights.detach()
        return 1 + outputs.flatten(1)


class Lazy(Base):
    def set_up(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.LazyLinear(16), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3))
        self.net(torch.ones(2, 6))


class Quantized(Base):
    def set_up(self) -> None:
        self.observed = FakeQuantize()

    def factor(self, inputs: Tensor) -> Any:
        return self.observed(inputs)


class Cycle(Base):
    def set_up(self) -> None:
        self.scales = itertools.cycle([0.9, 1.0, 1.1])  # at its start again when a rehearsal saves

    def factor(self, inputs: Tensor) -> Any:
        return next(self.scales)


class Count(Base):
    def set_up(self) -> None:
        self.count = itertools.count()

    def factor(self, inputs: Tensor) -> Any:
        return 1 + next(self.count) / 100


def rising() -> Iterator[float]:
    value = 1.0
    while True:
        yield value
        value += 0.01


class PythonGenerator(Base):
    def set_up(self) -> None:
        self.values = rising()

    def factor(self, inputs: Tensor) -> Any:
        return next(self.values)


class Deque(Base):
    def set_up(self) -> None:
        self.last: deque[float] = deque([0.0], maxlen=3)

    def factor(self, inputs: Tensor) -> Any:
        self.last.append(inputs.mean().item())
        return 1 + sum(self.last)


class Containers(Base):
    def set_up(self) -> None:
        self.counts: Counts[int] = Counts()
        self.order: OrderedDict[int, int] = OrderedDict()
        self.seen: set[int] = set()
        self.bytes, self.array = bytearray(8), array("d", [0.0])

    def factor(self, inputs: Tensor) -> Any:
        self.counts["calls"] += 1
        calls = self.counts["calls"]
        self.order[calls] = calls
        self.seen.add(calls)
        self.bytes[0] = calls % 256
        self.array[0] += 1
        return 1 + (len(self.seen) + len(self.order) + self.bytes[0] + self.array[0]) / 100


@dataclass
class Numbers:
    calls: int = 0


Pair = namedtuple("Pair", ["calls", "mean"])  # a common mistake


class Records(Base):
    def set_up(self) -> None:
        self.numbers, self.pair = Numbers(), Pair(0, 0.0)

    def factor(self, inputs: Tensor) -> Any:
        self.numbers.calls += 1
        self.pair = Pair(self.pair.calls + 1, 0.0)
        return 1 + (self.numbers.calls + self.pair.calls) / 100


class Stage(enum.Enum):
    EARLY = 1
    LATE = 2


class Staged(Base):
    def set_up(self) -> None:
        self.stage = Stage.EARLY

    def factor(self, inputs: Tensor) -> Any:
        factor = self.stage.value
        self.stage = Stage.LATE
        return factor


def counting() -> Callable[[], int]:
    calls = 0

    def count() -> int:
        nonlocal calls
        calls += 1
        return calls

    return count


class Closure(Base):
    def set_up(self) -> None:
        self.calls = counting()

    def factor(self, inputs: Tensor) -> Any:
        return 1 + self.calls() / 100


class Default(Base):
    """An argument with a list as its default."""

    def factor(self, inputs: Tensor, seen: list[int] = []) -> Any:  # noqa: B006 # intended
        seen.append(1)
        return 1 + len(seen) / 100


def increase(held: list[int]) -> int:
    held[0] += 1
    return held[0]


class Partial(Base):
    def set_up(self) -> None:
        self.increase = partial(increase, [0])

    def factor(self, inputs: Tensor) -> Any:
        return 1 + self.increase() / 100


CALLS = 0
MEAN = torch.zeros(6)
DRAWN = np.random.default_rng(1)


class Global(Base):
    def factor(self, inputs: Tensor) -> Any:
        global CALLS, MEAN
        CALLS, MEAN = CALLS + 1, 0.9 * MEAN + 0.1 * inputs.detach().mean(0)
        return 1 + CALLS / 100 + MEAN

    @classmethod
    def reset(cls) -> None:
        global CALLS, MEAN
        CALLS, MEAN = 0, torch.zeros(6)


class GlobalGenerator(Base):
    def factor(self, inputs: Tensor) -> Any:
        return 1 + DRAWN.normal() / 9

    @classmethod
    def reset(cls) -> None:
        DRAWN.bit_generator.state = np.random.default_rng(1).bit_generator.state


class ClassNumber(Base):
    steps = 0

    def factor(self, inputs: Tensor) -> Any:
        ClassNumber.steps += 1
        return 1 + self.steps / 100

    @classmethod
    def reset(cls) -> None:
        cls.steps = 0


@lru_cache
def positions(features: int) -> Tensor:
    return torch.linspace(0.9, 1.1, features)


class Sparse(Base):
    """Holds a tensor that cannot be read like others."""

    def factor(self, inputs: Tensor) -> Any:
        self.shown = inputs.to_sparse()
        return 1.0


class Shuffling(Base):
    """Draws from the global generator through its method."""

    def factor(self, inputs: Tensor) -> Any:
        return 1 + uniform(0, 1) / 9


class Cached(Base):
    def factor(self, inputs: Tensor) -> Any:
        return positions(inputs.shape[1])


class Hooked(Base):
    def set_up(self) -> None:
        calls = 0

        def scale(module: nn.Module, inputs: Any, outputs: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return outputs * (1 + calls / 100)

        self.net.register_forward_hook(scale)


class HookedObject(Base):
    def set_up(self) -> None:
        self.net[0].register_forward_pre_hook(Pushing())


class Pushing:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, module: nn.Module, inputs: Any) -> Any:
        self.calls += 1
        return (inputs[0] * (1 + self.calls / 100),)


class OwnDropout(Base):
    def set_up(self) -> None:
        self.net = nn.Sequential(nn.Linear(6, 16), Dropping(), nn.Linear(16, 3))


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drawn = torch.Generator().manual_seed(3)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * (torch.rand(inputs.shape, generator=self.drawn) > 0.2) if self.training else inputs


class OnlyCounts(Base):
    """Does not change results."""

    def set_up(self) -> None:
        self.calls = 0

    def factor(self, inputs: Tensor) -> Any:
        self.calls += 1
        return 1.0


class FirstBatch(Base):
    """Stores the statistics of its first batch in an attribute."""

    def set_up(self) -> None:
        self.scale, self.begun = nn.Parameter(torch.ones(6)), False

    def factor(self, inputs: Tensor) -> Any:
        if not self.begun:
            self.scale.data, self.begun = 1 / inputs.std(0), True
        return self.scale


class Before(Base):
    """Uses the output of the previous batch."""

    def set_up(self) -> None:
        self.before = torch.ones(6)

    def factor(self, inputs: Tensor) -> Any:
        factor, self.before = self.before, 1 + inputs.mean(0)
        return factor


class Switched(Base):
    """Replaces one of its methods by another."""

    def set_up(self) -> None:
        self.scaled = self.early

    def early(self) -> float:
        self.scaled = self.late
        return 0.5

    def late(self) -> float:
        return 1.0

    def factor(self, inputs: Tensor) -> Any:
        return self.scaled()


class Chain(Base):
    """Objects nested deeper than the recursion limit."""

    def set_up(self) -> None:
        self.chain = Pushing()
        last: Any = self.chain
        self.nested: list[Any] = []
        for _ in range(2_000):
            last.next = Pushing()
            last, self.nested = last.next, [self.nested]


SIBLINGS: dict[type[Base], set[str]] = {
    Parametrized: set(),
    Normalised: set(),
    Recurrent: set(),
    Attention: set(),
    Lazy: set(),
    Quantized: set(),
    Cycle: {"model.scales"},
    Count: {"model.count"},
    PythonGenerator: {"model.values"},
    Deque: {"model.last"},
    Containers: {"model.counts", "model.order", "model.seen", "model.bytes", "model.array"},
    Records: {"model.numbers.calls", "model.pair"},
    Staged: {"model.stage"},
    Closure: {"model.calls.calls"},
    Default: {"model.factor.seen"},
    Partial: {"model.increase"},
    Global: {"model.factor.CALLS", "model.factor.MEAN"},
    GlobalGenerator: set(),
    ClassNumber: {"model.steps"},
    Sparse: set(),
    Shuffling: set(),
    Cached: set(),
    Hooked: {"model.net._forward_hooks.calls"},
    HookedObject: {"model.net.0._forward_pre_hooks.calls"},
    OwnDropout: set(),
    OnlyCounts: {"model.calls"},
    FirstBatch: {"model.begun"},
    Before: {"model.before"},
    Switched: {"model.scaled"},
    Chain: set(),
}
"""More models; `OnlyCounts` is reported as harmless so far."""


class Rising(CrossEntropy):
    """Has weights that change with a count, an unsaved buffer, and a generator."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(()), persistent=False)
        self.drawn = random.Random(1)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.weight += 0.01
        return super().forward(outputs, targets) * self.weight * (1 + self.drawn.random() / 9)


class Scheduled(CrossEntropy):
    """Holds a schedule in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = [1.0]

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.weights.append(self.weights[-1] * 0.99)
        return super().forward(outputs, targets) * self.weights[-1]


class Lookahead(torch.optim.SGD):
    """Holds slow weights in an attribute."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.1)
        self.slow = [p.detach().clone() for p in self.param_groups[0]["params"]]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for slow, p in zip(self.slow, self.param_groups[0]["params"], strict=True):
            slow.lerp_(p, 0.5)
            p.copy_(slow)
        return loss


class Warm(torch.optim.lr_scheduler.LRScheduler):
    """Has attributes that its state_dict includes."""

    def __init__(self, optimizer: Any) -> None:
        self.factor, self.steps = 0.5, 0
        super().__init__(optimizer)

    def get_lr(self) -> Any:
        self.steps += 1
        self.factor += 0.03
        return [rate * self.factor for rate in self.base_lrs]


class Forgetful(Warm):
    """Omits one of them."""

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict().items() if name != "factor"}


def by_closure(optimizer: Any) -> Any:
    calls = counting()
    return Schedule(torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 + calls() / 50), "step")


class Repeating(Dataset[Any]):
    """Counts its calls, and returns another sample each time."""

    def __init__(self) -> None:
        self.asked = 0

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        self.asked += 1
        return torch.full((6,), index / 64 + self.asked / 1000), index % 3


class Drawing(Repeating):
    def __init__(self) -> None:
        self.drawn = np.random.RandomState(1)

    def __getitem__(self, index: int) -> Any:
        return torch.full((6,), index / 64) + float(self.drawn.normal()), index % 3


def drawing() -> Source:
    return Source("drawing", train=Drawing(), test=Drawing())


PARTS: dict[str, tuple[Callable[[], dict[str, Any]], set[str]]] = {
    "loss saved": (lambda: {"loss": Rising()}, set()),
    "loss": (lambda: {"loss": Scheduled()}, {"loss.weights"}),
    "optimizer": (lambda: {"optimizer": Lookahead}, {"optimizer.slow"}),
    "scheduler saved": (lambda: {"schedule": lambda o: Schedule(Warm(o), "step")}, set()),
    "scheduler": (lambda: {"schedule": lambda o: Schedule(Forgetful(o), "step")}, {"scheduler.factor"}),
    "lambda": (lambda: {"schedule": by_closure}, {"scheduler.lr_lambdas[0].calls.calls"}),
    "data": (
        lambda: {"splits": divided(Source("own", train=Repeating())), "in_memory": False}, {"data.asked"},
    ),
    "data saved": (lambda: {"splits": divided(Source("own", train=Drawing())), "in_memory": False}, set()),
    "workers": (
        lambda: {"splits": divided(Source("own", train=Repeating())), "in_memory": False, "num_workers": 2},
        {"data.asked"},
    ),
}  # fmt: skip
"""Other objects with state: how to create them, and the paths to report."""
