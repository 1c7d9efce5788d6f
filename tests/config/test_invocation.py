"""The command of a run, and the name derived from it."""

import shlex
import subprocess
from pathlib import Path

import pytest

from runner.config.invocation import (
    describe_command,
    format_description,
    make_run_name,
    name_customs,
    named_choices,
    read_commands,
    with_date,
    without_credentials,
)


@pytest.mark.parametrize(
    ("argument", "kept"),
    [
        ("tracking.uri=http://ada:s3cret@host:5000", "tracking.uri=***"),
        ("+tracking.uri=postgresql://ada@host/db", "+tracking.uri=***"),
        ("hydra.sweeper.storage=postgresql://ada:s3cret@host/db", "hydra.sweeper.storage=***"),
        ("tracking.uri=${oc.env:TEAM_STORE}", "tracking.uri=${oc.env:TEAM_STORE}"),
        ("tracking.uri=null", "tracking.uri=null"),
        ("+data.url=https://ada:s3/c@ret@host/x", "+data.url=https://***@host/x"),
        ("tracking.description=from ada:s3cret@host", "tracking.description=from ***@host"),
        ("tracking={name:server,uri:http://ada:s3cret@host}", "tracking={name:server,uri:http://***@host}"),
        ("hydra.launcher.ray.init._redis_password=s3cret", "hydra.launcher.ray.init._redis_password=***"),
        ("+data.url=https://host/x?token=s3cret", "+data.url=https://host/x?token=***"),
        ("optimizer.lr=0.1", "optimizer.lr=0.1"),
        ("model.hidden=[64,32]", "model.hidden=[64,32]"),
    ],
)
def test_credentials_are_removed_from_the_command(argument: str, kept: str) -> None:
    assert without_credentials([argument]) == [kept]


def test_a_secret_of_the_environment_is_removed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_TOKEN", "hf_0123456789")
    assert "hf_0123456789" not in describe_command(without_credentials(["tracking.description=hf_0123456789"]))


def test_a_command_is_one_line_that_a_shell_parses_back() -> None:
    arguments = ["data.root=a b", "x='1'", "tracking.description=two\nlines", "y=\\n$HOME", "data.path=\udce9t.csv"]
    line = describe_command(arguments)
    assert len(line.splitlines()) == 1
    echo = line.replace("python -m runner", "printf '%s\\0'", 1)
    printed = subprocess.run(["bash", "-c", echo], stdout=subprocess.PIPE, check=True).stdout.split(b"\0")[:-1]
    assert [text.decode(errors="surrogateescape") for text in printed] == arguments
    assert shlex.split(describe_command(["a=b c"])) == ["python", "-m", "runner", "a=b c"]


def test_the_commands_of_a_config_are_read_back(tmp_path: Path) -> None:
    assert read_commands(tmp_path / "config.yaml") == []
    (tmp_path / "config.yaml").write_text("# python -m runner resume=x\n# $ python -m runner a=1\nseed: 0\n")
    assert read_commands(tmp_path / "config.yaml") == ["python -m runner a=1"]


def test_a_description_shows_a_command_unchanged() -> None:
    assert format_description(None, []) == ""
    assert format_description("why", ["a"]) == "why\n\n```console\n$ a\n```"
    assert format_description(None, ["a '```'"]).startswith("````console\n")


FOLDER = Path("2026-11-28_01-04-21_mlp_digits")


@pytest.mark.parametrize(
    ("typed", "choices", "folder", "name"),
    [
        ([], {"model": "mlp", "data": "digits"}, FOLDER, "mlp digits 11-28_01-04-21"),
        ([], {"model": "mlp", "data": "digits"}, Path(f"{FOLDER}_2"), "mlp digits 11-28_01-04-21_2"),
        (
            ["optimizer=adamw", "optimizer.lr=3e-3", "--config-dir", "mine", "tracking.wait=1", "data.root=/x"],
            {"model": "cnn", "data": "mnist", "optimizer": "adamw"},
            FOLDER,
            "adamw lr=3e-3 cnn mnist 11-28_01-04-21",
        ),
        (["model=cnn", "seed=1"], {"model": "cnn", "data": "digits"}, Path("mine"), "cnn seed=1 digits mine"),
        (
            ["data=csv", "data.path=/a/b/iris.csv", "scheduler=null"],
            {"model": "mlp", "data": "csv"},
            FOLDER,
            "csv path=iris.csv mlp 11-28_01-04-21",
        ),
        (
            ["model=custom", "model._target_=shapes.Wide"],
            {"model": "Wide", "data": "digits"},
            FOLDER,
            "Wide digits 11-28_01-04-21",
        ),
        (
            ["model=custom", "task=custom"],  # their classes are in a preset
            {"model": "Pair", "data": "ring", "task": "GAN"},
            FOLDER,
            "Pair GAN ring 11-28_01-04-21",
        ),
        (
            [f"model.hidden=[{'9,' * 99}9]"],
            {"model": "mlp"},
            FOLDER,
            "hidden=[9,9,9,9,9,9,9,9,9,9,... mlp 11-28_01-04-21",
        ),
    ],
)
def test_a_run_is_named_by_what_differs_first(
    typed: list[str], choices: dict[str, str], folder: Path, name: str
) -> None:
    assert make_run_name(typed, choices, folder) == name


def test_a_choice_of_ones_own_goes_by_the_name_of_its_class() -> None:
    choices = {"model": "custom", "data": "custom", "task": "custom", "loss": "auto"}
    config = {"model": {"_target_": "a.b.Net"}, "data": {"_target_": "a.pairs"}, "task": {"_target_": "???"}}
    named = named_choices(choices, config)
    assert named == {"model": "Net", "data": "pairs", "task": "custom", "loss": "auto"}
    assert name_customs("runs/2026_custom_custom", choices, named) == "runs/2026_Net_pairs"
    assert name_customs("runs/mine", choices, named) == "runs/mine"


def test_the_start_time_is_read_from_a_sweep_s_folder() -> None:
    assert with_date("lr=0.1,0.01", Path("2026-11-28_01-04-21")) == "lr=0.1,0.01 11-28_01-04-21"
    assert with_date("lr=0.1,0.01", Path("2026-11-28_01-04-21_2")) == "lr=0.1,0.01 11-28_01-04-21_2"
