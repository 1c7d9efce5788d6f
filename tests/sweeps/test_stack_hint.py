"""The line after a sweep that `hydra/launcher=stacked` would have saved time."""

from dataclasses import replace

import pytest

from runner.sweeps.check.stack_hint import stack_hint
from runner.sweeps.jobs import JobInfo
from runner.sweeps.launchers.slots import Slot

INFO = JobInfo("cpu", ["val/loss"], "val/loss", kind="digits", bytes=70_000)
SLOTS = [Slot(0, 1), Slot(1, 1)]


def test_many_small_models_of_one_kind() -> None:
    assert "hydra/launcher=stacked" in stack_hint([INFO] * 16, SLOTS)


@pytest.mark.parametrize(
    ("infos", "slots"),
    [
        ([INFO] * 15, SLOTS),
        ([INFO] * 16, [Slot(number, 1) for number in range(8)]),
        ([*[INFO] * 16, replace(INFO, why_alone="dropout")], SLOTS),
        ([*[INFO] * 16, replace(INFO, kind="mnist")], SLOTS),
        ([replace(INFO, bytes=1 << 20)] * 16, SLOTS),
        ([INFO] * 16, [Slot(0, 4)]),
    ],
)
def test_where_it_would_save_little(infos: list[JobInfo], slots: list[Slot]) -> None:
    assert stack_hint(infos, slots) == ""
