"""Look at the beginning of a large text file, or through all of it: can it be read block by block?"""

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

BOM = b"\xef\xbb\xbf"
LARGE = 2**22
"""Bytes of a file from which it is not read into memory as a whole."""

LEAST_HEAD = 2**16
"""Bytes of complete lines, by which delimiter and lengths of rows are decided."""

BLOCK = 2**21
OVERLAP = 2**12
SPACES_AND_QUOTE = re.compile(rb'[,;\t|] +"')


@dataclass(frozen=True)
class Head:
    """The beginning of a large text file of the usual form.

    Attributes:
        text: complete lines, more than 64 KiB, without the byte order mark.
        offset: of these lines in the file.
    """

    text: bytes
    offset: int


def look_at_head(path: Path) -> Head | None:
    """Return the beginning of a large file; None for others, and for those that cannot be read."""
    try:
        if not path.is_file() or path.stat().st_size < LARGE:
            return None
        with path.open("rb", buffering=0) as file:
            block = file.read(BLOCK)
    except OSError:
        return None
    text = block[: block.rfind(b"\n") + 1].removeprefix(BOM)
    return Head(text, len(BOM) if block.startswith(BOM) else 0) if len(text) > LEAST_HEAD and text.strip() else None


def is_usual(path: Path) -> bool:
    """Whether a text file is of the usual form.

    That is UTF-8 without NUL, with line ends that are all LF or all CRLF, with an even number of double quotes,
    and none behind a delimiter and spaces.
    """
    try:
        return _is_usual(path)
    except (OSError, UnicodeDecodeError):
        return False


def _is_usual(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    quotes = returns = newlines = both = 0
    tail = b""
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            if b"\0" in block:
                return False
            if not block.isascii() or decoder.getstate()[0]:
                decoder.decode(block)
            if b'"' in block:
                quotes += block.count(b'"')
                if SPACES_AND_QUOTE.search(tail + block):
                    return False
            if b"\r" in block or tail.endswith(b"\r"):
                returns += block.count(b"\r")
                both += block.count(b"\r\n") + (tail.endswith(b"\r") and block.startswith(b"\n"))
            newlines += block.count(b"\n")
            tail = block[-OVERLAP:]
        decoder.decode(b"", final=True)
    return quotes % 2 == 0 and (returns == 0 or returns == newlines == both)
