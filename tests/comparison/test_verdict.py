"""The verdict on configurations, and its words."""

import math

import numpy as np
import pytest
from scipy import stats

from helpers.repeated import ACCURACY, LOSS, paused, repeated, without
from helpers.simulated import Scene
from runner.comparison import paired
from runner.comparison.repetitions import Repetition, are_repeated
from runner.comparison.verdict import Outcome, Verdict, judge
from runner.comparison.verdict_text import describe, format_gap, summarize, to_table, to_text


def outcomes(verdict: Verdict) -> dict[str, str]:
    return {standing.name: str(standing.outcome) for standing in verdict.standings}


def words(verdict: Verdict) -> list[str]:
    return [line[11:] for line in to_text(verdict)]


class TestJudge:
    def test_the_best_is_the_configuration_with_the_best_mean(self) -> None:
        means = {"0.1": 0.9, "0.03": 0.95, "0.01": 0.5}
        verdict = judge(repeated(means, 5), ACCURACY)
        assert outcomes(verdict) == {"lr=0.03": "best", "lr=0.1": "worse", "lr=0.01": "worse"}
        assert list(outcomes(judge(repeated(means, 5), LOSS))) == ["lr=0.01", "lr=0.1", "lr=0.03"]

    def test_the_luckiest_seed_does_not_count(self) -> None:
        runs = without(repeated({"0.1": 0.9, "0.03": 0.93}, 5), "0.1", 2, 0.99)
        assert next(iter(outcomes(judge(runs, ACCURACY)))) == "lr=0.03"

    @pytest.mark.parametrize("objective", [ACCURACY, LOSS])
    def test_intervals_are_those_of_scipy_for_all_pairs(self, objective) -> None:
        runs = repeated({"a": 0.9, "b": 0.902, "c": 0.85}, 6)
        verdict = judge(runs, objective)
        best, other = verdict.standings[0], verdict.standings[1]
        sign = 1 if objective is ACCURACY else -1
        theirs = stats.ttest_rel(*(sign * np.array(list(each.values.values())) for each in (best, other)))
        assert verdict.pairs == 3
        np.testing.assert_allclose(other.gap.interval, theirs.confidence_interval(1 - 0.05 / 3))
        np.testing.assert_allclose(other.gap.plain_interval, theirs.confidence_interval())
        assert other.gap.p == pytest.approx(theirs.pvalue)
        assert other.gap.p_corrected == pytest.approx(min(1, 3 * theirs.pvalue))
        assert other.gap.difference > 0

    def test_words_and_simulated_decisions_are_the_same(self) -> None:
        scene = Scene(4, "normal", 0.8, "spread")
        values = scene.draw(np.random.default_rng(0), 40, 5)
        differences = np.take_along_axis(values, paired.choose_best(values)[:, None, None], axis=1) - values
        ends = paired.compare(differences, paired.level_of_pair(4), scale=9)
        for sweep, low in zip(values, ends.low, strict=True):
            runs = [Repetition({"x": str(i)}, str(j), value) for (i, j), value in np.ndenumerate(sweep)]
            found = {standing.point["x"]: standing.outcome for standing in judge(runs, ACCURACY).standings}
            for place, end in enumerate(low):
                expected = Outcome.BEST if np.isnan(end) else Outcome.WORSE if end > 0 else Outcome.UNDECIDED
                assert found[str(place)] is expected

    @pytest.mark.parametrize("value", [None, math.nan, math.inf])
    def test_one_with_fewer_values_than_seeds_is_shown_and_not_ranked(self, value: float | None) -> None:
        runs = without(repeated({"0.1": 0.99, "0.03": 0.95, "0.01": 0.5}, 5), "0.1", 3, value)
        verdict = judge(runs, ACCURACY)
        assert outcomes(verdict) == {"lr=0.03": "best", "lr=0.01": "worse", "lr=0.1": "not ranked"}
        last = verdict.standings[-1]
        assert (last.n, last.asked) == (4, 5) and last.mean == pytest.approx(0.99, abs=0.01)
        assert verdict.pairs == 1, "the interval is for the pairs of those that are ranked"

    def test_equal_differences_are_no_verdict_and_equal_values_identical(self) -> None:
        runs = repeated({"a": 0.75}, 5)
        runs += [Repetition({"optimizer.lr": "same"}, each.seed, each.value) for each in runs]
        runs += [Repetition({"optimizer.lr": "shifted"}, each.seed, each.value - 0.1) for each in runs[:5]]
        verdict = judge(runs, ACCURACY)
        assert outcomes(verdict) == {"lr=a": "best", "lr=same": "identical", "lr=shifted": "no verdict"}
        assert words(verdict)[1:] == [
            "identical to lr=same: the same value with each seed",
            "no verdict on lr=shifted: the difference is 0.1 with each seed, without a spread",
        ]

    @pytest.mark.parametrize(("seeds", "text"), [(1, "there is 1"), (2, "there are 2")])
    def test_fewer_than_three_seeds_rank_and_say_why_there_is_no_verdict(self, seeds: int, text: str) -> None:
        verdict = judge(repeated({"a": 0.9, "b": 0.8}, seeds), ACCURACY)
        assert outcomes(verdict) == {"lr=a": "best", "lr=b": "no verdict"}
        assert words(verdict)[1:] == [f"it is not known whether it is better: 3 seeds are needed, and {text}"]

    def test_without_a_complete_configuration_there_is_no_best(self) -> None:
        runs = without(without(repeated({"a": 0.9, "b": 0.8}, 5), "a", 0), "b", 1)
        verdict = judge(runs, ACCURACY)
        assert verdict.best is None and set(outcomes(verdict).values()) == {"not ranked"}
        assert words(verdict)[0] == "none: no configuration has a value for each of 5 seeds"

    def test_alone_a_configuration_has_its_mean(self) -> None:
        runs = repeated({"a": 0.9}, 3)
        verdict = judge(runs, ACCURACY)
        values = [each.value for each in runs]
        expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        assert verdict.standings[0].interval == pytest.approx(expected)
        (only,) = words(verdict)
        low, high = expected
        assert (
            only.startswith("the mean val/accuracy of the configuration is 0.9") and f"[{low:.3f}, {high:.3f}]" in only
        )
        head, line = to_table(verdict)
        assert head.split() == ["mean", "val/accuracy", "sd", "n", "95", "%", "interval"] and f"[{low:.3f}, " in line
        assert judge(runs[:1], ACCURACY).standings[0].interval is None

    def test_one_of_several_with_all_values_is_not_known_to_be_better(self) -> None:
        runs = without(repeated({"a": 0.9, "b": 0.8}, 3), "b", 1)
        alone = words(judge(runs, ACCURACY))
        assert alone[0].startswith("lr=a alone of 2 configurations has a value for each seed: mean val/accuracy 0.9")
        assert "no other configuration has a value for each seed" in alone[1]

    def test_the_best_is_so_among_those_that_are_ranked(self) -> None:
        runs = without(repeated({"a": 0.8, "b": 0.7, "c": 0.9}, 3), "c", 1)
        assert words(judge(runs, ACCURACY))[0].startswith(
            "lr=a has the best mean val/accuracy of 2 configurations with a value for each seed: 0.8"
        )

    @pytest.mark.parametrize(("ended", "compared"), [(1, 0), (2, 1), (3, 3)])
    def test_what_halving_has_paused_is_one_line(self, ended: int, compared: int) -> None:
        runs = paused(repeated({str(place): 0.9 - 0.1 * place for place in range(9)}, 3), ended)
        verdict = judge(runs, ACCURACY)
        assert list(outcomes(verdict).values())[ended:] == ["paused"] * (9 - ended) and verdict.pairs == compared
        lines = words(verdict)
        assert f"{ended if ended > 1 else 'lr=0 alone of 9'} configurations" in lines[0]
        assert sum("paused" in line for line in lines) == 1 and not any("not ranked" in line for line in lines)
        assert any(line.startswith(f"{9 - ended} configurations") and "seed 0 alone" in line for line in lines)
        assert not any("not known whether it is better" in line for line in lines)

    def test_a_paused_configuration_that_went_on_to_its_end_is_ranked(self) -> None:
        assert set(outcomes(judge(paused(repeated({"a": 0.9, "b": 0.8}, 3), 2), ACCURACY)).values()) == {
            "best",
            "worse",
        }

    @pytest.mark.parametrize("value", [1e200, -1e300, np.inf, np.nan])
    def test_a_value_that_is_too_large_to_square_is_missing(self, value: float) -> None:
        runs = without(repeated({"a": 0.1, "b": 0.2, "c": 0.3}, 4), "c", 2, value)
        for max_seeds in (None, 6):
            verdict = judge(runs, LOSS, max_seeds=max_seeds)
            (missing,) = verdict.unranked
            assert missing.n == 3 and missing.outcome == "not ranked" and missing.name == "lr=c"
            assert all("inf" not in line and "nan" not in line for line in words(verdict))

    def test_many_seeds_of_two_configurations_are_compared_by_sign_flips(self) -> None:
        assert judge(repeated({"a": 0.9, "b": 0.89}, 10), ACCURACY).sign_flip
        assert not judge(repeated({"a": 0.9, "b": 0.89}, 8), ACCURACY).sign_flip
        assert not judge(repeated({"a": 0.9, "b": 0.89, "c": 0.8}, 10), ACCURACY).sign_flip

    def test_seeds_in_stages_stop_a_configuration(self) -> None:
        runs = repeated({"a": 0.9, "b": 0.899, "c": 0.5}, 10)
        runs = [each for each in runs if "c" not in each.point.values() or int(each.seed) < 4]
        verdict = judge(runs, ACCURACY, max_seeds=10)
        assert outcomes(verdict) == {"lr=a": "best", "lr=b": "cannot be told", "lr=c": "not the best"}
        assert verdict.pairs == 3, "all that began are among those of which the best was chosen"
        assert 0.3 < (verdict.standings[-1].gap.at_least or 0) < 0.4
        assert words(verdict)[2].startswith(
            "lr=c is surely not the best: after 4 seeds it was behind by more than 0.39"
        )


