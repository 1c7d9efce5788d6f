"""Find out whether a journal has lost points: it was cut or damaged by a power loss, replaced, or removed."""

import os
import re
import zlib
from pathlib import Path

from runner.rundir import journal
from runner.util.files import open_to_read

_BLOCK = 1 << 20
_TAIL = 512
_NUL = b"\0"
_LINE = re.compile(rb'\{"name": ".*", "value": [^ ]+, "step": -?\d+, "time": [0-9.e+]+\}')


def flush(path: Path) -> int:
    """Wait until a journal is on the disk.

    Returns:
        Its size in bytes before the call, which is on the disk now; 0 without the file.

    Raises:
        OSError: the file cannot be read, or the disk fails.
    """
    try:
        file = open_to_read(path)
    except FileNotFoundError:
        return 0
    with file:
        size = os.fstat(file.fileno()).st_size
        os.fsync(file.fileno())
    return size


def checksum(path: Path, offset: int) -> int:
    """Return a checksum of the last bytes before an offset; 0 for the offset 0."""
    if offset == 0:
        return 0
    with open_to_read(path) as file:
        file.seek(max(0, offset - _TAIL))
        return zlib.crc32(file.read(min(offset, _TAIL)))


def describe_loss(path: Path, offset: int, tail: int | None) -> str | None:
    """Describe in which way a journal is not the one that was uploaded; None if it is.

    Args:
        path: the journal.
        offset: the bytes of it that were uploaded.
        tail: the checksum of the last of them; None if it was not recorded.
    """
    size = path.stat().st_size if path.exists() else 0
    if offset == 0:
        return None
    if not path.exists():
        return f"{path.name} is missing"
    if size < offset:
        return f"{path.name} was cut: it has {size:,} bytes, and {offset:,} were uploaded"
    if tail is not None and checksum(path, offset) != tail:
        return f"{path.name} was changed after it was uploaded"
    return None


def repair(path: Path) -> tuple[str | None, bool]:
    """Cut a journal back to what a power loss has left whole; nobody may write to it meanwhile.

    Where a power loss has taken a part that was not flushed, some file systems leave zeros, with whole lines behind
    them. These lines are cut too: a resumed run, which skips what the journal has, measures the points of both again.

    Returns:
        What was found, as a sentence without a full stop, or None; and whether lines are damaged in another way, so
        that older points may be lost.
    """
    if not path.exists():
        return None, False
    whole, damaged, cut = 0, 0, False
    for lines, end in journal.blocks(path):
        if (zero := lines.find(_NUL)) >= 0:
            whole, cut = whole + lines.rfind(b"\n", 0, zero) + 1, True
            break
        damaged += _count_damaged(lines)
        whole = end
    found = []
    cut = cut or _ends_in_zeros(path, whole)
    if path.stat().st_size > whole:  # else it keeps its time, by which MLflow is known to have the file
        os.truncate(path, whole)  # an incomplete line alone was left by a kill, and is no loss
    if cut:
        found.append(f"a power loss has taken the end of {path.name}, which a resumed run measures again")
    if damaged:
        found.append(f"{path.name} has {damaged} damaged line{'s' if damaged > 1 else ''}")
    return "; ".join(found) or None, damaged > 0


def _ends_in_zeros(path: Path, offset: int) -> bool:
    with open_to_read(path) as file:
        file.seek(offset)
        return _NUL in file.read()


def _count_damaged(lines: bytes) -> int:
    """Count the lines that are no points."""
    number = lines.count(b"\n") + 1
    begins, ends = lines.count(b'\n{"name": "') + lines.startswith(b'{"name": "'), lines.count(b"}\n")
    separators = map(lines.count, (b'", "value": ', b', "step": ', b', "time": '))
    if {begins, ends + lines.endswith(b"}"), *separators} == {number}:
        return 0
    return sum(_LINE.fullmatch(line) is None for line in lines.split(b"\n"))
