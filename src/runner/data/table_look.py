"""Look through a large text file once, to find out whether it can be read block by block."""

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
        text: complete lines, more than 64 KiB.
        quoted: whether the file has double quotes.
    """

    text: bytes
    quoted: bool


def look_through(path: Path) -> Head | None:
    """Return the beginning of a large text file of the usual form.

    That is UTF-8 without NUL, with line ends that are all LF or all CRLF, with an even number of double quotes,
    and none behind a delimiter and spaces.

    Returns:
        None for all other files, and for those that cannot be read.
    """
    try:
        if not path.is_file() or path.stat().st_size < LARGE:
            return None
        return _look_through(path)
    except (OSError, UnicodeDecodeError):
        return None


def _look_through(path: Path) -> Head | None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    quotes = returns = newlines = both = 0
    head, tail = b"", b""
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            if b"\0" in block:
                return None
            if not block.isascii() or decoder.getstate()[0]:
                decoder.decode(block)
            if b'"' in block:
                quotes += block.count(b'"')
                if SPACES_AND_QUOTE.search(tail + block):
                    return None
            if b"\r" in block or tail.endswith(b"\r"):
                returns += block.count(b"\r")
                both += block.count(b"\r\n") + (tail.endswith(b"\r") and block.startswith(b"\n"))
            newlines += block.count(b"\n")
            head, tail = head or block, block[-OVERLAP:]
        decoder.decode(b"", final=True)
    text = head[: head.rfind(b"\n") + 1].removeprefix(BOM)
    usual = quotes % 2 == 0 and (returns == 0 or returns == newlines == both)
    return Head(text, quotes > 0) if usual and len(text) > LEAST_HEAD and text.strip() else None
