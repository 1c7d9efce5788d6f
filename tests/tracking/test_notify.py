import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from conftest import Called, run_folder
from helpers.receiver import REFUSING, TOKEN, Receiver, receiving
from helpers.sweeping import Forked
from runner.config.compose import Composer
from runner.config.hydra_job import plain_without_hydra
from runner.config.notify import names_of
from runner.rundir import layout
from runner.runs import resume
from runner.saved.run import find
from runner.sweeps.check.compose_jobs import as_job
from runner.tracking.notify_text import compose

SMALL = ("debug=fast", "model.hidden=[4]", "tracking=off")
NOTIFY = "tracking.notify=[${oc.env:RECEIVER}]"

Runner = Callable[..., Called]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving() as server:
        monkeypatch.setenv("RECEIVER", server.address())
        yield server


def _set_address(address: str) -> None:
    os.environ["RECEIVER"] = address


def forked(receiver: Receiver, here: Path, *arguments: str) -> Forked:
    """Run runner in another process, with the address in its environment."""
    return Forked(here, *arguments, prepare=partial(_set_address, receiver.address()))


def assert_is_secret(folder: Path) -> None:
    for path in filter(Path.is_file, folder.rglob("*")):
        assert TOKEN.encode() not in path.read_bytes(), path


def test_a_run_that_ends_and_one_that_resumes_are_heard_of_once_each(
    receiver: Receiver, here: Path, runner: Runner
) -> None:
    called = runner(*SMALL, NOTIFY, "optimizer.lr=1e30")
    assert (called.code, receiver.titles) == (1, ["runner: failed"])
    failed = receiver.messages[0]
    assert failed["type"] == "failure" and "error: train/loss is nan in epoch 1" in failed["message"]
    folder = run_folder(here)
    assert OmegaConf.to_container(OmegaConf.load(folder / layout.CONFIG))["tracking"]["notify"] == [
        "${oc.env:RECEIVER}"
    ]
    called = runner(*SMALL, NOTIFY, "hydra.run.dir=ok")
    assert (called.code, receiver.titles[1:]) == (0, ["runner: finished"])
    title, lines = receiver.messages[1]["title"], receiver.messages[1]["message"].splitlines()
    assert title == "runner: finished ok" and lines[0].startswith("FINISHED: 2 epochs, ")
    assert "val/loss" in lines[1] and "test/accuracy" in lines[1] and lines[2].endswith(f":{here}/ok")
    called = runner("resume=ok", "trainer.epochs=3")
    assert (called.code, receiver.titles[2:]) == (0, ["runner: finished"])
    assert receiver.messages[2]["message"].startswith("FINISHED: 3 epochs, ")
    assert_is_secret(here)


