"""The number of threads: it depends on the operations of a step and the number of cores."""

import os
from pathlib import Path

import psutil
import pytest
import torch

from helpers.composed import built
from helpers.training import Log, Silent, Stop
from runner.rundir.checkpoint import Checkpoints
from runner.training.evaluation import evaluate
from runner.training.state import make_training
from runner.util import cores
from runner.util.cores import OPERATIONS_A_THREAD, busy_message, threads_for, usable_cores

CNN = ("model=cnn", "tracking=off", "data.limit=200")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return monkeypatch


def show(machine: pytest.MonkeyPatch, count: int) -> None:
    """Pretend that the machine has a number of cores."""
    machine.setattr(psutil, "cpu_count", lambda logical: count)
    machine.setattr(os, "sched_getaffinity", lambda process: set(range(count)), raising=False)


def test_only_cores_that_this_process_may_use_count(machine: pytest.MonkeyPatch) -> None:
    show(machine, 4)
    machine.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    assert usable_cores() == 3
    machine.setattr(psutil, "cpu_count", lambda logical: 2)
    assert usable_cores() == 2, "two hardware threads of a core are one"


@pytest.mark.parametrize(
    ("said", "count"),
    [("1", 1), ("3,2", 3), ("", 4), ("0", 1), ("many", 1), ("-2", 1), ("\u00b2", 1), ("9" * 30, 1024)],
)
def test_omp_num_threads_is_read(machine: pytest.MonkeyPatch, said: str, count: int) -> None:
    show(machine, 4)
    machine.setenv("OMP_NUM_THREADS", said)
    assert usable_cores() == count


def test_a_thread_needs_work_and_a_core(machine: pytest.MonkeyPatch) -> None:
    a_thread = OPERATIONS_A_THREAD
    for count, expected in ((1, [1, 1, 1, 1]), (2, [1, 1, 2, 2]), (4, [1, 1, 2, 4])):
        show(machine, count)
        assert [threads_for(n) for n in (0, a_thread, 2 * a_thread, 100 * a_thread)] == expected


def test_a_config_gets_the_same_threads_on_all_machines_unless_the_cores_are_fewer(
    machine: pytest.MonkeyPatch,
) -> None:
    """The initial weights too, which are drawn before the number of threads is known."""

    def of(count: int, *overrides: str) -> tuple[int, int, torch.Tensor]:
        show(machine, count)
        experiment = built("tracking=off", "data.limit=200", *overrides)
        assert experiment.config["device"]["threads"] == experiment.device.threads
        return experiment.device.threads, torch.get_num_threads(), next(experiment.model.parameters()).detach()

    threads = torch.get_num_threads()
    try:
        default = [of(count) for count in (1, 2, 4)]
        assert [(asked, used) for asked, used, _ in default] == [(1, 1)] * 3
        large = [of(count, "model.hidden=[8000,1000]") for count in (1, 2, 4)]
        assert [(asked, used) for asked, used, _ in large] == [(1, 1), (2, 2), (4, 4)]
        assert all(torch.equal(weights, large[0][2]) for *_, weights in large)
        assert of(2, "device.threads=3")[:2] == (3, 3), "what is typed stays"
        assert of(4, "model.hidden=[8000,1000]", "data.batch_size=1")[:2] == (1, 1), "a step of one sample is small"
    finally:
        torch.set_num_threads(threads)


def test_evaluation_gets_more_threads_for_its_larger_batches(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wide = ("tracking=off", "model.hidden=[1024,1024]")
    used: list[int] = []

    def of(*overrides: str) -> tuple[int, int]:
        experiment = built(*wide, *overrides)
        state = make_training(experiment, Checkpoints(tmp_path), Log(), Silent(), Stop())
        used.clear()
        evaluate(state, experiment.loaders.val, lambda _: used.append(torch.get_num_threads()))
        assert experiment.config["device"]["evaluation_threads"] == used[0]
        return torch.get_num_threads(), used[0]

    threads = torch.get_num_threads()
    try:
        show(machine, 2)
        assert of() == (1, 2)
        assert of("device.threads=1") == (1, 1), "what is typed stays"
        assert of("device.threads=2", "device.evaluation_threads=1") == (2, 1)
        assert of("device.evaluation_threads=null") == (1, 1), "as every run of version 0.1.0"
        show(machine, 1)
        assert of() == (1, 1)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("load", "said"), [(0.2, ""), (3.4, ""), (3.6, "load 3.6 on 4 cores"), (30.0, "load 30.0 on 4 cores")]
)
def test_a_busy_machine_is_reported(monkeypatch: pytest.MonkeyPatch, load: float, said: str) -> None:
    monkeypatch.setattr(cores.psutil, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 4)
    assert said in busy_message() and bool(busy_message()) == bool(said)
