"""Ranks that are killed, stopped, interrupted and resumed: a run ends as undisturbed, or says which rank failed."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil
import pytest
import torch

from helpers.killed import assert_ended_the_same, measured
from helpers.ranks import SMALL, Started, free_port, in_shards, node, rank_of, start, torchrun
from helpers.tasks import PAIR
from runner.rundir import layout

pytestmark = pytest.mark.soak

TWO = ("strategy=ddp", "strategy.nproc_per_node=2")

LONG = (
    "device=cpu", "device.threads=1", "tracking=off", "data.batch_size=8", "trainer.epochs=8", "model.dropout=0.3",
    "trainer.checkpoint_every_steps=10", "optimizer=adamw", "trainer.ema_decay=0.9", "trainer.log_every_steps=7",
    "scheduler=warmup_cosine",
)  # fmt: skip


def wait_for_checkpoint(folder: Path) -> None:
    while not (folder / layout.CHECKPOINTS / layout.LAST).exists():
        sleep(0.05)
    sleep(0.5)


def ended(started: Started, seconds: float = 120) -> tuple[int, str]:
    _, printed = started.communicate(timeout=seconds)
    return started.returncode, printed


def trained(folder: Path) -> set[tuple[str, int]]:
    """Return what was measured of training and validation, and when."""
    return {key for key in measured(folder) if key[0].startswith(("train", "val"))}


def result_of(folder: Path) -> Any:
    return json.loads((folder / layout.RESULT).read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, printed = ended(start(folder, *TWO, *LONG))
    assert code == 0, printed
    return folder


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT))
def test_a_signal_to_all_ends_in_one_checkpoint_that_resumes_exactly(whole: Path, here: Path, number: int) -> None:
    folder = here / "run"
    started = start(folder, *TWO, *LONG)
    wait_for_checkpoint(folder)
    started.send_signal(number)
    before = monotonic()
    code, printed = ended(started)
    assert (code, monotonic() - before < 10) == (128 + number, True), printed
    assert result_of(folder)["status"] == "KILLED"
    code, printed = ended(start(folder))
    assert code == 0, printed
    assert_ended_the_same(folder, whole)


def test_a_killed_rank_is_started_again_and_the_run_ends_as_undisturbed(whole: Path, here: Path) -> None:
    folder = here / "run"
    started = start(folder, TWO[0], *LONG, by=torchrun(2, "--max-restarts=1"))
    wait_for_checkpoint(folder)
    rank_of(started, 1).kill()
    code, printed = ended(started)
    assert code == 0, printed
    assert measured(folder) == measured(whole)


@pytest.mark.parametrize("rank", (0, 1))
def test_a_killed_rank_ends_the_others(here: Path, rank: int) -> None:
    folder = here / "run"
    started = start(folder, *TWO, *LONG, "trainer.epochs=1000")
    wait_for_checkpoint(folder)
    rank_of(started, rank).kill()
    before = monotonic()
    code, printed = ended(started)
    assert (code, monotonic() - before < 45) == (1, True), printed
    if rank:
        assert result_of(folder)["status"] == "FAILED"
        assert "rank 1" in result_of(folder)["error"]


def test_a_stopped_rank_ends_the_run_and_is_named(here: Path) -> None:
    folder = here / "run"
    started = start(folder, *TWO, *LONG, "trainer.epochs=1000")
    wait_for_checkpoint(folder)
    rank_of(started, 1).suspend()
    code, printed = ended(started, 180)
    assert code == 1, printed
    assert result_of(folder)["error"].startswith("rank 1 was silent")


def test_the_error_of_a_rank_is_that_of_the_run(here: Path) -> None:
    folder = here / "run"
    code, _ = ended(start(folder, *TWO, *SMALL, "task=custom", "task._target_=helpers.tasks.FailsOnRankOne"))
    assert code == 1
    assert result_of(folder)["error"].startswith("rank 1: ValueError: this rank fails")
    assert "in step" in (folder / layout.LOG).read_text()  # its traceback


@pytest.mark.parametrize("ranks", (1, 3))
def test_another_number_of_ranks_resumes(whole: Path, here: Path, ranks: int) -> None:
    folder = here / "run"
    started = start(folder, *TWO, *LONG)
    wait_for_checkpoint(folder)
    started.terminate()
    ended(started)
    code, printed = ended(start(folder, f"strategy.nproc_per_node={ranks}"))
    assert code == 0, printed
    assert f"saved by 2 ranks, resumed by {ranks}" in printed
    assert trained(folder) == trained(whole)


@pytest.mark.parametrize("ranks", (2, 3))
@pytest.mark.parametrize("precision", ("fp64", "fp32"))
@pytest.mark.parametrize("strategy", ("ddp", "fsdp"))
def test_ranks_have_the_numbers_of_one_process(here: Path, ranks: int, precision: str, strategy: str) -> None:
    metrics = "metrics=[f1,auroc,average_precision,{order:{_target_:helpers.tasks.confident,higher_is_better:true}}]"
    common = (*SMALL, f"precision={precision}", "data.batch_size=10", metrics)
    for name, more in (("one", []), ("several", [f"strategy={strategy}", f"strategy.nproc_per_node={ranks}"])):
        code, printed = ended(start(here / name, *common, *more))
        assert code == 0, printed
    one, several = measured(here / "one"), measured(here / "several")
    assert one.keys() == several.keys()
    assert {"val/order", "test/average_precision"} <= {name for name, _ in one}
    for (name, step), value in one.items():
        exact = "accuracy" in name or name.endswith(("f1", "auroc", "average_precision", "order"))
        close = pytest.approx(value, abs=1e-12 if precision == "fp64" else 1e-5)
        assert several[name, step] == (value if exact and precision == "fp64" else close), (name, step)


def test_twenty_starts_in_a_row(here: Path) -> None:
    for number in range(20):
        code, printed = ended(start(here / str(number), *TWO, *SMALL, "trainer.epochs=1"), 60)
        assert code == 0, printed


@pytest.mark.parametrize("more", ((), ("trainer.grad_accumulation=3", "trainer.clip_norm=0.5")))
def test_several_optimizers_have_the_numbers_of_one_process(here: Path, more: tuple[str, ...]) -> None:
    gan = [word for word in PAIR if not word.startswith("task._target_")] + ["task._target_=helpers.tasks.Steady"]
    common = [word for word in SMALL if not word.startswith("model.")] + [*gan, "precision=fp64", *more]
    for name, strategy in (("one", ()), ("several", ("strategy=ddp", "strategy.nproc_per_node=3"))):
        code, printed = ended(start(here / name, *common, *strategy))
        assert code == 0, printed
    one, several = measured(here / "one"), measured(here / "several")
    assert several == pytest.approx(one, rel=1e-9)


@pytest.mark.parametrize("told", (False, True))
def test_parameters_that_no_step_uses(here: Path, told: bool) -> None:
    model = ("model=custom", "model._target_=helpers.tasks.Partial", f"strategy.find_unused_parameters={told}")
    common = [word for word in SMALL if not word.startswith("model.")]
    code, printed = ended(start(here / "run", *TWO, *common, *model))
    assert code == (0 if told else 1), printed
    assert ("spare.weight, spare.bias got no gradient" in printed) is not told
    assert ("strategy.find_unused_parameters=true" in printed) is not told


def test_a_callback_on_one_rank_ends_all(here: Path) -> None:
    asks = "trainer.callbacks=[{_target_:helpers.tasks.AsksOnRankOne}]"
    code, printed = ended(start(here / "run", *TWO, *SMALL, asks))
    assert code == 0, printed
    content = torch.load(here / "run" / "checkpoints" / "last.pt", weights_only=True)["progress"]
    assert (content["step"], content["stop_reason"]) == (3, "rank 1 asked for it")


def test_batch_norm_on_a_cpu_is_said_to_be_of_each_rank(here: Path) -> None:
    words = [word for word in SMALL if not word.startswith(("model.", "runner.quiet"))]
    model = ("model=cnn", "model.batch_norm=true", "model.channels=[4]", "model.strides=[2]", "trainer.epochs=1")
    code, printed = ended(start(here / "run", *TWO, *words, *model))
    assert code == 0, printed
    assert printed.count("BatchNorm uses the statistics of each rank's share") == 1


DIVIDED = ("strategy=fsdp", "strategy.nproc_per_node=2")

LARGER = {
    "characters": (
        "experiment=char_gpt", "data.limit=200", "data.batch_size=10", "model.layers=2", "model.width=32",
        "model.heads=2",
    ),
    "adapted": (
        "model.hidden=[32,32]", "model.lora.params=layers.*", "model.lora.rank=4", "optimizer=adamw", "data.limit=101",
        "data.batch_size=24",
    ),
}  # fmt: skip


@pytest.mark.parametrize("ranks", (1, 2, 3))
@pytest.mark.parametrize("name", LARGER)
def test_divided_weights_have_the_numbers_of_one_process_in_fp32(here: Path, name: str, ranks: int) -> None:
    common = [word for word in SMALL if not word.startswith(("model.", "data."))] + [*LARGER[name]]
    for run, more in (("one", []), ("divided", ["strategy=fsdp", f"strategy.nproc_per_node={ranks}"])):
        code, printed = ended(start(here / run, *common, *more))
        assert code == 0, printed
    one, divided = measured(here / "one"), measured(here / "divided")
    assert one.keys() == divided.keys()
    for key, value in one.items():
        assert divided[key] == pytest.approx(value, abs=1e-5, rel=1e-5), key


def test_a_killed_rank_with_divided_weights_is_started_again_and_the_run_ends_as_undisturbed(here: Path) -> None:
    code, printed = ended(start(here / "whole", *DIVIDED, *OF_FSDP))
    assert code == 0, printed
    folder = here / "run"
    started = start(folder, DIVIDED[0], *OF_FSDP, by=torchrun(2, "--max-restarts=1"))
    wait_for_checkpoint(folder)
    rank_of(started, 1).kill()
    code, printed = ended(started)
    assert code == 0, printed
    assert measured(folder) == measured(here / "whole")


OF_FSDP = [word for word in LONG if "ema_decay" not in word]


def test_divided_weights_resume_exactly_and_on_other_numbers_of_ranks(here: Path) -> None:
    code, printed = ended(start(here / "whole", *DIVIDED, *OF_FSDP))
    assert code == 0, printed
    for ranks in (2, 1, 3):
        folder = here / str(ranks)
        started = start(folder, *DIVIDED, *OF_FSDP)
        wait_for_checkpoint(folder)
        started.terminate()
        assert ended(started)[0] == 143
        code, printed = ended(start(folder, f"strategy.nproc_per_node={ranks}"))
        assert code == 0, printed
        if ranks == 2:
            assert_ended_the_same(folder, here / "whole")
        else:
            assert f"saved by 2 ranks, resumed by {ranks}" in printed
            assert trained(folder) == trained(
                here / "whole"
            )  # dropout is drawn otherwise: another epoch may be the best


class TestShards:
    """Each model counts as a large one: each rank writes its shards, beside the training."""

    ONE = DIVIDED[0]
    OFTEN = (*OF_FSDP, "trainer.epochs=3", "trainer.checkpoint_every_steps=2")

    @pytest.fixture(scope="class")
    @classmethod
    def undisturbed(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("shards") / "run"
        code, printed = ended(start(folder, cls.ONE, *cls.OFTEN, by=in_shards(2)))
        assert code == 0, printed
        assert len(list((folder / layout.CHECKPOINTS).glob("shards-*/__*.distcp"))) == 4
        return folder

    @pytest.mark.parametrize("ranks", (2, 1, 3))
    def test_any_number_of_ranks_resumes(self, undisturbed: Path, here: Path, ranks: int) -> None:
        folder = here / "run"
        started = start(folder, self.ONE, *self.OFTEN, by=in_shards(2))
        wait_for_checkpoint(folder)
        for process in psutil.Process(started.pid).children():  # the ranks; torchrun would end with another code
            process.terminate()
        ended(started)
        assert result_of(folder)["status"] == "KILLED"
        copy = here / "copy"
        shutil.copytree(folder, copy)
        code, printed = ended(start(copy, by=in_shards(ranks)))
        assert code == 0, printed
        if ranks == 2:
            assert_ended_the_same(copy, undisturbed)
        else:
            assert f"saved by 2 ranks, resumed by {ranks}" in printed
            assert measured(copy).keys() == measured(undisturbed).keys()
            shards = list((copy / layout.CHECKPOINTS).glob("shards-*"))
            assert {len(list(one.glob("__*.distcp"))) for one in shards} == {ranks}

    @pytest.mark.parametrize("rank", (0, 1))
    def test_a_kill_while_shards_are_written_resumes_as_undisturbed(
        self, undisturbed: Path, here: Path, rank: int
    ) -> None:
        folder = here / "run"
        started = start(folder, self.ONE, *self.OFTEN, by=in_shards(2, "--max-restarts=1"))
        wait_for_checkpoint(folder)
        rank_of(started, rank).kill()
        code, printed = ended(started)
        assert code == 0, printed
        assert_ended_the_same(folder, undisturbed)

    def test_a_killed_rank_is_named_though_others_wait_for_it_to_write(self, here: Path) -> None:
        folder = here / "run"
        started = start(folder, self.ONE, *self.OFTEN, "trainer.epochs=1000", by=in_shards(2))
        wait_for_checkpoint(folder)
        rank_of(started, 1).kill()
        before = monotonic()
        code, printed = ended(started)
        assert (code, monotonic() - before < 45) == (1, True), printed
        assert "rank 1" in result_of(folder)["error"]


@pytest.mark.parametrize("by", (("-m", "runner", DIVIDED[1]), in_shards(2)))
def test_commands_on_a_run_of_divided_weights(here: Path, by: list[str]) -> None:
    folder = here / "run"
    code, printed = ended(start(folder, DIVIDED[0], *SMALL, "precision=fp64", by=by))
    assert code == 0, printed
    image = str([[[0.5] * 8] * 8]).replace(" ", "")
    for module, more in (("evaluate", []), ("predict", [f"input={image}"]), ("export", ["format=torch_export"])):
        done = subprocess.run(
            [sys.executable, "-m", f"runner.{module}", f"run={folder}", *more], capture_output=True, text=True, cwd=here
        )
        assert done.returncode == 0, done.stderr


FSDP_TRAINS = {
    "half": ("precision=bf16",),
    "norms": ("model=cnn", "model.batch_norm=true", "model.channels=[4]", "model.strides=[2]"),
    "frozen": ("model.freeze=[layers.1]", "model.unfreeze_at_epoch=2", "precision=fp64", "optimizer=adamw"),
    "chosen": ("strategy.shard=[layers.1,layers.3]", "precision=fp64"),
    "methods": (
        "model=custom", "model._target_=helpers.tasks.Stacked", "task=custom", "task._target_=helpers.tasks.ByMethods",
        "data.limit=101", "data.batch_size=24", "precision=fp64",
    ),
    "skipping": ("trainer.on_nonfinite=skip", "trainer.grad_accumulation=2", "precision=fp64"),
}  # fmt: skip


@pytest.mark.parametrize("name", FSDP_TRAINS)
def test_what_trains_with_divided_weights(here: Path, name: str) -> None:
    more = FSDP_TRAINS[name]
    own = any(word.startswith(("experiment=", "model=")) for word in more)
    limit = [word for word in SMALL if not (own and word.startswith(("model.", "data.")))]
    common = [*limit, *more, *(["data.limit=101"] if name == "norms" else [])]
    for run, strategy in (("one", ()), ("divided", DIVIDED)):
        chosen = common if strategy else [word for word in common if not word.startswith("strategy.")]
        code, printed = ended(start(here / run, *chosen, *strategy))
        assert code == 0, printed
    one, two = measured(here / "one"), measured(here / "divided")
    assert one.keys() == two.keys()
    if name in ("frozen", "chosen", "methods", "skipping"):
        assert two == pytest.approx(one, rel=1e-9)


@pytest.mark.parametrize(
    "asked",
    ("trainer.ema_decay=0.9", "precision=fp16", "optimizer=muon", "strategy.shard=[nothing]"),
)
def test_what_divided_weights_refuse(here: Path, asked: str) -> None:
    code, printed = ended(start(here / "run", *DIVIDED, *SMALL, asked))
    assert code == 2, printed
    assert asked.partition("=")[0].removeprefix("trainer.") in printed
    assert not (here / "run").exists()


@pytest.mark.parametrize("strategy", ("ddp", "fsdp"))
@pytest.mark.parametrize("precision", ("fp64", "fp32"))
def test_compiled_models_have_the_numbers_of_others(here: Path, strategy: str, precision: str) -> None:
    ranks = (f"strategy={strategy}", "strategy.nproc_per_node=2", f"precision={precision}", "trainer.epochs=2")
    started = [start(here / run, *SMALL, *ranks, f"trainer.compile={run}") for run in ("false", "true")]
    for each in started:
        code, printed = ended(each, 600)
        assert code == 0, printed
    plain, compiled = measured(here / "false"), measured(here / "true")
    close = 1e-12 if precision == "fp64" else 1e-6
    assert compiled == {key: pytest.approx(value, abs=close) for key, value in plain.items()}
    states = [torch.load(here / run / "checkpoints" / "last.pt", weights_only=True) for run in ("false", "true")]
    assert states[0]["model"].keys() == states[1]["model"].keys()


@pytest.mark.parametrize("strategy", ("ddp", "fsdp"))
def test_convolutions_have_the_numbers_of_one_process(here: Path, strategy: str) -> None:
    """Their weights are in channels_last."""
    common = (*SMALL, "precision=fp64", "model=cnn", "model.channels=[4,4]", "model.strides=[1,2]")
    for name, more in (("one", []), ("several", [f"strategy={strategy}", "strategy.nproc_per_node=2"])):
        code, printed = ended(start(here / name, *common, *more))
        assert code == 0, printed
    one, several = measured(here / "one"), measured(here / "several")
    assert one.keys() == several.keys()
    for key, value in one.items():
        assert several[key] == pytest.approx(value, abs=1e-12), key


class TestTwoMachines:
    """Each is a torchrun on this machine, which sees nothing of the processes of the other."""

    def pair(self, folder: Path, *arguments: str, options: tuple[str, ...] = ()) -> tuple[Started, Started]:
        """Start both; return that with rank 0 first."""
        port = free_port()
        both = [start(folder, "strategy=ddp", *arguments, by=node(port, *options)) for _ in range(2)]
        wait_for_checkpoint(folder)
        both.sort(key=lambda started: "0" not in ranks_of(started))
        return both[0], both[1]

    @pytest.mark.parametrize("told", (0, 1))
    def test_a_signal_to_one_ends_both_in_a_checkpoint_that_resumes_exactly(
        self, whole: Path, here: Path, told: int
    ) -> None:
        folder = here / "run"
        both = self.pair(folder, *LONG)
        both[told].terminate()
        printed = [ended(started)[1] for started in both]
        assert result_of(folder)["status"] == "KILLED", printed
        port = free_port()
        for started in [start(folder, by=node(port)) for _ in range(2)]:
            code, text = ended(started)
            assert code == 0, text
        assert_ended_the_same(folder, whole)

    def test_a_killed_rank_is_named(self, here: Path) -> None:
        folder = here / "run"
        both = self.pair(folder, *LONG, "trainer.epochs=1000")
        rank_of(both[1], 1).kill()
        codes = [ended(started)[0] for started in both]
        assert codes == [1, 1]
        assert result_of(folder)["error"].startswith("rank 1 has ended without an error")

    def test_an_error_of_the_other_is_that_of_the_run(self, here: Path) -> None:
        folder, port = here / "run", free_port()
        more = ("task=custom", "task._target_=helpers.tasks.FailsOnRankOne")
        both = [start(folder, "strategy=ddp", *SMALL, *more, by=node(port)) for _ in range(2)]
        assert [ended(started)[0] for started in both] == [1, 1]
        assert result_of(folder)["error"].startswith("rank 1: ValueError: this rank fails")

    @pytest.mark.parametrize("rank", (0, 1))
    def test_a_killed_rank_is_started_again_with_the_other(self, whole: Path, here: Path, rank: int) -> None:
        folder = here / "run"
        both = self.pair(folder, *LONG, options=("--max-restarts=2",))
        rank_of(both[rank], rank).kill()
        for started in both:
            code, printed = ended(started)
            assert code == 0, printed
        assert measured(folder) == measured(whole)


def ranks_of(started: Started) -> list[str]:
    """Return the ranks that a torchrun has started."""
    children = psutil.Process(started.pid).children(recursive=True)
    return [number for child in children if (number := child.environ().get("RANK")) is not None]


@pytest.mark.parametrize("strategy", ("ddp", "fsdp"))
class TestAModelThatDiffersByRank:
    model = ("model=custom", "model._target_=helpers.tasks.OfItsRank", "precision=fp64")
    common = tuple(word for word in SMALL if not word.startswith("model."))

    def test_starts_with_the_weights_of_rank_0(self, here: Path, strategy: str) -> None:
        for name, more in (("one", []), ("several", [f"strategy={strategy}", "strategy.nproc_per_node=2"])):
            code, printed = ended(start(here / name, *self.common, *self.model, *more))
            assert code == 0, printed
        assert measured(here / "several") == pytest.approx(measured(here / "one"), abs=1e-12)

    def test_is_refused_if_the_shapes_differ(self, here: Path, strategy: str) -> None:
        ranks = (f"strategy={strategy}", "strategy.nproc_per_node=2")
        code, printed = ended(start(here / "run", *self.common, *self.model, *ranks, "+model.shapes=true"))
        assert code == 2, printed
        assert "the models of ranks 0 and 1 differ in layers.1.weight" in printed
        assert printed.count("error:") == 1


@pytest.mark.parametrize(("asked", "code", "line"), [
    ("--help", 0, "runner trains, tests and records a PyTorch model"),
    ("--version", 0, "runner "),
    ("model.hiden=3", 1, "error: model.hiden=3: unknown key"),
    ("--multirun", 1, "a sweep starts those of its jobs itself"),
    ("--optimizer.lr=1", 1, "unknown option --optimizer.lr"),
])  # fmt: skip
def test_one_rank_answers(here: Path, asked: str, code: int, line: str) -> None:
    started = subprocess.run(
        [sys.executable, *torchrun(2), "strategy=ddp", asked], capture_output=True, text=True, cwd=here, timeout=100
    )
    printed = started.stdout + started.stderr
    assert (started.returncode, printed.count(line)) == (code, 1), printed