def test_a_killed_run_is_heard_of_within_seconds_whatever_its_workers_do(receiver: Receiver, here: Path) -> None:
    arguments = ("data.in_memory=false", "data.num_workers=1", "trainer.epochs=100000", "hydra.run.dir=killed")
    killed = forked(receiver, here, *SMALL, NOTIFY, *arguments)
    deadline = time.monotonic() + 60
    while not (here / "killed" / "checkpoints" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    then = time.time()
    receiver.wait(1)
    assert receiver.messages[0]["time"] - then < 5
    assert receiver.messages[0]["title"] == "runner: killed killed"
    last = receiver.messages[0]["message"].splitlines()[-1]
    assert last == f"resume: python -m runner resume={here}/killed"
    time.sleep(0.2)
    assert len(receiver.messages) == 1
    assert_is_secret(here)


def test_what_cannot_be_sent_is_one_warning_and_changes_nothing(
    receiver: Receiver, here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEAF", receiver.address(REFUSING))
    called = runner(*SMALL, "tracking.notify=[${oc.env:DEAF},${oc.env:RECEIVER}]")
    assert (called.code, receiver.titles) == (0, ["runner: finished"])
    log = (run_folder(here) / layout.LOG).read_text()
    for text in (called.err, log):
        (line,) = [line for line in text.splitlines() if "notification" in line]
        assert "${oc.env:DEAF}" in line
        assert REFUSING not in text
    assert json.loads((run_folder(here) / layout.RESULT).read_text())["status"] == "FINISHED"


def test_an_address_that_no_service_has_is_refused_and_not_shown(
    here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECEIVER", f"nothing://host/{TOKEN}")
    called = runner(*SMALL, NOTIFY)
    assert (called.code, called.about) == (2, [("tracking.notify", "type")])
    assert TOKEN not in called.err and "RECEIVER" in called.err
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "typed",
    [
        f"tracking.notify=[json://127.0.0.1/{TOKEN}]",
        f"tracking.notify=json://127.0.0.1/{TOKEN}?a=b&c",
        f"++tracking.notify=[${{oc.env:RECEIVER}},mailto://me:{TOKEN}@host]",
        f"tracking.notify=[json://${{oc.env:RECEIVER}}/{TOKEN}]",
        f"tracking.notify=[${{oc.env:RECEIVER,json://{TOKEN}}}]",
        "tracking.notify=${oc.env:RECEIVER}",
        "tracking.notify=null",
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_a_typed_address_is_refused_and_not_shown(
    typed: str, several: bool, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECEIVER", "json://host")
    called = runner(*SMALL, typed, *(["--multirun", "seed=0,1"] if several else []))
    assert (called.code, called.about) == (2, [("tracking.notify", "conflict")])
    assert TOKEN not in called.err
    assert "write 'tracking.notify=[${oc.env:NAME}]'" in called.err


def test_an_address_in_a_file_of_the_users_is_refused_too(
    here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for group, text in (("one", f'["json://host/{TOKEN}"]'), ("other", '["${oc.env:RECEIVER}"]')):
        file = here / "mine" / "experiment" / f"{group}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# @package _global_\ntracking:\n  notify: {text}\n")
    called = runner("--config-dir", "mine", "experiment=one", *SMALL)
    assert (called.code, called.about) == (2, [("tracking.notify", "conflict")])
    assert TOKEN not in called.err
    monkeypatch.delenv("RECEIVER", raising=False)
    called = runner("--config-dir", "mine", "experiment=other", *SMALL)
    assert (called.code, called.about) == (2, [("tracking.notify", "missing")])
    assert "RECEIVER is not set" in called.err


def test_without_the_package_it_is_named(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECEIVER", "json://host")
    monkeypatch.setattr("runner.config.notify.importlib.util.find_spec", lambda _: None)
    called = runner(*SMALL, NOTIFY)
    assert (called.code, called.about) == (2, [("tracking.notify", "unavailable")])
    assert "pip install apprise" in called.err


def composed(*arguments: str) -> DictConfig:
    cfg, problems = Composer().compose(arguments)
    assert cfg is not None and problems == []
    return cfg


def test_a_job_of_a_sweep_and_what_only_reads_a_run_need_no_variable(
    here: Path, monkeypatch: pytest.MonkeyPatch, receiver: Receiver, runner: Runner
) -> None:
    cfg = composed(*SMALL, "tracking.notify=['${oc.env:RECEIVER}', ${oc.env:RECEIVER}]")
    assert names_of(cfg) == ["RECEIVER"]
    monkeypatch.delenv("RECEIVER")
    as_job(cfg, 0, here)
    assert names_of(cfg) == [] and "notify" not in " ".join(cfg.hydra.overrides.task)
    folder = here / "run"
    folder.mkdir()
    config = plain_without_hydra(composed(*SMALL))
    config["tracking"]["notify"] = ["${oc.env:RECEIVER}"]
    (folder / layout.CONFIG).write_text(yaml.safe_dump(config))
    cfg, problems = resume.compose_saved(find(str(folder)))
    assert cfg is not None and (problems, names_of(cfg)) == ([], [])
    called = runner(f"resume={folder}")
    assert ("tracking.notify", "missing") in called.about and "write tracking.notify=[]" in called.err


def test_a_message_of_a_run_without_any_file_says_what_is_known(tmp_path: Path) -> None:
    title, body = compose(tmp_path / "gone", "FAILED", ["error: no space left"], 3.0)
    assert title == "runner: failed gone"
    assert body.splitlines()[:2] == ["FAILED: 0 epochs, 3 s", "error: no space left"]
    assert len(body.splitlines()) == 3


@pytest.mark.soak
def test_a_sweep_sends_one_message_with_its_verdict(receiver: Receiver, here: Path, runner: Runner) -> None:
    varied = ("optimizer.lr=0.1,0.001", "seed=0,1,2", "sweep.jobs=2")
    called = runner("--multirun", *SMALL, NOTIFY, *varied, "hydra.sweep.dir=six")
    assert (called.code, receiver.titles) == (0, ["runner: finished"])
    message = receiver.messages[0]["message"]
    assert message.startswith("FINISHED: 6 jobs finished, ") and "has the best mean val/loss of 2" in message
    called = runner("--multirun", "sweep.resume=six", "seed=0,1,2,3", "sweep.extend=true")
    assert (called.code, receiver.titles[1:]) == (0, ["runner: finished"])
    killed = forked(
        receiver, here, "--multirun", *SMALL, NOTIFY, "seed=0,1", "trainer.epochs=100000", "hydra.sweep.dir=killed"
    )
    while not (here / "killed" / "1" / "checkpoints").exists():
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    receiver.wait(3)
    assert receiver.messages[2]["title"] == "runner: killed sweep killed"
    assert f"sweep.resume={here}/killed" in receiver.messages[2]["message"]
    time.sleep(10)  # its jobs end
    assert len(receiver.messages) == 3
    assert_is_secret(here)


@pytest.mark.soak
def test_rank_0_alone_notifies(receiver: Receiver, here: Path) -> None:
    ended = forked(receiver, here, *SMALL, NOTIFY, "strategy=ddp", "strategy.nproc_per_node=2")
    code, printed = ended.wait(120)
    assert (code, receiver.titles) == (0, ["runner: finished"]), printed


@pytest.mark.soak
def test_a_signal_and_the_death_of_the_process_that_sends(receiver: Receiver, here: Path) -> None:
    stopped = forked(receiver, here, *SMALL, NOTIFY, "trainer.epochs=100000", "hydra.run.dir=stopped")
    while not (here / "stopped" / "checkpoints" / "last.pt").exists():
        time.sleep(0.05)
    (sender,) = [
        int(path.name)
        for path in Path("/proc").glob("[0-9]*")
        if b"runner.tracking.notify_process" in _command(path) and _parent(path) == stopped.pid
    ]
    os.kill(sender, signal.SIGKILL)
    os.killpg(stopped.pid, signal.SIGTERM)
    code, printed = stopped.wait()
    assert (code, receiver.titles) == (143, ["runner: killed"]), printed
    assert "stopped by SIGTERM" in receiver.messages[0]["message"]


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def _parent(process: Path) -> int:
    return int((process / "stat").read_text().rpartition(")")[2].split()[1])
