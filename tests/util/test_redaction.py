"""Secrets of the environment; test_tracking.py and test_sweep.py test those in addresses."""

import json
import os
import pickle
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path

import pytest
from hydra.types import RunMode
from omegaconf import open_dict, read_write

from conftest import Called
from helpers.delivered import copy_store
from helpers.faults import inject
from helpers.sweeping import Forked
from helpers.talkative import OF_ALL, SECRETS, assert_no_secret, write_talkative
from runner.config.compose import Composer
from runner.config.credentials import without_credentials
from runner.tracking.store import connect, local_uri
from runner.util.redaction import redact, register_secret_arguments, register_secrets

Runner = Callable[..., Called]


@pytest.mark.usefixtures("delivery_here")
def test_a_password_that_is_a_common_word_breaks_nothing(
    here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("POSTGRES_PASSWORD", "mlflow"), ("DB_PASSWORD", "RUNNING"), ("API_TOKEN", "FINISHED")):
        monkeypatch.setenv(name, value)
    assert runner("data.limit=60", "trainer.epochs=1", "tracking.log_model=false", "hydra.run.dir=mine").code == 0
    called = runner("resume=mine", "trainer.epochs=2")
    assert called.code == 0, called.err
    result = json.loads((here / "mine" / "result.json").read_text())
    assert result["status"] == "FINISHED"
    assert connect(local_uri(here / "outputs")).get_run(result["run_id"]).info.status == "FINISHED"


SECRETIVE = """
import torch


class Net(torch.nn.Sequential):
    def __init__(self, input_shape, num_outputs, token, others):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(torch.Size(input_shape).numel(), num_outputs))
        self.token = token

    def forward(self, inputs):
        if self.training and self.token.endswith("210") and inputs.device.type != "meta":
            raise ValueError("the hub refuses " + self.token)
        return super().forward(inputs)
"""


@pytest.mark.usefixtures("delivery_here")
def test_a_secret_of_the_environment_is_in_no_file_and_is_read_again_at_a_resume(
    here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "secretive.py").write_text(SECRETIVE)
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setenv("HUB_TOKEN", "hf-0123456789")
    monkeypatch.setenv("WHATEVER", "hf-0123456789-whatever")
    arguments = ("model=custom", "model._target_=secretive.Net", "tracking.log_model=false", "data.limit=60")
    for way, typed in (("referred", "${oc.env:HUB_TOKEN}"), ("typed", "hf-0123456789")):
        more = "+model.others=[${oc.env:WHATEVER}]"
        called = runner(*arguments, f"+model.token={typed}", more, "trainer.epochs=1", f"hydra.run.dir={way}")
        assert called.code == 0, called.err
        called = runner(f"resume={way}", "trainer.epochs=2")
        assert called.code == 0, called.err
        assert "token: ${oc.env:HUB_TOKEN}" in (here / way / "config.yaml").read_text()
        assert "- ${oc.env:WHATEVER}" in (here / way / "config.yaml").read_text()
    monkeypatch.setenv("HUB_TOKEN", "hf-9876543210")
    called = runner("resume=typed", "trainer.epochs=3", "runner.verbose=true")
    assert called.code == 1
    assert "the hub refuses ${oc.env:HUB_TOKEN}" in called.err
    for path in here.rglob("*"):
        held = path.read_bytes() if path.is_file() and path.name != "secretive.py" else b""
        assert b"hf-0123456789" not in held and b"hf-9876543210" not in held, path


@pytest.mark.parametrize("only", ["--multirun model.when=never,trained", pytest.param("", marks=pytest.mark.soak)])
def test_runs_and_sweeps_write_and_print_no_secret(
    only: str, here: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path, request: pytest.FixtureRequest
) -> None:
    write_talkative(here)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    copy_store(empty_store, here / "outputs")
    if not only:  # a loader's worker of a single run has the environment of the server that an earlier test has started
        forkserver._forkserver._stop()
        request.addfinalizer(forkserver._forkserver._stop)

    prepare = Secretly(SECRETS, str(here))
    common = (*OF_ALL, "runner.verbose=true")
    typed = f"tracking.run_name={SECRETS['MLFLOW_TRACKING_PASSWORD']}"
    runs = {
        (*common, "hydra.run.dir=fine", typed): 0,
        (*common, "model.when=trained"): 1,
        (*common, "model.when=built"): 2,
        ("--multirun", *common, "model.when=never,trained", "sweep.jobs=2"): 1,
        ("--multirun", *common, "model.when=never,built"): 2,
    }
    shown = ""
    chosen = {arguments: code for arguments, code in runs.items() if set(only.split()) <= set(arguments)}
    for arguments, code in chosen.items():
        ended, printed = Forked(here, *arguments, prepare=prepare).wait()
        assert ended == code, printed
        shown += printed
    for word in ("the hub refuses ${oc.env:PRIVATE}${oc.env:MLFLOW_TRACKING_PASSWORD}", "KeyError", "//***@host"):
        assert word in shown + "".join(path.read_text() for path in here.rglob("run.log"))
    configs = [*here.glob("outputs/runs/*/config.yaml"), *here.glob("outputs/sweeps/*/*/config.yaml")]
    assert configs and all("token: ${oc.env:PRIVATE}" in path.read_text() for path in configs)
    (here / "shown.txt").write_text(shown)
    assert len(list(here.rglob("*.db"))) == 1
    assert_no_secret(here)