class TestWords:
    def test_of_a_difference(self) -> None:
        runs = repeated({"0.1": 0.9, "0.03": 0.89}, 5)
        first, second = (np.array([each.value for each in part]) for part in (runs[:5], runs[5:]))
        interval = stats.ttest_rel(first, second).confidence_interval()
        assert words(judge(runs, ACCURACY))[:2] == [
            f"lr=0.1 has the best mean val/accuracy of 2 configurations: {first.mean():.4f} "
            f"(sd {first.std(ddof=1):.4f}, 5 seeds)",
            f"better than lr=0.03 by {(first - second).mean():.4f} [{interval.low:.4f}, {interval.high:.4f}]",
        ]

    def test_of_what_cannot_be_told(self) -> None:
        runs = repeated({"0.1": 0.9, "0.03": 0.8985}, 5)
        first, second = (np.array([each.value for each in part]) for part in (runs[:5], runs[5:]))
        low, high = stats.ttest_rel(first, second).confidence_interval()
        assert low < 0 < high
        needed = paired.pairs_needed(0.001, float((first - second).std(ddof=1)), 0.05)
        assert words(judge(runs, ACCURACY, smallest_difference=0.001))[1] == (
            f"cannot be told from lr=0.03 ({(first - second).mean():.4f} [{low:.4f}, {high:.4f}]); "
            f"about {needed} seeds would tell a difference of 0.001, by the spread of only 5 seeds"
        )
        assert judge(runs, ACCURACY).standings[1].gap.smallest == pytest.approx((high - low) / 2)

    def test_a_difference_that_would_have_been_seen_or_never_will(self) -> None:
        runs = repeated({"0.1": 0.9, "0.03": 0.8995}, 5)
        assert words(judge(runs, ACCURACY, smallest_difference=0.05))[1].endswith(
            "; 3 seeds would tell a difference of 0.05, by the spread of only 5 seeds"
        )
        tiny = words(judge(runs, ACCURACY, smallest_difference=1e-9))[1]
        assert tiny.endswith("; a difference of 1e-09 takes more than 100,000 seeds, by the spread of only 5 seeds")

    def test_more_seeds_are_asked_for_where_they_would_tell(self) -> None:
        close = repeated({"0.1": 0.9, "0.03": 0.8995, "0.01": 0.5}, 5)
        verdict = judge(close, ACCURACY, smallest_difference=0.0005)
        assert verdict.standings[1].outcome is Outcome.UNDECIDED
        assert verdict.seeds_to_tell == verdict.standings[1].gap.seeds_needed
        assert judge(close, ACCURACY, smallest_difference=0.1).seeds_to_tell is None, "there are enough"
        assert judge(close, ACCURACY, smallest_difference=1e-9).seeds_to_tell is None, "there are never enough"
        assert judge(repeated({"a": 0.9, "b": 0.5}, 5), ACCURACY).seeds_to_tell is None, "all is told"
        assert judge(repeated({"a": 0.9, "b": 0.5}, 2), ACCURACY).seeds_to_tell == 3
        assert judge(repeated({"a": 0.9}, 2), ACCURACY).seeds_to_tell is None

    @pytest.mark.parametrize("seeds", [5, 6])
    def test_how_many_seeds_is_little_known_from_fewer_than_six(self, seeds: int) -> None:
        verdict = judge(repeated({"0.1": 0.9, "0.03": 0.8999}, seeds), ACCURACY)
        assert verdict.standings[1].outcome is Outcome.UNDECIDED
        assert ("spread of only 5 seeds" in words(verdict)[1]) is (seeds == 5)

    @pytest.mark.parametrize(
        ("difference", "interval", "expected"),
        [
            (0.01234, (0.00812, 0.01643), ("0.012", "[0.008, 0.016]")),
            (0.00134, (-0.00412, 0.00643), ("0.001", "[-0.004, 0.006]")),
            (0.01234, (0.00004, 0.02464), ("0.01234", "[0.00004, 0.02464]")),
            (1234.5, (1000.2, 1468.8), ("1,234", "[1,000, 1,469]")),
            (2.1e-9, (1.5e-9, 2.7e-9), ("2.1e-09", "[1.5e-09, 2.7e-09]")),
        ],
    )
    def test_numbers_have_the_digits_that_the_interval_deserves(
        self, difference: float, interval: tuple[float, float], expected: tuple[str, str]
    ) -> None:
        from runner.comparison.verdict import Gap

        assert format_gap(Gap(difference, interval)) == expected

    def test_what_is_in_brackets_is_said(self) -> None:
        verdict = judge(repeated({"a": 0.9, "b": 0.89, "c": 0.88}, 5), ACCURACY)
        expected = "in brackets: 95 % intervals for all 3 pairs together, by the paired t test over 5 common seeds"
        assert words(verdict)[-1] == expected
        two = judge(repeated({"a": 0.9, "b": 0.89}, 10), ACCURACY)
        assert (
            words(two)[-1]
            == "in brackets: 95 % intervals of the difference, by the sign-flip test over 10 common seeds"
        )

    def test_many_configurations_are_counted(self) -> None:
        verdict = judge(repeated({str(i): 0.9 - 0.01 * i for i in range(50)}, 3), ACCURACY)
        assert "... and 29 more: see verdict.csv" in summarize(verdict)
        assert to_table(verdict)[-1] == "... and 10 more: see verdict.csv"

    def test_names_are_as_short_as_they_differ(self) -> None:
        points = [{"optimizer.lr": "1", "data": "d"}, {"optimizer.lr": "2", "scheduler.lr": "3", "data": "d"}]
        runs = [Repetition(point, "0", 0.5) for point in points]
        names = [standing.name for standing in judge(runs, ACCURACY).standings]
        assert names == ["optimizer.lr=1", "optimizer.lr=2 scheduler.lr=3"]

    def test_the_best_has_no_sentence_of_its_own(self) -> None:
        verdict = judge(repeated({"a": 0.9, "b": 0.8}, 3), ACCURACY)
        assert describe(verdict.standings[0], verdict) == ""


def test_repetitions_are_runs_that_differ_in_their_seed_alone() -> None:
    assert are_repeated(repeated({"a": 1, "b": 2}, 2))
    assert not are_repeated(repeated({"a": 1, "b": 2}, 1))
