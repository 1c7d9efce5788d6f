"""Which jobs go on at which rung, and real sweeps that pause, are killed and are resumed."""

import itertools
import json
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

import pytest

from conftest import Called
from helpers.composed import trained
from helpers.killed import assert_ended_the_same
from helpers.sweeping import Forked, results, sweep_folder, table, wait_for
from helpers.training import Log
from runner.comparison.objectives import Objective
from runner.errors import ConfigError
from runner.rundir import layout
from runner.rundir.journal import Journal
from runner.sweeps.jobs import JobOutcome
from runner.sweeps.plan.halving import Halving, rungs_between
from runner.sweeps.results.outcome import judge
from runner.tracking.store import connect, local_uri

Runner = Callable[..., Called]
LOSS = Objective("val/loss", "min")


class Simulated:
    """Jobs whose losses are known, and which end in a random order.

    Args:
        folder: of the sweep.
        losses: of each epoch, by job.
        order: chooses which job ends next.
    """

    def __init__(
        self, folder: Path, losses: list[list[float]], order: random.Random, slots: int = 4, seeds: int = 1
    ) -> None:
        self.folder, self.losses, self.order, self.slots, self.seeds = folder, losses, order, slots, seeds
        self.done = dict.fromkeys(range(len(losses)), 0)
        self.epochs = 0
        self.asked: list[tuple[int, int]] = []

    def run(
        self, halving: Halving, most: float = float("inf"), again: Sequence[int] = (), followed: Sequence[int] = ()
    ) -> bool:
        """Train until halving has nothing left, or so many jobs have ended; return whether it has nothing left."""
        first = list(self.done)[:: self.seeds]
        others = {number: list(range(number + 1, number + self.seeds)) for number in first}
        halving.open(self.folder, LOSS, first, others, again, followed)
        running: dict[int, int | None] = {}
        for ended in itertools.count():
            while len(running) < self.slots and (number := halving.next()) is not None:
                running[number] = halving.pause_after(number)
                self.asked.append((number, running[number] or halving.rungs[-1]))
            if not running:
                assert (halving.is_over and halving.starts_left == 0) or halving.asynchronous
                return True
            if ended >= most:  # killed: those that run have no result
                for number in running:
                    (self.folder / str(number) / layout.RESULT).unlink(missing_ok=True)
                return False
            number = self.order.choice(list(running))
            halving.tell(number, self.end(number, running.pop(number) or halving.rungs[-1]))
        raise AssertionError

    def end(self, number: int, epoch: int) -> JobOutcome:
        """Train a job up to an epoch, and write its folder."""
        job = self.folder / str(number)
        job.mkdir(exist_ok=True)
        writer = Journal(job / layout.JOURNAL)
        for at in range(self.done[number], epoch):
            writer.write({"val/loss": self.losses[number][at]}, at + 1)
        writer.close()
        self.epochs += epoch - self.done[number]
        self.done[number] = epoch
        status = "FINISHED" if epoch == len(self.losses[number]) else "PAUSED"
        (job / layout.RESULT).write_text(json.dumps({"status": status, "epochs": epoch}))
        return JobOutcome(status, "", 1.0)


def curves(jobs: int, epochs: int, seed: int) -> list[list[float]]:
    """Return noisy curves that fall, to another end for each job."""
    draw = random.Random(seed)
    ends = [draw.random() for _ in range(jobs)]
    return [[end + 1 / (epoch + 1) + draw.gauss(0, 0.1) for epoch in range(epochs)] for end in ends]


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Path]:
    """Yield new folders."""
    return (path for number in itertools.count() if not (path := tmp_path / str(number)).mkdir())


def new(asynchronous: bool = False) -> Halving:
    return Halving(3, rungs_between(1, 27, 3), asynchronous)


