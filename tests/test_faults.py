"""Runs that are killed at named points, in real processes and by real signals; their long form is in test_soak.py."""

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Called, run_folder
from delivered import copy_store
from faults import FAULTS, HIT, inject
from killed import assert_delivered, assert_ended_the_same
from runner.sync import main as sync
from sweeping import Forked

Runner = Callable[..., Called]

# Everything that has a state: dropout, augmentation, averaged weights, a scaler, a schedule by step, accumulation.
ARGUMENTS = (
    "data.limit=300", "data.batch_size=16", "data.augment.rotation=10", "model.hidden=[16]", "model.dropout=0.2",
    "optimizer=adamw", "scheduler=warmup_cosine", "precision=fp16", "device.threads=1", "trainer.epochs=3",
    "trainer.ema_decay=0.9", "trainer.grad_accumulation=2", "trainer.clip_norm=1", "trainer.log_every_steps=1",
    "trainer.checkpoint_every_steps=2", "trainer.validate_every_steps=4", "tracking.log_model=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that is never killed."""
    here = tmp_path_factory.mktemp("whole")
    assert Forked(here, *ARGUMENTS, "tracking=off", prepare=inject(None)).wait()[0] == 0
    return run_folder(here)


def killed_at(point: str, here: Path, empty_store: Path) -> tuple[Path, str]:
    """The folder of a run that is killed at a point, and the store that knows it."""
    uri = copy_store(empty_store, here / "outputs")
    code, printed = Forked(here, *ARGUMENTS, prepare=inject(point)).wait()
    assert code == -9, printed
    assert (here / HIT).read_text() == point
    return run_folder(here), uri


@pytest.mark.usefixtures("delivery_here")
@pytest.mark.parametrize("point", FAULTS)
def test_a_run_killed_there_ends_as_if_nothing_had_happened(
    point: str, here: Path, runner: Runner, empty_store: Path, whole: Path
) -> None:
    folder, uri = killed_at(point, here, empty_store)
    called = runner(f"resume={folder}")
    assert called.code == 0, called.err
    assert_ended_the_same(folder, whole)
    assert sync([]) == 0
    assert_delivered(uri, folder)
