"""Addresses of stores: any name that a folder can have, and what is left out of them when they are saved."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Called, run_folder
from delivered import copy_store
from runner import evaluate, sync, ui
from runner.folders import for_shell
from runner.tracking.store import connect, get_or_create_experiment, local_uri, place
from runner.tracking.uri import absolute, sqlite_address, sqlite_file

NAMES = (
    "My%20Project", "%2F", "100%", "a#b", "a?b=c", "a;b", "it's", 'say "x"', "ü 数", "~x", "[a], {b}", "${x}", "a=b",
    "a\nb", "a\\", "a@b:c", "-x", "null", "1e5",
)  # fmt: skip
QUICK = ("trainer.epochs=1", "data.limit=32", "model.hidden=[8]", "device=cpu", "tracking.log_model=false")


def test_an_address_names_one_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in NAMES:
        file = Path("/a") / name / "x.db"
        address = sqlite_address(file)
        assert sqlite_file(address) == file and absolute(address) == address
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert sqlite_file(absolute("sqlite:///x.db?timeout=5")) == tmp_path / name / "x.db"
    assert sqlite_address(Path("/a b/ü.db")) == "sqlite:////a b/ü.db"


def test_a_store_lies_in_a_folder_of_any_name(tmp_path: Path, empty_store: Path) -> None:
    for name in NAMES[:12]:
        outputs = tmp_path / "all" / name
        copy_store(empty_store, outputs)
        uri, root = place(None, outputs)
        client = connect(uri)
        run = client.create_run(get_or_create_experiment(client, uri, "runner", root))
        (tmp_path / "file.txt").write_text(name)
        client.log_artifact(run.info.run_id, str(tmp_path / "file.txt"))
        (written,) = (outputs / "mlartifacts").rglob("file.txt")
        assert written.read_text() == name
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["file.txt"]
    assert {path.name for path in (tmp_path / "all").iterdir()} == set(NAMES[:12])  # and nowhere else


@pytest.mark.usefixtures("delivery_here")
@pytest.mark.parametrize("name", ["${x}", "My%20Project\n?"])
def test_a_run_works_in_a_folder_of_any_name(
    name: str, here: Path, runner: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / name).mkdir()
    monkeypatch.chdir(here / name)
    (here / name / "t.csv").write_text("a,b\n" + "1.5,x\n2.5,y\n" * 16)
    called = runner("data=csv", "data.path=t.csv", *QUICK)
    assert called.code == 0, called.err
    folder = run_folder(here / name)
    called = runner(f"resume={folder}", "trainer.epochs=2")
    assert called.code == 0, called.err
    run_id = json.loads((folder / "result.json").read_text())["run_id"]
    assert evaluate.main([f"run={run_id}"]) == 0
    assert sync.main([f"run={folder}"]) == 0
    ui._check(local_uri(here / name / "outputs"))
    assert [path.name for path in here.iterdir()] == [name]


def test_a_path_is_typed_on_one_line() -> None:
    assert for_shell("a b") == "'a b'"
    assert for_shell("it's\n\\") == r"$'it\'s\x0a\\'"
