"""A verdict as a paragraph for a paper: data, splits, seeds, method, hardware, versions."""

from collections.abc import Mapping, Sequence

from runner.comparison import paired, sequential
from runner.comparison.repetitions import varied_keys
from runner.comparison.setting import Setting
from runner.comparison.verdict import Verdict
from runner.comparison.verdict_text import CONFIDENCE, describe_mean_interval, format_mean, format_spread, summarize

MOST_NAMED = 10
"""Values of a parameter, or seeds, that are named."""


def to_markdown(verdict: Verdict, setting: Setting) -> str:
    """Return a paragraph for a paper, below the verdict in sentences."""
    lines = "\n".join(f"- {line}" for line in summarize(verdict))
    paragraph = " ".join(
        filter(None, [*_sentences(verdict, setting), *_method(verdict), *_looks(verdict), *_computed(setting)])
    )
    return f"# Verdict on {verdict.objective.metric}\n\n{lines}\n\n{paragraph}\n"


def _sentences(verdict: Verdict, setting: Setting) -> list[str]:
    """Return what was trained, and the best."""
    objective, best = verdict.objective, verdict.best
    axes = _axes([standing.point for standing in verdict.standings])
    count = len(verdict.standings)
    data = f" on {setting.data}" if setting.data else ""
    sizes = f" ({setting.sizes} samples)" if setting.sizes else ""
    found = [
        f"We trained {count} configuration{'s' * (count > 1)}{axes}{data}{sizes} {_count_seeds(verdict)}.",
        setting.training,
        setting.split,
        f"{'Its value is' if verdict.is_alone else 'They are compared by'} the mean of {objective.metric} over the "
        f"seeds, {'higher' if objective.direction == 'max' else 'lower'} is better.",
    ]
    if objective.metric.startswith(("val/", "test/")):
        found.append(setting.epoch)
    if objective.metric.startswith("test/"):
        found.append("The best is chosen by the test part, so its own value is optimistic.")
    if best is not None:
        figures = f"{format_mean(best)} (n = {best.n}{f', sd {format_spread(best.sd)}' if best.sd is not None else ''})"
        alone = f"The mean is {figures}{describe_mean_interval(best)}, by Student's t."
        found.append(alone if verdict.is_alone else f"The best mean is that of {best.name}: {figures}.")
    return [*found, _name_unranked(verdict)]


def _name_unranked(verdict: Verdict) -> str:
    """Return which configurations lack values: diverged, failed, stopped or not run."""
    lacking = [f"{standing.name} ({standing.n} of {standing.asked})" for standing in verdict.unranked]
    more = f" and {len(lacking) - MOST_NAMED} more" if len(lacking) > MOST_NAMED else ""
    return (
        f"Not ranked, without a finite value for each seed: {', '.join(lacking[:MOST_NAMED])}{more}." if lacking else ""
    )


def _count_seeds(verdict: Verdict) -> str:
    """Return `with 5 seeds each (0, 1, 2, 3, 4)`, `with 4 to 10 seeds each`, and what halving has trained."""
    counts = [standing.asked for standing in verdict.standings]
    low, high = min(counts), max(counts)
    listed = f" ({', '.join(verdict.seeds)})" if len(verdict.seeds) <= MOST_NAMED else ""
    if verdict.paused:
        return f"by successive halving with one seed ({verdict.seeds[0]}). {_describe_halving(verdict, high, listed)}"
    each = "" if verdict.is_alone else " each"
    return f"with {high if low == high else f'{low} to {high}'} seed{'s' * (high != 1)}{each}{listed}"


def _describe_halving(verdict: Verdict, seeds: int, listed: str) -> str:
    others = len(verdict.standings) - verdict.paused
    if not others:
        return "All of them are paused"
    which = f"the other {others} were" if others > 1 else "the other one was"
    paused = f"It paused {verdict.paused} of them by the value with this seed alone"
    return f"{paused}; {which} trained with {seeds} seeds{listed}"


def _axes(points: Sequence[Mapping[str, str]]) -> str:
    """Return ` (lr: 0.1, 0.03; model: mlp, cnn)`."""
    values = {key: list(dict.fromkeys(point.get(key, "none") for point in points)) for key in varied_keys(points)}
    listed = [
        f"{key}: {', '.join(each)}" if len(each) <= MOST_NAMED else f"{key}: {len(each)} values"
        for key, each in values.items()
    ]
    return f" ({'; '.join(listed)})" if listed else ""


def _method(verdict: Verdict) -> list[str]:
    """Return how configurations were compared."""
    found = []
    if any(standing.gap.interval for standing in verdict.standings):
        test = "sign-flip tests" if verdict.sign_flip else "paired t tests"
        found.append(
            f"Differences to the best are paired by seed; their {CONFIDENCE} intervals are those of two-sided {test}."
        )
        if verdict.pairs > 1:
            found.append(
                "As the best was chosen by the same data, the intervals are simultaneous for all "
                f"{verdict.pairs:,} pairs of {verdict.compared} configurations (Bonferroni)."
            )
    elif verdict.reason and not verdict.is_alone:
        found.append(f"No differences are tested: {verdict.reason}.")
    if verdict.max_seeds is not None:
        stages = ", ".join(map(str, sequential.looks(verdict.max_seeds)))
        found.append(
            f"Seeds came in stages, at most {stages} in all. A configuration that was surely not the best got no more: "
            f"one-sided paired t tests, {100 * paired.ERROR:g} % divided over the other configurations, and over the "
            "stages by alpha spending (Lan and DeMets 1983, the function that approximates Pocock's boundary)."
        )
    return found


def _looks(verdict: Verdict) -> list[str]:
    """Return how often the test part has decided for a registered model."""
    last = {look.model: look for look in verdict.looks}.values()
    return [
        f"The test part has decided {_times(look.looks)} which version of {look.model} is its champion; "
        f"{_times(look.champions)} it was a new one."
        for look in last
    ]


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _computed(setting: Setting) -> list[str]:
    found = []
    if setting.hardware or setting.computing:
        found.append(f"Computed on {': '.join(filter(None, [setting.hardware, setting.computing]))}.")
    if setting.versions:
        found.append(f"Versions: {setting.versions}.")
    return found
