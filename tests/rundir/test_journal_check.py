"""Journals that were cut, damaged, changed or removed."""

import os
from pathlib import Path

import pytest

from runner.rundir import journal, journal_check
from runner.rundir.journal import Journal


def make_journal(folder: Path, steps: int = 20) -> Path:
    path = folder / "metrics.jsonl"
    writer = Journal(path)
    for step in range(1, steps + 1):
        writer.write({"train/loss": 1 / step, "val/loss": 2 / step}, step)
    writer.close()
    return path


def steps_of(path: Path) -> list[int]:
    return [point.step for point in journal.read(path)[0] if point.name == "val/loss"]


def test_flush_names_what_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(os.fstat(file).st_ino))
    path = make_journal(tmp_path)
    flushed.clear()
    assert journal_check.flush(path) == path.stat().st_size
    assert flushed == [path.stat().st_ino]
    assert journal_check.flush(tmp_path / "missing") == 0


def test_a_whole_journal_has_lost_nothing(tmp_path: Path) -> None:
    path = make_journal(tmp_path)
    size = path.stat().st_size
    for offset in (0, size // 2, size):
        assert journal_check.describe_loss(path, offset, journal_check.checksum(path, offset)) is None
    assert journal_check.describe_loss(path, size, None) is None  # noted by an earlier version
    before = path.read_bytes()
    os.utime(path, (1, 1))
    assert journal_check.repair(path) == (None, False)
    assert path.stat().st_mtime == 1, "MLflow is known to have the file by its time"
    assert path.read_bytes() == before


def test_what_is_missing_cut_or_changed_is_found(tmp_path: Path) -> None:
    path = make_journal(tmp_path)
    size, tail = path.stat().st_size, journal_check.checksum(path, path.stat().st_size)
    whole = path.read_bytes()
    path.write_bytes(whole[: size // 2])
    assert "was cut" in str(journal_check.describe_loss(path, size, tail))
    path.write_bytes(whole[: size // 2] + whole[size // 2 :].replace(b"1", b"2") + whole)  # cut, then longer again
    assert "was changed" in str(journal_check.describe_loss(path, size, tail))
    path.unlink()
    assert "is missing" in str(journal_check.describe_loss(path, size, tail))
    assert journal_check.describe_loss(path, 0, None) is None


@pytest.mark.parametrize("behind", [0, 5], ids=["at the end", "with lines behind them"])
def test_zeros_are_cut_with_all_behind_them_so_that_a_resume_measures_both_again(behind: int, tmp_path: Path) -> None:
    path = make_journal(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:20]) + b"\0" * 777 + b"".join(lines[20 : 20 + behind]))
    found, damaged = journal_check.repair(path)
    assert found is not None and "power loss" in found and not damaged
    assert path.read_bytes() == b"".join(lines[:20])
    writer = Journal(path)
    for step in range(1, 21):
        writer.write({"train/loss": 1 / step, "val/loss": 2 / step}, step)
    writer.close()
    assert steps_of(path) == list(range(1, 21))


def test_a_line_that_a_kill_has_left_half_is_cut_without_a_word(tmp_path: Path) -> None:
    path = make_journal(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"name": "a", "va')
    assert journal_check.repair(path) == (None, False)
    assert path.read_bytes() == whole


def test_damaged_lines_are_counted_and_stay(tmp_path: Path) -> None:
    path = make_journal(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3], lines[9] = b"garbage\n", lines[9][10:]
    path.write_bytes(b"".join(lines))
    found, damaged = journal_check.repair(path)
    assert (found, damaged) == ("metrics.jsonl has 2 damaged lines", True)
    assert len(journal.read(path)[0]) == 38


@pytest.mark.parametrize("key", [b"name", b"value", b"step", b"time"])
def test_a_damaged_byte_in_a_key_is_found(tmp_path: Path, key: bytes) -> None:
    path = make_journal(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(key, key.replace(key[:1], b"\x7f"), 1))
    assert journal_check.repair(path) == ("metrics.jsonl has 1 damaged line", True)
    assert len(journal.read(path)[0]) == 39 and path.stat().st_size == len(whole)


def test_a_part_of_a_journal_ends_with_a_whole_line_and_not_beyond_what_is_flushed(tmp_path: Path) -> None:
    path = make_journal(tmp_path)
    whole = path.read_bytes()
    end = len(whole) - 10  # the last line is not flushed whole
    offset, points = 0, []
    while True:
        part, after = journal.read_block(path, offset, end, 200)
        if after == offset:
            break
        assert whole[after - 1 : after] == b"\n" and after <= end
        offset, points = after, points + part
    assert points == journal.read(path)[0][:-1]
    assert journal.read_block(path, 0, end, 5)[1] > 0  # less than a line
