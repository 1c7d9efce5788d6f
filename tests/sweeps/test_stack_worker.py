"""The process of a stack, for jobs that cannot be opened."""

import pickle
from multiprocessing import Pipe
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from runner.rundir import layout
from runner.rundir.lock import is_locked
from runner.sweeps.jobs import JobSpec, StackSpec
from runner.sweeps.launchers import stack_worker


def test_a_job_that_cannot_be_opened_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = pickle.dumps(OmegaConf.create({"hydra": {"runtime": {"choices": {}}}}))
    jobs = [JobSpec(n, tmp_path / str(n), config, str(tmp_path), {}, None, None, None, 1) for n in range(2)]
    for job in jobs:
        job.folder.mkdir()
    trained: list[int] = []
    monkeypatch.setattr(stack_worker, "fit_stacks", lambda members, store: trained.extend(members))
    receiving, sending = Pipe(duplex=False)
    assert stack_worker._run(StackSpec("0", tmp_path, str(tmp_path), {}, jobs), sending) == 0
    assert [receiving.recv() for _ in jobs] == [(0, 1), (1, 1)]
    assert trained == []
    for job in jobs:
        assert not is_locked(job.folder)
        assert "error: " in (job.folder / layout.LOG).read_text()