class TestDecisions:
    def test_the_rungs(self) -> None:
        assert rungs_between(1, 27, 3) == [1, 3, 9, 27]
        assert rungs_between(2, 30, 2) == [2, 4, 8, 16, 30]
        assert rungs_between(1, 3, 3) == [1, 3]

    @pytest.mark.parametrize(
        ("jobs", "text"),
        [
            (27, "27 jobs to epoch 1, 9 to 3, 3 to 9, 1 to 27: 81 epochs instead of 729"),
            (3, "3 jobs to epoch 1, 1 to 27: 29 epochs instead of 81"),
        ],
    )
    def test_what_is_trained_is_said_before(self, jobs: int, text: str) -> None:
        assert new().describe(jobs) == text

    def test_81_epochs_for_27_jobs_and_the_same_ones_whatever_ends_first(self, places: Iterator[Path]) -> None:
        losses = curves(27, 27, seed=1)
        ends = []
        for seed in range(5):
            simulated = Simulated(next(places), losses, random.Random(seed), slots=1 + seed)
            assert simulated.run(new())
            assert simulated.epochs == 81 and len(simulated.asked) == 40
            ends.append(simulated.done)
        assert all(end == ends[0] for end in ends)
        assert sorted(ends[0].values()) == [1] * 18 + [3] * 6 + [9] * 2 + [27]
        best = sorted(range(27), key=lambda job: losses[job][0])[:9]
        assert {job for job, epochs in ends[0].items() if epochs > 1} == set(best)

    def test_the_value_is_the_best_so_far(self, places: Iterator[Path]) -> None:
        losses = [[0.1, *[2.0] * 8], [0.2, *[0.15] * 8], *[[0.9] * 9 for _ in range(7)]]
        simulated = Simulated(next(places), losses, random.Random(0))
        assert simulated.run(Halving(3, rungs_between(1, 9, 3)))
        assert simulated.done[0] == 9, "its first epoch was better than all others"

    def test_a_killed_one_ends_the_same(self, places: Iterator[Path]) -> None:
        losses = curves(27, 27, seed=2)
        whole = Simulated(next(places), losses, random.Random(0))
        assert whole.run(new())
        for seed in range(20):
            simulated = Simulated(next(places), losses, random.Random(seed))
            kills = 0
            while not simulated.run(new(), most=simulated.order.randrange(1, 15)):
                kills += 1
            assert simulated.done == whole.done and kills >= 2

    def test_asynchronously_at_most_half_as_many_more(self, places: Iterator[Path]) -> None:
        for seed in range(20):
            simulated = Simulated(next(places), curves(27, 27, seed), random.Random(seed), slots=1 + seed % 5)
            assert simulated.run(new(asynchronous=True))
            assert simulated.epochs <= 1.5 * 81 and 27 in simulated.done.values()

    @pytest.mark.parametrize(("jobs", "eta", "most"), [(9, 3, 27), (5, 2, 16), (16, 4, 40), (3, 3, 27)])
    def test_asynchronously_at_most_half_as_many_epochs_more(
        self, places: Iterator[Path], jobs: int, eta: int, most: int
    ) -> None:
        for seed in range(20):
            draw = random.Random(seed)
            losses = sorted(curves(jobs, most, seed), reverse=True)  # the worst start first
            simulated = Simulated(next(places), losses, draw, slots=1 + seed % 3)
            halving = Halving(eta, rungs_between(1, most, eta), asynchronous=True)
            assert simulated.run(halving)
            whole = Simulated(next(places), losses, draw)
            assert whole.run(Halving(eta, rungs_between(1, most, eta)))
            assert simulated.epochs <= 1.5 * whole.epochs and most in simulated.done.values()

    def test_asynchronously_a_job_goes_on_before_all_have_started(self, places: Iterator[Path]) -> None:
        simulated = Simulated(next(places), curves(27, 27, seed=3), random.Random(0), slots=2)
        assert simulated.run(new(asynchronous=True))
        first = next(place for place, (_, epoch) in enumerate(simulated.asked) if epoch > 1)
        assert first < 10 and any(epoch == 1 for _, epoch in simulated.asked[first:])

    def test_a_few_jobs_have_a_winner_asynchronously_too(self, places: Iterator[Path]) -> None:
        simulated = Simulated(next(places), curves(4, 27, seed=0), random.Random(0))
        assert simulated.run(new(asynchronous=True))
        assert sorted(simulated.done.values())[-1] == 27

    @pytest.mark.parametrize("asynchronous", [False, True])
    def test_others_do_not_wait_for_one_that_fails(self, places: Iterator[Path], asynchronous: bool) -> None:
        halving = new(asynchronous)
        simulated = Simulated(next(places), curves(9, 27, seed=0), random.Random(0))
        end = simulated.end
        best = min(range(9), key=lambda job: simulated.losses[job][0])

        def fail(number: int, epoch: int) -> JobOutcome:
            return JobOutcome("FAILED", "out of memory", 1.0) if number == best else end(number, epoch)

        simulated.end = fail  # type: ignore[method-assign]
        assert simulated.run(halving)
        assert simulated.done[best] == 0 and 27 in simulated.done.values()
        assert [number for number, _ in simulated.asked].count(best) == 1

    @pytest.mark.parametrize("asynchronous", [False, True])
    def test_if_all_that_went_on_fail_the_next_best_one_does(self, places: Iterator[Path], asynchronous: bool) -> None:
        simulated = Simulated(next(places), curves(9, 27, seed=0), random.Random(0))
        end, failed = simulated.end, list[int]()

        def fail(number: int, epoch: int) -> JobOutcome:
            if epoch < 27 or failed:
                return end(number, epoch)
            failed.append(number)
            return JobOutcome("FAILED", "train/loss is nan", 1.0)

        simulated.end = fail  # type: ignore[method-assign]
        assert simulated.run(new(asynchronous))
        (last,) = [number for number, epochs in simulated.done.items() if epochs == 27]
        assert failed and failed != [last]

    def test_a_resume_tries_those_again_that_failed_and_the_best_is_that_of_a_sweep_without_failures(
        self, places: Iterator[Path]
    ) -> None:
        losses = curves(9, 27, seed=0)
        whole = Simulated(next(places), losses, random.Random(0))
        assert whole.run(new())
        (best,) = [number for number, epochs in whole.done.items() if epochs == 27]
        for rung in (1, 3, 27):
            simulated = Simulated(next(places), losses, random.Random(0))
            end = simulated.end

            def fail(
                number: int, epoch: int, end: Callable[[int, int], JobOutcome] = end, at: int = rung
            ) -> JobOutcome:
                return JobOutcome("FAILED", "", 1.0) if (number, epoch) == (best, at) else end(number, epoch)

            simulated.end = fail  # type: ignore[method-assign]
            assert simulated.run(new())
            other = max(simulated.done, key=simulated.done.__getitem__)
            assert simulated.done[other] == 27 and other != best
            simulated.end = end  # type: ignore[method-assign]
            shutil.rmtree(simulated.folder / str(best), ignore_errors=True)  # the attempt moves away
            simulated.done[best] = 0
            assert simulated.run(new(), again=[best])
            assert simulated.done[best] == 27
            assert all(simulated.done[number] >= epochs for number, epochs in whole.done.items())

    def test_those_that_a_cluster_still_runs_come_first_and_count_by_what_they_have_trained(
        self, places: Iterator[Path]
    ) -> None:
        losses = curves(9, 27, seed=0)
        simulated = Simulated(next(places), losses, random.Random(0), slots=1)
        assert not simulated.run(new(), most=10)  # the first of the second rung has ended
        best = sorted(range(9), key=lambda job: losses[job][0])[:3]
        (still,) = [number for number in best if simulated.done[number] < 3][:1]
        simulated.asked.clear()
        halving = new()
        halving.open(simulated.folder, LOSS, range(9), followed=[still])
        assert halving.next() == still and halving.pause_after(still) == 3
        assert simulated.run(new(), followed=[still]) and simulated.asked[0] == (still, 3)
        assert sorted(simulated.done.values()) == [1] * 6 + [3] * 2 + [27]
        paused = JobOutcome("PAUSED", "", 1.0)
        again = new()
        again.open(simulated.folder, LOSS, range(9), followed=[8])
        assert again.next() == 8
        again.tell(8, paused)
        assert 8 not in again._reached[-1], "it has not trained more than its folder says"

    def test_one_that_ended_early_counts_at_all_rungs(self, places: Iterator[Path]) -> None:
        losses = curves(9, 27, seed=0)
        best = min(range(9), key=lambda job: losses[job][0])
        losses[best] = losses[best][:1]  # its patience was exhausted after the first epoch
        simulated = Simulated(next(places), losses, random.Random(0))
        assert simulated.run(new())
        assert simulated.asked.count((best, 1)) == 1 and not any(n == best and e > 1 for n, e in simulated.asked)

    @pytest.mark.parametrize("asynchronous", [False, True])
    def test_other_seeds_train_only_where_the_first_one_reaches_the_last_rung(
        self, places: Iterator[Path], asynchronous: bool
    ) -> None:
        losses = [curve for curve in curves(9, 27, seed=0) for _ in range(3)]
        whole = Simulated(next(places), losses, random.Random(0), seeds=3)
        assert whole.run(new(asynchronous))
        ends = [number for number in range(0, 27, 3) if whole.done[number] == 27]
        assert [n for n in range(27) if n % 3 and whole.done[n]] == [n + more for n in ends for more in (1, 2)]
        assert all(whole.done[n + more] == 27 for n in ends for more in (1, 2))
        if asynchronous:
            return
        assert len(ends) == 1 and whole.epochs == 9 + 6 + 24 + 2 * 27
        assert new().describe(9, 3).endswith("2 more to 27 with other seeds: 93 epochs instead of 729")
        again = Simulated(next(places), losses, random.Random(1), seeds=3)
        while not again.run(new(), most=again.order.randrange(1, 6)):
            pass
        assert again.done == whole.done

    def test_extended_all_go_on_to_the_end(self, places: Iterator[Path]) -> None:
        simulated = Simulated(next(places), curves(9, 27, seed=0), random.Random(0))
        assert simulated.run(new())
        halving = new()
        halving.resume(simulated.folder, all_go_on=True, has_new=False)
        assert not simulated.run(halving, most=2)
        halving = new()
        halving.resume(simulated.folder, all_go_on=False, has_new=False)  # resumed without sweep.extend
        assert simulated.run(halving)
        assert set(simulated.done.values()) == {27}

    def test_a_job_that_is_killed_once_it_has_paused_has_paused(self, tmp_path: Path) -> None:
        (tmp_path / layout.RESULT).write_text(json.dumps({"status": "PAUSED", "epochs": 3}))
        for code, pause_after, status in (
            (0, 3, "PAUSED"), (-9, 3, "PAUSED"), (None, 3, "PAUSED"), (-9, 9, "KILLED"),
            (1, 9, "FAILED"), (1, None, "FAILED"),
        ):  # fmt: skip
            assert judge(tmp_path, code, "", 1.0, pause_after).status == status

    def test_other_rungs_are_refused_at_a_resume(self, places: Iterator[Path]) -> None:
        simulated = Simulated(folder := next(places), curves(9, 27, seed=0), random.Random(0))
        simulated.run(new(), most=3)
        new().resume(folder, all_go_on=False, has_new=False)
        with pytest.raises(ConfigError, match="eta"):
            Halving(2, rungs_between(1, 27, 2)).resume(folder, all_go_on=False, has_new=False)


