"""The cells of a text file, parsed block by block: a large table is never in memory as text."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.data.columns import Column, Joined, join, not_kept, parse_rows
from runner.data.named_path import NamedPath
from runner.data.table_blocks import Blocks
from runner.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 2**24
"""Bytes that are parsed at a time; a row cannot be longer."""

BLOCK_OF_FILE = 2**21
"""The same for a file that is read block by block, of which several blocks are read ahead."""

QUOTE = 'put text in double quotes, and double the quotes in it ("")'


class Cells:
    """The cells of a table: the first rows as text, and the columns below the first row.

    Args:
        source: UTF-8 text, or a file of it; `Blocks` if the file has no quotes.
        delimiter: between cells.
        first: the first row.
        file: the table, for problems.
        spaced: whether spaces after a delimiter belong to it.

    Attributes:
        head: the first two rows, or one if there are no others.
        below: the columns below the first row.

    Raises:
        ConfigError: rows differ in length, or one is too long.
        UnusualError: `Blocks` cannot read the file.
    """

    def __init__(
        self,
        source: bytes | Path | Blocks,
        delimiter: str,
        first: list[str],
        file: NamedPath,
        spaced: bool = False,
    ) -> None:
        self._source, self._delimiter, self._first, self._file = source, delimiter, first, file
        self._spaced = spaced
        self.head: list[list[str]] = []
        self._rows, self.below = self._parse()

    @property
    def rows(self) -> int:
        """The number of rows below the first one."""
        return self._rows

    def with_first(self) -> list[Column]:
        """Return the columns with the first row; those below are given up."""
        columns: list[Column] = []
        for place, cell in enumerate(self.head[0]):
            columns.append(join([_single(cell), self.below[0]], lambda place=place: self._column(place)))  # type: ignore[misc]
            del self.below[0]
        return columns

    def _parse(self) -> tuple[int, list[Column]]:
        """Parse all rows; return how many are below the first one, and their columns."""
        import pyarrow as pa

        if isinstance(self._source, Blocks):
            self.head, parsed, expected = self._source.head, iter(self._source), self._source.expected
        else:
            parsed, expected = self._by_text(), 0
        joined = [Joined(expected) for _ in self._first]
        total = 0
        for rows, columns in parsed:
            for one, column in zip(joined, columns, strict=True):
                one.add(column)
            total += rows
        pa.default_memory_pool().release_unused()
        return total, [
            one.column(lambda place=place: self._column(place).slice(1))  # type: ignore[misc]
            for place, one in enumerate(joined)
        ]

    def _by_text(self) -> Iterator[tuple[int, list[Column]]]:
        """Yield the rows below the first one, some at a time."""
        for block in self._blocks():
            begin = 0 if self.head else 1
            if len(self.head) < 2:
                texts = [cells[: 2 - len(self.head)].to_pylist() for cells in block]
                self.head += [list(row) for row in zip(*texts, strict=True)]
            yield len(block[0]) - begin, [parse_rows(cells[begin:], not_kept) for cells in block]

    def _column(self, place: int) -> "pa.ChunkedArray":
        """Return the text of a column, with the first row."""
        import pyarrow as pa

        return pa.chunked_array([block[0] for block in self._blocks(place)], pa.string())

    def _blocks(self, place: int | None = None) -> "Iterator[list[pa.Array]]":
        """Yield the texts of all columns, or of one, some rows at a time."""
        import pyarrow as pa  # late: only tables need it
        import pyarrow.compute as compute
        import pyarrow.csv as parser

        bad: list[Any] = []

        def skip(row: Any) -> str:
            bad.append(row)
            return "skip"

        names = [f"f{number}" for number in range(len(self._first))]
        in_memory = isinstance(self._source, bytes)
        path = self._source.path if isinstance(self._source, Blocks) else self._source
        source = pa.BufferReader(path) if isinstance(path, bytes) else pa.OSFile(str(path))
        even = 0
        try:
            with (
                source,
                parser.open_csv(
                    source,
                    # More than one thread would compete with the other jobs of a sweep.
                    read_options=parser.ReadOptions(
                        use_threads=False,
                        autogenerate_column_names=True,
                        block_size=BLOCK if in_memory else BLOCK_OF_FILE,
                    ),
                    parse_options=parser.ParseOptions(
                        delimiter=self._delimiter,
                        newlines_in_values=not isinstance(self._source, Blocks),
                        invalid_row_handler=skip,
                    ),
                    convert_options=parser.ConvertOptions(
                        column_types=dict.fromkeys(names, pa.string()),
                        strings_can_be_null=False,
                        include_columns=names if place is None else [names[place]],
                    ),
                ) as batches,
            ):
                for batch in batches:
                    even += len(batch)
                    if len(batch):
                        yield [compute.utf8_ltrim(one, " ") if self._spaced else one for one in batch.columns]
        except pa.ArrowInvalid as error:
            raise ConfigError(self._file.problem(f"not a table ({' '.join(str(error).split())})", QUOTE)) from error
        if bad:
            raise ConfigError(self._file.problem(*_explain_ragged(self._first, bad, even, self._delimiter)))


def _single(cell: str) -> Column:
    import pyarrow as pa

    text = pa.chunked_array([[cell]], pa.string())
    return parse_rows(text, lambda: text)


def _explain_ragged(first: list[str], bad: list[Any], even: int, delimiter: str) -> tuple[str, str]:
    """Explain why rows differ in length from the first.

    Args:
        first: the first row.
        bad: the rows of other lengths.
        even: the number of rows of the same length.
        delimiter: between cells.

    Returns:
        A text, and what to do.
    """
    row, width = bad[0], len(first)
    if first[0].startswith("#") or row.text.startswith("#"):
        number = 1 if first[0].startswith("#") else row.number
        return f"row {number} begins with #", "remove comments, which are not supported"
    if all(one.actual_columns == width + 1 for one in bad) and even == 1:
        if row.text.rstrip("\r\n").endswith(delimiter):
            text = f"the first row has {width} cells, the others end with a delimiter"
            return text, "remove that delimiter, or give the last column a name"
        text = f"the first row has {width} names, the others have {width + 1} values"
        return text, "name each column (R: write.csv(x, file), or write.table(..., col.names=NA))"
    text = f"row {row.number} has {row.actual_columns} cells, the first has {width}"
    return text, "give all rows the same number, and put text that contains a delimiter in double quotes"
