"""A killed run ends bit for bit as one that was never stopped: whatever it is made of, wherever the kills come."""

import signal
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from helpers.faults import die_at_step, inject
from helpers.killed import assert_ended_the_same
from helpers.quick import NoRehearsal
from helpers.sweeping import Forked
from runner.training import hidden

EPOCHS, STEPS = 3, 4
"""48 training samples in batches of 12: four batches an epoch, which are as many steps without accumulation."""

COMMON = (
    f"trainer.epochs={EPOCHS}", "data.batch_size=12", "data.limit=64", "device.threads=1", "tracking=off",
    "trainer.log_every_steps=1", "trainer.checkpoint_every_steps=2", "runner.quiet=true", "tracking.log_model=false",
)  # fmt: skip

OWN = "helpers.stateful_models"


def words(*choices: str) -> st.SearchStrategy[list[str]]:
    """Choose one of several sequences of overrides, each written in a line."""
    return st.sampled_from(choices).map(str.split)


mixed = words("model.hidden=[9,9] model.activation=gelu data.augment=[{rotation:10},mixup,cutmix]")
images = words(
    "model.hidden=[9] model.dropout=0.3",
    "model.hidden=[] data.augment=[{crop:1},{erasing:0.5}] data.in_memory=false",
    "model=cnn model.channels=[4,4] model.strides=[1,2] model.hidden=[6] model.batch_norm=true",
    "model=cnn model.channels=[4] model.strides=[2] model.hidden=[6] model.dropout=0.2 data.augment=[randaugment,flip]",
)
rows = st.tuples(
    st.sampled_from(("Plain", "Dropout", "NonPersistent", "OwnGenerator", "NumpyGenerators", "GlobalGenerator")),
    words(
        "data._target_=helpers.training.blobs",
        "data._target_=helpers.training.blobs data.sampler=balanced",
        f"data._target_={OWN}.drawing data.in_memory=false",
    ),
).map(lambda chosen: ["data=custom", "model=custom", f"model._target_={OWN}.{chosen[0]}", *chosen[1]])

BARE = "~optimizer.momentum ~optimizer.nesterov ~optimizer.weight_decay optimizer._target_=torch.optim"
optimizers = words(
    "optimizer.lr=0.02",
    "optimizer.nesterov=true optimizer.weight_decay=0.01",
    "optimizer=adam",
    "optimizer=adam +optimizer.amsgrad=true",
    "optimizer=adamw optimizer.no_decay=true",
    "optimizer=rmsprop optimizer.centered=true optimizer.momentum=0.5",
    "optimizer=muon",
    *(f"{BARE}.{name}" for name in ("NAdam", "RAdam", "Adagrad", "Adadelta", "Adamax", "ASGD", "Rprop")),
)
schedules = words(
    "scheduler=constant",
    "scheduler=step scheduler.step_size=1",
    "scheduler=plateau scheduler.patience=0",
    "scheduler=cosine",
    "scheduler=cosine_restarts",
    "scheduler=onecycle",
    "scheduler=warmup_cosine scheduler.warmup_epochs=1.5",
)
smoothed = words("loss=auto", "loss=cross_entropy loss.label_smoothing=0.1")
losses = smoothed | words("loss=cross_entropy loss.class_weight=balanced", "loss=focal", f"loss._target_={OWN}.Rising")
precisions = words(*(f"precision={name}" for name in ("fp32", "fp64", "bf16", "fp16", "amp")))
trainers = st.lists(
    words(
        "trainer.ema_decay=0.8",
        "trainer.grad_accumulation=3",
        "trainer.clip_norm=0.5",
        "trainer.validate_every_steps=3",
        "trainer.log_norms=true",
        "trainer.checkpoint_every_epochs=2",
        "trainer.on_nonfinite=skip",
    ),
    max_size=3,
    unique_by=tuple,
).map(lambda chosen: [word for words_ in chosen for word in words_])
experiments = st.tuples(
    st.tuples(images | rows, losses) | st.tuples(mixed, smoothed),  # other losses do not take mixed targets
    st.tuples(optimizers, schedules, precisions, trainers),
).map(lambda halves: [word for part in (*halves[0], *halves[1]) for word in part])

first = st.integers(3, EPOCHS * STEPS)  # after the first checkpoint, without which there is nothing to resume
others = st.lists(st.integers(1, EPOCHS * STEPS), max_size=2)
once = st.tuples(first.map(lambda step: [step]), st.none())
kills = st.tuples(st.tuples(first, others).map(lambda steps: [steps[0], *steps[1]]), st.none())
early = st.tuples(st.integers(3, STEPS).map(lambda step: [step]), st.sampled_from((1, 2)))
interruptions = kills | early
"""The optimizer steps before which each process dies, counted from its own start, and a patience from then on."""


def prepare(kill: int | None) -> None:
    """Let a process die before its optimizer step `kill`; without a rehearsal, which test_hidden.py has."""
    hidden.Rehearsal = NoRehearsal  # type: ignore[assignment, misc]
    if kill is None:
        inject(None)()
    else:
        die_at_step(kill)


def finishes(folder: Path, *overrides: str, kill: int | None = None) -> bool:
    """Run the command in a process of its own, which dies before its optimizer step `kill` if it takes as many."""
    process = Forked(folder, *overrides, prepare=partial(prepare, kill))
    code, printed = process.wait(120)
    assert code == 0 or (kill and code == -signal.SIGKILL), printed
    return code == 0


def assert_resumes_exactly(overrides: list[str], interruption: tuple[list[int], int | None]) -> None:
    """Compare a run that is killed with one that is not."""
    note(f"{interruption}: {' '.join(overrides)}")
    kills, patience = interruption
    stopping = [] if patience is None else [f"trainer.early_stopping.patience={patience}"]
    with TemporaryDirectory() as name:
        whole, killed = Path(name, "whole"), Path(name, "killed")
        for folder in (whole, killed):
            folder.mkdir()
        assert finishes(whole, *COMMON, *overrides, *stopping, f"hydra.run.dir={whole}/run")
        arguments = [*COMMON, *overrides, f"hydra.run.dir={killed}/run"]
        for kill in kills:
            if finishes(killed, *arguments, kill=kill):
                break
            arguments = [f"resume={killed}/run"]
        else:
            assert finishes(killed, *arguments, *stopping)
        assert_ended_the_same(killed / "run", whole / "run")


as_drawn = settings(deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


@settings(as_drawn, max_examples=4, derandomize=True)
@given(experiments, once | early)
def test_any_experiment_resumes_exactly(overrides: list[str], interruption: tuple[list[int], int | None]) -> None:
    assert_resumes_exactly(overrides, interruption)


@pytest.mark.soak
@settings(as_drawn, max_examples=100, print_blob=True)
@given(experiments, interruptions)
def test_a_hundred_experiments_resume_exactly(overrides: list[str], interruption: tuple[list[int], int | None]) -> None:
    assert_resumes_exactly(overrides, interruption)


@pytest.mark.soak
@settings(as_drawn, max_examples=4, print_blob=True)
@given(experiments, interruptions)
def test_compiled_experiments_resume_exactly(overrides: list[str], interruption: tuple[list[int], int | None]) -> None:
    assert_resumes_exactly([*overrides, "trainer.compile=true"], interruption)