SWEEP = ("--multirun", "hydra/sweeper=halving", "hydra.sweeper.max_epochs=4", "hydra.sweeper.eta=2")


class TestRealSweeps:
    def test_the_best_one_is_what_it_would_have_been_without_a_pause(self, runner: Runner, here: Path) -> None:
        small = ("tracking=off", "data.limit=200", "model.hidden=[8]")
        assert runner("-m", *SWEEP[1:], "hydra.sweeper.max_epochs=2", "optimizer.lr=0.1,0.01", *small).code == 0
        ended = results(folder := sweep_folder(here))
        assert {n: (result["status"], result["epochs"]) for n, result in ended.items()} == {
            0: ("FINISHED", 2), 1: ("PAUSED", 1),
        }  # fmt: skip
        assert "test/loss" in ended[0] and "test/loss" not in ended[1]
        assert runner("optimizer.lr=0.1", "trainer.epochs=2", "hydra.run.dir=whole", *small).code == 0
        assert_ended_the_same(folder / "0", here / "whole")

    def test_a_resume_tries_a_failed_job_again_and_finds_the_points_of_a_sampler_without_a_seed(
        self, runner: Runner, here: Path
    ) -> None:
        drawn = ("+hydra.sweeper.sampler._target_=optuna.samplers.RandomSampler", "hydra.sweeper.n_trials=2")
        axis = "optimizer.lr=tag(log,interval(1e29,1e30))"
        assert runner(*SWEEP, axis, *drawn, "data.limit=200", "tracking=off").code == 1
        called = runner("--multirun", f"sweep.resume={sweep_folder(here)}")
        assert called.code == 1 and "\nresume " in called.err
        assert {path.name for path in sweep_folder(here).glob("failed_attempts/*")} == {"0_1", "1_1"}

    @pytest.mark.soak
    def test_killed_and_resumed_it_ends_like_runs_that_never_paused(self, tmp_path: Path) -> None:
        axes = ("optimizer.lr=0.1,0.01,0.3,0.03", "data.limit=400", "tracking.log_model=false")
        sweep = Forked(tmp_path, *SWEEP, *axes)
        wait_for(lambda: '"PAUSED"' in "".join(p.read_text() for p in tmp_path.glob("outputs/sweeps/*/*/result.json")))
        sweep.send_signal(signal.SIGKILL)
        sweep.wait()
        folder = sweep_folder(tmp_path)
        again = Forked(tmp_path, "--multirun", f"sweep.resume={folder}")
        code, printed = again.wait(200)
        assert code == 0, printed
        rows = {row["job"]: row for row in table(folder)["jobs"]}
        assert sorted(row["status"] for row in rows.values()) == ["FINISHED", "PAUSED", "PAUSED", "PAUSED"]
        ended = results(folder)
        assert sorted(result["epochs"] for result in ended.values()) == [1, 1, 2, 4]
        (best,) = [number for number, result in ended.items() if result["status"] == "FINISHED"]
        paused = next(number for number, result in ended.items() if result["epochs"] == 2)
        assert "test/loss" in ended[best] and "test/loss" not in ended[paused]
        assert not (folder / str(paused) / layout.PLOTS).exists()
        client = connect(local_uri(tmp_path / "outputs"))
        runs = {number: client.get_run(result["run_id"]) for number, result in ended.items()}
        assert runs[best].info.status == "FINISHED" and "paused" not in runs[best].data.tags
        assert runs[paused].info.status == "KILLED" and runs[paused].data.tags["paused"] == "after epoch 2 of 4"
        # The best one, and one that goes on alone, are what they would have been without a pause.
        assert Forked(tmp_path, f"resume={folder / str(paused)}").wait(100)[0] == 0
        for number in (best, paused):
            lr = rows[number]["optimizer.lr"]
            whole = (f"optimizer.lr={lr}", "trainer.epochs=4", f"hydra.run.dir={tmp_path}/whole{number}")
            assert Forked(tmp_path, *whole, *axes[1:]).wait(100)[0] == 0
            assert_ended_the_same(folder / str(number), tmp_path / f"whole{number}")

    @pytest.mark.soak
    def test_81_epochs_whenever_it_is_killed(self, tmp_path: Path) -> None:
        axes = (
            "optimizer.lr=0.3,0.1,0.03", "data.batch_size=16,32,64", "optimizer.momentum=0,0.5,0.9", "data.limit=400",
            "tracking=off",
        )  # fmt: skip
        tables = []
        for seed in range(3):
            here, draw = tmp_path / str(seed), random.Random(seed)
            here.mkdir()
            sweep = Forked(here, "--multirun", "hydra/sweeper=halving", *axes)
            for _ in range(3 * (seed > 0)):
                wait_for(lambda here=here: list(here.glob("outputs/sweeps/*/halving.json")))
                time.sleep(draw.uniform(0.5, 3))
                sweep.send_signal(signal.SIGKILL)
                sweep.wait()
                sweep = Forked(here, "--multirun", f"sweep.resume={sweep_folder(here)}")
            code, printed = sweep.wait(300)
            assert code == 0, printed
            ended = results(sweep_folder(here))
            assert sum(result["epochs"] for result in ended.values()) == 81
            tables.append({n: (r["status"], r["epochs"], r["val/loss"]) for n, r in ended.items()})
        assert tables[0] == tables[1] == tables[2]

    @pytest.mark.soak
    def test_the_winner_is_as_good_as_that_of_the_whole_grid(self, places: Iterator[Path]) -> None:
        """Curves of real runs: a job that goes on is the run that never paused."""
        points = list(itertools.product((0.5, 0.1, 0.02), (16, 64, 256), (0.0, 0.5, 0.9)))
        by_point: list[list[list[float]]] = [[] for _ in points]
        for seed, (place, (lr, size, momentum)) in itertools.product(range(20), enumerate(points)):
            typed = (f"optimizer.lr={lr}", f"data.batch_size={size}", f"optimizer.momentum={momentum}", f"seed={seed}")
            state = trained(next(places), *typed, "trainer.epochs=27", "data.limit=600", "device.threads=1")
            assert isinstance(state.log, Log)
            by_point[place].append([loss for _, loss in sorted(state.log.of("val/loss").items())])
        means = [mean(min(curve) for curve in curves) for curves in by_point]
        whole = min(range(27), key=means.__getitem__)
        limit = means[whole] + stdev(min(curve) for curve in by_point[whole])
        good = 0
        for seed in range(20):
            simulated = Simulated(next(places), [curves[seed] for curves in by_point], random.Random(seed))
            assert simulated.run(new()) and simulated.epochs == 81
            good += means[next(job for job, epochs in simulated.done.items() if epochs == 27)] <= limit
        print(f"within one standard deviation of the whole grid's winner: {good} of 20")
        assert good >= 18

    def test_a_dry_run_says_what_is_trained(self, runner: Runner, here: Path) -> None:
        called = runner(*SWEEP, "optimizer.lr=0.1,0.01,0.3,0.03", "sweep.dry_run=true")
        assert called.code == 0 and "4 jobs to epoch 1, 2 to 2, 1 to 4: 8 epochs instead of 16" in called.err

    @pytest.mark.parametrize(
        ("typed", "key", "topic"),
        [
            ("trainer.epochs=5", "trainer.epochs", "conflict"),
            ("trainer.epochs=4,8", "trainer.epochs", "conflict"),
            ("pair=zip(trainer.epochs=[4,8],data.batch_size=[8,16])", "trainer.epochs", "conflict"),
            ("hydra.sweeper.params={trainer.epochs: '4,8'}", "trainer.epochs", "conflict"),
            ("data.val_fraction=0", "sweep.metric", "conflict"),
            ("hydra.sweeper.eta=1", "hydra.sweeper.eta", "range"),
            ("hydra.sweeper.min_epochs=3", "hydra.sweeper.max_epochs", "range"),
            ("hydra.sweeper.asynchronous=maybe", "hydra.sweeper.asynchronous", "type"),
            ("sweep.metric=test/loss", "sweep.metric", "conflict"),
            ("sweep.metric=[val/loss,val/accuracy]", "sweep.metric", "conflict"),
            ("trainer.validate_every_epochs=2", "hydra.sweeper.min_epochs", "conflict"),
            ("data.batch_size=interval(1,9)", "hydra.sweeper.n_trials", "missing"),
            ("hydra/sweeper/sampler=tpe", "hydra.sweeper.n_trials", "missing"),
        ],
    )
    def test_wrong_settings(self, runner: Runner, here: Path, typed: str, key: str, topic: str) -> None:
        called = runner(*SWEEP, "optimizer.lr=0.1,0.01,0.3", typed)
        assert called.code == 2 and called.about == [(key, topic)]

    def test_points_of_a_sampler(self, runner: Runner, here: Path) -> None:
        drawn = ("hydra.sweeper.n_trials=4", "optimizer.lr=interval(0.01,0.1)", "sweep.dry_run=true")
        called = runner(*SWEEP, "hydra/sweeper/sampler=random", *drawn)
        lrs = [float(lr) for lr in re.findall(r"^\d +(0\.\d+)", called.err, re.MULTILINE)]
        assert called.code == 0 and len(set(lrs)) == 4 and all(0.01 <= lr <= 0.1 for lr in lrs)
