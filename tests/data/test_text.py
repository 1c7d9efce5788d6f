import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from helpers.problems import problem_of
from helpers.training import CPU
from runner.data.collate import divide_pair
from runner.data.loading import make_loaders
from runner.data.preprocess import Preprocess
from runner.data.source import Source
from runner.data.splits import Splits
from runner.data.splitting import split
from runner.data.text import Windows, text
from runner.errors import ConfigError


def write(folder: Path, content: str) -> Path:
    (folder / "text.txt").write_bytes(content.encode())
    return folder / "text.txt"


def read(source: Source, part: str) -> str:
    """The text that the windows of a part cover, without the last character of each."""
    return "".join(source.classes[token] for window in getattr(source, part) for token in window[:-1])  # type: ignore[index]


def test_windows_cover_each_part_and_overlap_in_what_is_predicted_only(tmp_path: Path) -> None:
    content = "".join(chr(65 + (7 * i * i + i) % 23) for i in range(401))
    source = text(write(tmp_path, content), block=8, held_out=0.2)
    whole = len(content)
    train, val, test = content[: whole - 160], content[whole - 160 : whole - 80], content[whole - 80 :]
    assert source.classes == sorted(set(content))
    for name, part in (("train", train), ("val", val), ("test", test)):
        covered = read(source, name)
        assert covered == part[: len(covered)]
        assert len(part) - len(covered) <= 8, "less than a window is left over"
    windows = list(source.train)  # type: ignore[call-overload]
    assert all(window.dtype == torch.int64 and len(window) == 9 for window in windows)
    assert all(one[-1] == next_one[0] for one, next_one in pairwise(windows))


def test_a_stride_begins_a_window_at_every_so_many_characters(tmp_path: Path) -> None:
    path = write(tmp_path, "abcdefghij" * 10)
    often = text(path, block=4, stride=1)
    assert [int(window[0]) for window in often.train][:5] == [0, 1, 2, 3, 4]  # type: ignore[call-overload]
    assert len(often.train) == 80 - 4  # type: ignore[arg-type]
    assert len(often.val) == len(text(path, block=4).val) == 2, "held-out text is predicted once"  # type: ignore[arg-type]


@pytest.mark.parametrize(("different", "bytes_each"), [(256, 1), (257, 4)])
def test_a_batch_is_read_at_once_and_characters_are_held_in_few_bytes(different: int, bytes_each: int) -> None:
    ids = torch.arange(different).repeat(2).to(torch.uint8 if bytes_each == 1 else torch.int32)
    windows = Windows(ids, block=5, stride=3)
    chosen = [7, 0, len(windows) - 1]
    assert all(map(torch.equal, windows.__getitems__(chosen), [windows[index] for index in chosen]))
    with pytest.raises(IndexError):
        windows[len(windows)]
    assert len(windows) == (2 * different - 6) // 3 + 1


def test_many_different_characters_are_told_apart(tmp_path: Path) -> None:
    content = "".join(map(chr, range(0x4E00, 0x4E00 + 300))) + "\U0001f600" * 300
    source = text(write(tmp_path, content), block=4)
    assert source.classes is not None and len(source.classes) == 301 and source.classes[-1] == "\U0001f600"
    assert read(source, "train")[:250] == content[:250]


def divided(source: Source) -> Splits:
    return split(source, val_fraction=None, limit=None, seed=0, divide=divide_pair, integers_are_numbers=False)


def test_batches_from_memory_and_from_the_text_are_the_same(tmp_path: Path) -> None:
    splits = divided(text(write(tmp_path, "to be or not to be, that is the question. " * 20), block=8, stride=3))
    preprocess = Preprocess(splits.normalize, lambda targets, dtype: targets, CPU, torch.float32)
    made = [
        list(make_loaders(splits, preprocess, batch_size=5, seed=1, in_memory=held).train.epoch(1))
        for held in (True, False)
    ]
    assert len(made[0]) == len(made[1]) > 10
    for (one, nothing), (other, _) in zip(*made, strict=True):
        assert nothing is None and one.dtype == torch.int64 and torch.equal(one, other)


def test_another_text_or_another_division_has_another_fingerprint(tmp_path: Path) -> None:
    def fingerprint(content: str, block: int = 16, stride: int | None = None) -> str:
        return divided(text(write(tmp_path, content), block=block, stride=stride)).fingerprint

    content = "to be or not to be, that is the question. " * 20
    made = [fingerprint(content), fingerprint(content + "x"), fingerprint(content, 32), fingerprint(content, 16, 5)]
    assert len(set(made)) == 4 and fingerprint(content) == made[0]


def test_without_a_path_it_is_the_language_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    source = text()
    assert "The grammar for" in read(source, "train") or "statement" in read(source, "train")
    assert source.classes is not None and 80 < len(source.classes) < 256
    assert sum(map(len, (source.train, source.val, source.test))) * 128 > 300_000  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    problem = problem_of(text)
    assert (problem.key, problem.topic) == ("data.path", "unavailable")


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    short = write(tmp_path, "abc" * 100)
    problem = problem_of(lambda: text(short))
    assert (problem.key, problem.topic) == ("data.block", "range") and "300 characters" in problem.text
    assert problem.suggestion == "write data.block=14"
    text(short, block=14)
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1") * 900)
    problem = problem_of(lambda: text(tmp_path / "latin.txt"))
    assert (problem.key, problem.topic) == ("data.path", "data")
    problem = problem_of(lambda: text(tmp_path / "none.txt"))
    assert (problem.key, problem.topic) == ("data.path", "file")
    with pytest.raises(ConfigError):
        text(write(tmp_path, "a"))
