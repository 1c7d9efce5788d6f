"""Several ranks train one model: the numbers of one process, one record, one terminal.

runs/test_ranked.py kills and stops them.
"""

import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace
from unittest.mock import MagicMock

import psutil
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import HashStore, TCPStore

from conftest import Called
from helpers.killed import measured
from helpers.ranks import SMALL, start
from helpers.sweeping import wait_for
from runner.config.command_line import make_composer, parse_arguments
from runner.data.share import Share
from runner.errors import ConfigError
from runner.runs import ranked
from runner.strategy.blocks import find_blocks
from runner.strategy.ranked import CALLS_BETWEEN, Ranked
from runner.sweeps.launchers.slots import make_slots
from runner.util.heart import Heart
from runner.util.ranks import RankError, Ranks

Runner = Callable[..., Called]

WEIGHTED = ("loss=cross_entropy", "loss.class_weight=balanced", "trainer.grad_accumulation=2", "precision=fp64")


@pytest.mark.parametrize("ranks", (1, 2, 3, 7))
def test_shares_are_the_batch_in_its_order(ranks: int) -> None:
    for first, last in ((0, 0), (0, 5), (3, 24), (24, 101)):
        parts = [Share(rank, ranks).of(first, last) for rank in range(ranks)]
        assert [sample for begin, end in parts for sample in range(begin, end)] == list(range(first, last))
        sizes = [end - begin for begin, end in parts]
        assert max(sizes) - min(sizes) <= 1


class TestTwoRanks:
    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp("ranks") / "run"
        arguments = [word for word in SMALL if word not in ("tracking=off", "runner.quiet=true")]
        store = f"tracking.uri=sqlite:///{folder.parent}/mlflow.db"
        started = start(
            folder,
            "strategy=ddp",
            "strategy.nproc_per_node=2",
            *arguments,
            *WEIGHTED,
            "trainer.log_every_steps=1",
            store,
        )
        _, printed = started.communicate()
        assert started.returncode == 0, printed
        return folder, printed

    def test_measures_what_one_process_measures(self, run: tuple[Path, str], runner: Runner, here: Path) -> None:
        runner(*SMALL, *WEIGHTED, "trainer.log_every_steps=1", f"hydra.run.dir={here}/one")
        one, two = measured(here / "one"), measured(run[0])
        assert one.keys() == {key for key in two if key[0] != "lr_step"} | {key for key in one if key[0] == "lr_step"}
        for key, value in one.items():
            assert two[key] == (value if "accuracy" in key[0] else pytest.approx(value, rel=1e-12)), key

    def test_has_one_record(self, run: tuple[Path, str]) -> None:
        folder, _ = run
        result = json.loads((folder / "result.json").read_text())
        assert (result["status"], result["ranks"], result["epochs"]) == ("FINISHED", 2, 3)
        assert result["system/peak_memory_megabytes"] > 100
        with sqlite3.connect(folder.parent / "mlflow.db") as store:
            assert store.execute("select status, run_uuid from runs").fetchall() == [("FINISHED", result["run_id"])]
            tags = dict(store.execute("select key, value from tags"))
        assert tags["runner.strategy"] == "ddp, 2 ranks"

    def test_has_one_voice_and_a_log_of_each_rank(self, run: tuple[Path, str]) -> None:
        folder, printed = run
        assert printed.count("epoch 3/3") == 1
        assert "strategy ddp, 2 ranks" in printed
        assert (folder / "ranks" / "1.log").read_text().count("epoch 3/3") == 1


class TestDividedWeights:
    def test_are_trained_as_those_of_one_process_and_saved_whole(self, runner: Runner, here: Path) -> None:
        more = (*SMALL, *WEIGHTED, "trainer.clip_norm=0.5", "trainer.log_norms=true")
        started = start(here / "divided", "strategy=fsdp", "strategy.nproc_per_node=2", *more)
        runner(*more, f"hydra.run.dir={here}/one")
        _, printed = started.communicate()
        assert started.returncode == 0, printed
        one, two = measured(here / "one"), measured(here / "divided")
        assert one.keys() == two.keys()
        for key, value in one.items():
            assert two[key] == (value if "accuracy" in key[0] else pytest.approx(value, rel=1e-12)), key
        for name in ("last.pt", "best.pt"):
            mine, theirs = (
                torch.load(here / folder / "checkpoints" / name, weights_only=True)["model"]
                for folder in ("one", "divided")
            )
            assert mine.keys() == theirs.keys()
            assert all(torch.allclose(mine[key], theirs[key], rtol=1e-12) for key in mine)

    def test_blocks_are_what_repeats(self) -> None:
        layers = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)) for _ in range(2))
        model = nn.ModuleDict({"embed": nn.Embedding(3, 2), "layers": layers, "head": nn.Linear(2, 3)})
        assert find_blocks(model) == list(layers)
        model["head"].weight = layers[1][0].weight
        assert find_blocks(model) == [layers[0]]