class Secretly:
    """Gives a process the secrets in its environment, and the user's module."""

    def __init__(self, secrets: dict[str, str], folder: str) -> None:
        self.secrets, self.folder = secrets, folder

    def __call__(self) -> None:
        inject(None)()
        os.environ.update(self.secrets)
        sys.path.insert(0, self.folder)
        os.dup2(2, 1)


def test_a_job_s_config_in_a_file_refers_to_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_TOKEN", "hf-0123456789")
    typed = ["tracking.run_name=of-hf-0123456789", "+model.hubs=[hf-0123456789]", "tracking.uri=http://ada:pw-1@host:9"]
    cfg, problems = Composer().compose(typed, RunMode.MULTIRUN)
    assert cfg is not None and not problems
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.sweeper.storage = "postgresql://ada:correct-horse@host/db"
    told = without_credentials(cfg)
    assert (told.tracking.run_name, list(told.model.hubs)) == ("of-hf-0123456789", ["hf-0123456789"])
    held = pickle.dumps(told)
    assert not any(secret in held for secret in (b"hf-0123456789", b"pw-1", b"correct-horse"))
    assert cfg.tracking.uri == "http://ada:pw-1@host:9"


def test_variables_that_a_config_refers_to_are_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHATEVER", "whatever-it-is")
    monkeypatch.setenv("TEAM", "the-whole-team")
    monkeypatch.setenv("RATE", "0.000125")
    register_secret_arguments(
        ["+model.others=[${oc.env:WHATEVER}]", "tracking.experiment=${oc.env:TEAM}", "optimizer.lr=${oc.env:RATE}"]
    )
    register_secrets({"hydra": {"sweeper": {"storage": "postgresql://ada:correct-horse@host/db"}}})
    for number, reference in enumerate(
        ("${oc.env:'V0'}", '${oc.env:"V1"}', "${ oc.env : V2 }", "${x:${oc.env:  'V3'}}")
    ):
        monkeypatch.setenv(f"V{number}", f"another-{number}")
        register_secrets({"model": {"others": [reference]}})
        assert redact(f"another-{number}") == f"${{oc.env:V{number}}}"
    text = "whatever-it-is, the-whole-team, 0.000125, correct-horse"
    assert redact(text) == "${oc.env:WHATEVER}, the-whole-team, 0.000125, ***"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("postgresql://ada@host/db", "postgresql://ada@host/db"),
        ("postgresql://ada:p@ss/w@host/db", "postgresql://***@host/db"),
        ("https://ghp_0123456789@github.com/x", "https://***@github.com/x"),
        ("ssh://git@github.com/x.git git@github.com:x.git", "ssh://git@github.com/x.git git@github.com:x.git"),
        ("mysql://h/db?user=ada&ssl_password=x&a=1", "mysql://h/db?user=ada&ssl_password=***&a=1"),
        ("http://h/?viewStateShareKey=abc&X-Amz-Signature=x", "http://h/?viewStateShareKey=abc&X-Amz-Signature=***"),
        ("host=h user=ada password=x dbname=y", "host=h user=ada password=*** dbname=y"),
        ("{'Authorization': 'Bearer ab.c1'}", "{'Authorization': 'Bearer ***'}"),
        ("not parsed: 'ada:s3cret@host'", "not parsed: '***@host'"),
        ("model.token=cls tokens=5 12:30:05 a@b", "model.token=cls tokens=5 12:30:05 a@b"),
    ],
)
def test_credentials_in_texts(text: str, redacted: str) -> None:
    assert redact(text) == redacted


def test_a_weak_password_does_not_redact_paths(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "postgres")
    monkeypatch.setenv("POSTGRES_PASSWORD", "postgres")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(here / "key.json"))
    text = f"postgresql://postgres@host/db {here}/key.json"
    assert redact(text) == text
