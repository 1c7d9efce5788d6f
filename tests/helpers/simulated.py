"""Sweeps whose true means are known, many at once, and how often the statistics are right about them."""

from dataclasses import dataclass
from itertools import product

import numpy as np

from runner.comparison import paired, sequential
from runner.comparison.paired import Floats

CONFIGURATIONS, SEEDS = (2, 5, 10, 20), (3, 5, 10)
SHAPES = ("normal", "skewed", "rounded", "uneven")
CORRELATIONS = (0.0, 0.8)
MEANS = ("equal", "one ahead", "spread")
MAX_SEEDS = 10


@dataclass(frozen=True)
class Scene:
    """A kind of sweep; a value of a configuration has the standard deviation 1 over seeds.

    Attributes:
        configurations: how many.
        shape: `normal`; `skewed`: exponential; `rounded`: to halves of a standard deviation; `uneven`: normal, with
            standard deviations from 1 to 4.
        correlation: of two configurations over the seeds.
        means: all `equal`; `one ahead` of the others by 1; `spread` evenly over 2; `far ahead`: one is ahead of the
            next by two standard deviations of a pair, and the others are spread over two.
    """

    configurations: int
    shape: str
    correlation: float
    means: str

    @property
    def true(self) -> Floats:
        others = self.configurations - 1
        if self.means == "far ahead":
            pair = np.sqrt(2 * (1 - self.correlation))
            return np.array([0.0, *(-pair * np.linspace(2, 4, others))])
        if self.means == "spread":
            return -np.linspace(0, 2, self.configurations)
        return np.array([0.0] + [-1.0 if self.means == "one ahead" else 0.0] * others)

    def draw(self, rng: np.random.Generator, sweeps: int, seeds: int) -> Floats:
        """Draw values (sweeps, configurations, seeds)."""

        def noise(*shape: int) -> Floats:
            return rng.standard_exponential(shape) - 1 if self.shape == "skewed" else rng.standard_normal(shape)

        own = noise(sweeps, self.configurations, seeds) * np.sqrt(1 - self.correlation)
        values = own + noise(sweeps, 1, seeds) * np.sqrt(self.correlation)
        if self.shape == "uneven":
            values *= np.geomspace(1, 4, self.configurations)[:, None]
        values += self.true[:, None]
        return np.round(2 * values) / 2 if self.shape == "rounded" else values


@dataclass(frozen=True)
class Rates:
    """Shares of sweeps.

    Attributes:
        plain: in which the uncorrected interval of a pair fixed in advance covers the true difference.
        simultaneous: in which all simultaneous intervals of the chosen best do.
        false: in which the best is called better than one that is as good.
    """

    plain: float
    simultaneous: float
    false: float


def scenes(*configurations: int) -> list[Scene]:
    return [Scene(*each) for each in product(configurations, SHAPES, CORRELATIONS, MEANS)]


def rates(scene: Scene, seeds: int, sweeps: int, rng: np.random.Generator) -> Rates:
    """Judge sweeps of one scene with a fixed number of seeds, as `verdict.judge` does."""
    values, true = scene.draw(rng, sweeps, seeds), scene.true
    level = paired.level_of_pair(scene.configurations)
    fixed = paired.compare(values[:, 0] - values[:, 1], level, scale=np.abs(values).max())
    known = np.isfinite(fixed.plain_low)
    plain = _covers(fixed.plain_low, fixed.plain_high, true[0] - true[1])[known].mean()
    best = paired.choose_best(values)
    differences = np.take_along_axis(values, best[:, None, None], axis=1) - values
    compared = paired.compare(differences, level, scale=np.abs(values).max())
    gaps = true[best][:, None] - true
    right = _covers(compared.low, compared.high, gaps) | np.isnan(compared.low)
    false = (compared.low > 0) & (gaps <= 0)
    return Rates(float(plain), float(right.all(axis=1).mean()), float(false.any(axis=1).mean()))


def _covers(low: Floats, high: Floats, true: Floats | float) -> np.ndarray:
    return (low - 1e-9 <= true) & (true <= high + 1e-9)


def sequential_rates(scene: Scene, sweeps: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return the share of the jobs of ten fixed seeds that were run, and of sweeps that have lost the truly best."""
    plan = sequential.plan_seeds(scene.draw(rng, sweeps, MAX_SEEDS), MAX_SEEDS)
    return float(plan.seeds.mean() / MAX_SEEDS), float(plan.stopped[:, 0].mean())