class TestRefusals:
    def test_ranks_that_nobody_starts(self, runner: Runner) -> None:
        called = runner("strategy=ddp")
        assert called.code == 2
        (problem,) = called.problems
        assert problem.key == "strategy"
        assert "strategy.nproc_per_node=2" in problem.suggestion
        assert "torchrun" in problem.suggestion

    def test_a_number_of_ranks_without_a_strategy(self, runner: Runner) -> None:
        for more in ([], ["--multirun", "seed=0,1"]):
            called = runner("strategy.nproc_per_node=2", *more)
            assert (called.code, set(called.about)) == (2, {("strategy.nproc_per_node", "conflict")})

    def test_torchrun_without_a_strategy(self, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT", "MASTER_ADDR"):
            monkeypatch.setenv(name, "2" if "SIZE" in name else "0")
        called = runner()
        assert (called.code, [problem.key for problem in called.problems]) == (2, ["strategy"])

    def test_torchrun_for_a_sweep(self, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT", "MASTER_ADDR"):
            monkeypatch.setenv(name, "2" if "SIZE" in name else "0")
        called = runner("--multirun", "strategy=ddp", "seed=0,1")
        assert (called.code, called.about) == (2, [("strategy", "conflict")])

    def test_a_sweep_whose_jobs_do_not_say_how_many_ranks(self, runner: Runner) -> None:
        called = runner("--multirun", "strategy=ddp", "seed=0,1", "tracking=off")
        assert (called.code, set(called.about)) == (2, {("strategy", "missing")})


def test_slots_are_counted_in_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.sweeps.launchers.slots.physical_cores", lambda: 8)
    monkeypatch.setattr("runner.sweeps.launchers.slots.requested_threads", lambda: None)
    slots = make_slots("auto", 100, [], 1, 1, ranks=3)
    assert [(slot.threads, slot.gpu) for slot in slots] == [(1, None)] * 2
    slots = make_slots("auto", 100, ["0", "1", "2", "3", "4"], 1, ranks=2)
    assert [(slot.threads, slot.gpu) for slot in slots] == [(2, "0,1"), (2, "2,3")]
    with pytest.raises(ConfigError, match="there are 1 GPUs"):
        make_slots("auto", 100, ["0"], 1, ranks=2)


class TestSignsOfLife:
    @pytest.fixture
    def hearts(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Heart]]:
        """Two ranks in this process, whose silence is noticed after half a second."""
        monkeypatch.setattr("runner.util.heart.BEAT_SECONDS", 0.05)
        monkeypatch.setattr("runner.util.heart.SILENT_SECONDS", 0.5)
        monkeypatch.setattr(Heart, "_end", lambda *_: None)
        store = TCPStore("127.0.0.1", 0, is_master=True)
        ranks = [Ranks(number, 2, number, 2) for number in (0, 1)]
        for rank in ranks:
            vars(rank)["_torchrun"] = store.clone()
        hearts = [Heart(rank) for rank in ranks]
        yield hearts
        for heart in hearts:
            heart.stop()

    def test_a_rank_that_has_ended_is_not_silent(self, hearts: list[Heart]) -> None:
        """Rank 0 draws plots and uploads when the others have ended."""
        hearts[1].stop()
        sleep(1.2)
        assert hearts[0].silent is None

    def test_one_that_does_not_beat_is(self, hearts: list[Heart]) -> None:
        hearts[1]._stopped.set()
        for _ in range(100):
            if hearts[0].silent is not None:
                break
            sleep(0.05)
        assert hearts[0].silent == 1


def test_a_yes_is_known_soon_however_fast_the_calls_before_were() -> None:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        strategy = Ranked(Ranks(0, 1, 0, 1))
        for _ in range(3 * CALLS_BETWEEN):
            assert not strategy.agree("step", False)
        asked = [strategy.agree("step", True) for _ in range(CALLS_BETWEEN + 1)]
        assert any(asked)
        assert strategy.agree("end", True, now=True)
    finally:
        dist.destroy_process_group()


class TestHandingOn:
    @pytest.fixture
    @staticmethod
    def ranks() -> Iterator[list[Ranks]]:
        store = TCPStore("127.0.0.1", 0, is_master=True)
        ranks = [Ranks(number, 2, number, 2) for number in (0, 1, 1)]
        for rank in ranks:
            vars(rank)["_torchrun"] = store.clone()
        yield ranks  # the store ends with this frame

    def test_the_value_is_for_the_rank_that_runs_now(self, ranks: list[Ranks]) -> None:
        """Rank 1 has asked, was started again before rank 0 answered, and asks once more."""
        leader, _, again = ranks
        leader.remember("token/1", "of the one that was killed")
        with ThreadPoolExecutor() as pool:
            handed = pool.submit(leader.hand_on, "config")
            assert pool.submit(again.receive).result(10) == "config"
            handed.result(10)
        assert again._start == leader._start != ""

    def test_a_rank_that_does_not_ask_is_named(self, ranks: list[Ranks], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("runner.util.ranks.COLLECTIVE_SECONDS", 0.2)
        with pytest.raises(RankError, match=r"rank 1 of 2 has not started within 0\.2 s"):
            ranks[0].hand_on("config")

    def test_a_rank_of_another_machine_that_gives_no_sign_of_life_after_an_error_was_killed(
        self, ranks: list[Ranks], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A sign that is noticed soon after the error may have been given before."""
        for name, seconds in (("BEAT_SECONDS", 0.2), ("LOST_SECONDS", 0.8), ("REPORT_SECONDS", 0.1)):
            monkeypatch.setattr(f"runner.util.ranks.{name}", seconds)
        leader = ranks[0]
        leader._store.set("process/1", "another:1")
        leader.heart = SimpleNamespace(silent=None, seen={1: monotonic() + 0.1})  # type: ignore[assignment]
        assert str(leader.cause()).startswith("rank 1 has ended without an error")
        leader.heart = SimpleNamespace(silent=None, seen={1: monotonic() + 0.5})  # type: ignore[assignment]
        assert leader.cause() is None

    def test_variables_of_torchrun_without_torchrun(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("runner.util.ranks.COLLECTIVE_SECONDS", 0.2)
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(RankError, match=r"the ranks do not meet at 127\.0\.0\.1:0: Timed out"):
            Ranks(0, 2, 0, 2).hand_on("config")

    def test_only_the_first_value_counts(self, ranks: list[Ranks]) -> None:
        leader, other, _ = ranks
        with ThreadPoolExecutor() as pool:
            received = pool.submit(other.receive)
            leader.hand_on("config")
            leader.hand_on(None)
            assert received.result(10) == "config"

    def test_no_secret_is_handed_on_and_a_run_that_has_ended_stands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Anyone who reaches the port of torchrun can read it."""
        monkeypatch.setenv("OF_THE_HUB", "canary-of-the-hub")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "canary-of-the-store")
        typed = [
            "tracking=server", "tracking.uri=http://ada:canary-in-the-address@127.0.0.1:9", "strategy=ddp",
            "tracking.description=${oc.env:OF_THE_HUB}", "tracking.run_name=canary-of-the-store",
        ]  # fmt: skip
        cfg, problems = make_composer(parse_arguments([])).compose(typed)
        assert cfg is not None and not problems
        group, handed = MagicMock(), list[ranked.Handed]()
        group.hand_on = handed.append
        monkeypatch.setattr(Ranks, "here", lambda: group)
        monkeypatch.setattr(ranked, "_start_together", lambda _: None)
        former = signal.getsignal(signal.SIGTERM)
        try:
            with ranked.leading(SimpleNamespace(choices={}, fitted=None, pause_after=None), cfg, Path("run")):  # type: ignore[arg-type]
                pass
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, "another rank's failure is not its exit code"
        finally:
            signal.signal(signal.SIGTERM, former)
        (only,) = handed
        assert b"canary" not in pickle.dumps(only)
        assert pickle.loads(only.config).tracking.description == "canary-of-the-hub"


def test_ranks_end_with_a_launcher_that_is_killed_before_they_have_met(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "runner", "strategy=ddp", "strategy.nproc_per_node=2", "tracking=off"]
    environment = {**os.environ, "RUNNER_OUTPUTS": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as launcher:
        wait_for(lambda: len(psutil.Process(launcher.pid).children()) == 2)
        ranks = psutil.Process(launcher.pid).children()
        launcher.kill()
    _, alive = psutil.wait_procs(ranks, timeout=30)
    for rank in alive:
        rank.kill()
    assert not alive
