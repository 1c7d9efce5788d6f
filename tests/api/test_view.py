"""What a call shows in a notebook, on a terminal and in a file."""

import logging
import os
import sys
import threading
from typing import Any

import pytest

from runner.api import view
from runner.api.process import _environment
from runner.api.view import View
from runner.util import events
from runner.util.terminal import EPOCH


def line(text: str, level: int = logging.INFO, topic: str | None = None) -> dict[str, Any]:
    return {"kind": "line", "text": text, "level": level, "topic": topic}


def show(in_notebook: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "in_notebook", lambda: in_notebook)
    shown = View()
    shown.receive(line("model      Net"))
    shown.receive(line("epoch 1/4", topic=EPOCH))
    metrics = {"train/loss": 0.5, "time/epoch_seconds": 1.0}
    shown.receive({"kind": "progress", "done": 1.5, "total": 4, "unit": "epoch", "metrics": metrics})
    shown.receive(line("note       careful", logging.WARNING))
    shown.close()


def test_a_notebook_gets_a_bar_instead_of_lines_of_epochs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = threading.enumerate()
    show(True, monkeypatch)
    out, err = capsys.readouterr()
    assert out == "model      Net\n" and "note       careful" in err and "epoch 1/4" not in err
    assert "epochs:  38%" in err and "train/loss 0.5000" in err and "time" not in err
    assert threading.enumerate() == before, "tqdm's own thread"


def test_a_script_without_a_terminal_gets_the_lines_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show(False, monkeypatch)
    assert capsys.readouterr() == ("", "model      Net\nepoch 1/4\nnote       careful\n")


def test_the_child_finds_the_modules_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", "/mine", *sys.path, "/mine", "/b/archive.zip"])
    found = _environment(7)
    assert found[events.VARIABLE] == "7" and found["PYTHONPATH"].split(os.pathsep)[0] == "/mine"
    assert found["PYTHONPATH"].endswith("/b/archive.zip") and "site-packages" not in found["PYTHONPATH"]


def test_messages_cross_a_pipe_and_stop_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(events, "_receivers", [])
    monkeypatch.setattr(events, "_pipes", [])
    monkeypatch.setattr(events, "end_with_parent", lambda number: None)
    monkeypatch.setenv(events.VARIABLE, str(writing))
    events.connect()
    assert events.VARIABLE not in os.environ, "what this process starts has no pipe"
    events.send("folder", path="a\nb")
    assert os.read(reading, 100) == b'{"kind": "folder", "path": "a\\nb"}\n'
    events.name_pipe()
    events.connect(rank=1)
    assert len(events._receivers) == 1, "only rank 0 says something"
    os.close(reading)
    events.send("folder", path="gone")
    os.close(writing)
