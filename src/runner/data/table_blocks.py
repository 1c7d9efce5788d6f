"""A large text file without quotes, read and parsed in blocks by several threads."""

import os
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from threading import local
from typing import TYPE_CHECKING, Literal

import numpy as np

from runner.data.columns import Column, is_whole, not_kept, parse_numbers, parse_rows
from runner.data.rows import threads
from runner.data.table_look import BOM, SPACES_AND_QUOTE, Head

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 2**22
"""Bytes that a thread parses at a time; a row cannot be longer. With smaller ones the threads wait for each other."""

MARGIN = 2**12
"""Bytes that are read behind a block to find the end of its last row."""

LOOK = 2**16
"""Bytes at the beginning that tell which columns have decimals."""


class UnusualError(Exception):
    """The file is not of the form that is read here."""


class Blocks:
    """A text file whose rows are lines: UTF-8 without quotes and NUL, with line ends that are all LF or all CRLF.

    A block is parsed by one thread, from the first row that begins in it to the last. Cells of columns with decimals
    are parsed as numbers at once. Cells of others are text first, as their spelling may matter.

    Args:
        path: of the file.
        delimiter: between cells.
        head: the beginning of the file; its first row may be quoted.
        width: the number of cells of a row.

    Attributes:
        head: the cells of the first two rows, or of one if there are no others.
        expected: about how many rows there are.

    Raises:
        UnusualError: the file is not of this form, or its rows differ in length.
    """

    def __init__(self, path: Path, delimiter: str, head: Head, width: int) -> None:
        self.path, self._delimiter = path, delimiter
        self._names = [f"f{number}" for number in range(width)]
        blank = len(head.text) - len(head.text.lstrip(b"\r\n"))
        first = head.text.index(b"\n", blank) + 1
        row = head.text[blank:first]
        if row.count(b'"') % 2 or SPACES_AND_QUOTE.search(row) or b"\0" in row:
            raise UnusualError
        self._line_ends = _line_ends(head.text, 0, first)
        self._begin = head.offset + first
        self._memory = local()
        look = head.text[: max(head.text.rfind(b"\n", 0, LOOK) + 1, first)]
        texts = self._parse(look, frozenset(), quote='"')
        if texts is None:
            raise UnusualError
        self.expected = path.stat().st_size * len(texts[0]) // len(look) * 21 // 20
        self.head = [list(row) for row in zip(*(text[:2].to_pylist() for text in texts), strict=True)]
        columns = [parse_rows(text[1:], not_kept) for text in texts]
        self._decimals = frozenset(place for place, column in enumerate(columns) if _has_decimals(column))

    def __iter__(self) -> Iterator[tuple[int, list[Column]]]:
        """Yield the rows below the first one, some at a time: how many, and their columns without `text`."""
        pool = ThreadPoolExecutor(threads(), "table")
        file = os.open(self.path, os.O_RDONLY)
        try:
            # All at once: joining takes a tenth of the time, and threads that never wait share the cores best.
            begins = range(self._begin, os.fstat(file).st_size, BLOCK)
            for rows, columns in pool.map(self._columns, repeat(file), begins):
                if len(self._line_ends) > 1:
                    raise UnusualError
                if rows:
                    yield rows, columns
        finally:
            pool.shutdown(cancel_futures=True)
            os.close(file)

    def _columns(self, file: int, begin: int) -> tuple[int, list[Column]]:
        """Read and parse the rows that begin in a block."""
        rows = self._rows(file, begin)
        parsed = self._parsed(rows, self._decimals) or self._parsed(rows, frozenset())
        if parsed is None:
            if bytes(rows).strip(b"\r\n"):
                raise UnusualError
            return 0, []
        # A new set, as other threads read the old one.
        self._decimals -= {place for place, one in enumerate(parsed[1]) if one.kind != "number" or one.missing}
        return parsed

    def _rows(self, file: int, begin: int) -> memoryview:
        """Read the rows that begin in a block, and check that they are of the usual form."""
        if not hasattr(self._memory, "buffer"):
            self._memory.buffer = bytearray(2 * BLOCK)  # of a thread; memory that is new costs more than reading
        buffer: bytearray = self._memory.buffer
        length = wanted = 0
        end = 0
        while not end and length == wanted:  # until the end of a row behind the block, or of the file
            if wanted == len(buffer):
                raise UnusualError
            wanted = len(buffer) if wanted else min(BLOCK + MARGIN, len(buffer))
            # From one byte before the block on: a row begins behind the end of a line.
            while count := os.preadv(file, [memoryview(buffer)[length:wanted]], begin - 1 + length):
                length += count
            end = buffer.find(b"\n", BLOCK, length) + 1
        end = end or length
        start = buffer.find(b"\n", 0, end) + 1 or end
        rows = memoryview(buffer)[start:end]
        if len(rows):
            marks = np.frombuffer(rows, np.uint8)
            if marks.min() == 0 or buffer.find(b'"', start, end) >= 0 or rows[: len(BOM)] == BOM:
                raise UnusualError
            if marks.max() >= 128:
                try:
                    str(rows, "utf-8")
                except UnicodeDecodeError as error:
                    raise UnusualError from error
            self._line_ends |= _line_ends(buffer, start, end)
        return rows

    def _parsed(self, rows: memoryview, decimals: Collection[int]) -> tuple[int, list[Column]] | None:
        """Parse rows, and count them; None if they differ in length, or cells of these places are no numbers."""
        arrays = self._parse(rows, decimals)
        if arrays is None:
            return None
        columns = []
        for place, cells in enumerate(arrays):
            column = parse_numbers(cells, not_kept) if place in decimals else parse_rows(cells, not_kept)
            if column is None:
                return None
            columns.append(column)
        return len(arrays[0]), columns

    def _parse(
        self, rows: bytes | memoryview, decimals: Collection[int], quote: str | Literal[False] = False
    ) -> "list[pa.Array] | None":
        """Return the cells of each column as text, or as float64; None if that is impossible."""
        import pyarrow as pa
        import pyarrow.csv as parser

        types = {name: pa.float64() if place in decimals else pa.string() for place, name in enumerate(self._names)}
        try:
            table = parser.read_csv(
                pa.BufferReader(pa.py_buffer(rows)),
                read_options=parser.ReadOptions(
                    use_threads=False, column_names=self._names, block_size=max(len(rows) + 1, MARGIN)
                ),
                parse_options=parser.ParseOptions(delimiter=self._delimiter, quote_char=quote),
                convert_options=parser.ConvertOptions(column_types=types, null_values=[], check_utf8=bool(quote)),
            )
        except pa.ArrowInvalid:
            return None
        return [column.chunk(0) for column in table.columns] if len(table) else None


def _has_decimals(column: Column) -> bool:
    """Whether a column of numbers has one that is not whole: then no spelling of the others matters."""
    return column.kind == "number" and column.values is not None and not is_whole(column.values)


def _line_ends(text: bytes | bytearray, start: int, end: int) -> set[bytes]:
    """Return how the lines of a part of a text end.

    Raises:
        UnusualError: in several ways.
    """
    returns = text.count(b"\r", start, end)
    if not returns:
        return {b"\n"} if text.find(b"\n", start, end) >= 0 else set()
    if not returns == text.count(b"\n", start, end) == text.count(b"\r\n", start, end):
        raise UnusualError
    return {b"\r\n"}
