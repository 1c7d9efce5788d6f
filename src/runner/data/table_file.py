"""From a text file to cells: encoding, delimiter, quotes, and rows that all have the same number of cells."""

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
LOOKED_AT = 64 * 1024  # bytes that the delimiter is found in
SEPARATOR = re.compile(rb'"?sep=([,;\t|])"?(\r\n|\r|\n)')  # a first line that Excel writes and takes
BLOCK = 2**24  # bytes that are parsed at a time: no row may be longer
QUOTE = 'put text between double quotes, and double those in it ("")'


def read_cells(file: Path, given: str) -> "list[pa.ChunkedArray]":
    """Read all cells as text, by column. Empty lines are left out.

    Spaces after a delimiter belong to it where all delimiters are followed by some, before numbers too
    (`5.1, 3.5, setosa`). Elsewhere they belong to the text.

    Args:
        file: in UTF-8, its cells separated by commas, semicolons, tabs or bars, text between double quotes or not.
        given: key and value that named the file, to begin errors with: `data.path=table.csv`.

    Raises:
        ConfigError: it cannot be read, or its rows differ in length.
    """
    try:
        data = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise ConfigError(f"{given} cannot be read: {error.strerror or error}; name another") from error
    _check_text(data, given)
    said = SEPARATOR.match(data)
    data = data[said.end() :] if said else data
    outside = re.sub(rb'"[^"]*"', b'""', data) if b'"' in data else data
    if b"\r" in data and len(set(re.findall(rb"\r\n|\r|\n", outside))) > 1:
        raise ConfigError(f"{given}: its lines end in different ways (\\n, \\r\\n, \\r); save it with one of them")
    delimiter = said[1].decode() if said else _find_delimiter(data, given)
    mark = re.escape(delimiter.encode())
    spaced = re.search(mark + rb" +[+-]?\.?\d", outside) is not None and not re.search(mark + rb"(?! )", outside)
    if re.search(mark + rb' +"', outside):
        data = re.sub(rb'("[^"]*")|(' + mark + rb') +(?=")', lambda found: found[1] or found[2], data)
    columns = _parse(data, delimiter, given)
    if spaced:
        import pyarrow.compute as compute

        columns = [compute.utf8_ltrim(column, " ") for column in columns]
    return columns


def _check_text(data: bytes, given: str) -> None:
    if b"\0" in data:
        raise ConfigError(f"{given} is not a table in UTF-8 text: it has NUL bytes; save it as UTF-8")
    try:
        if not data.decode().strip():
            raise ConfigError(f"{given} is empty; name a file with samples")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{given} is not a table in UTF-8 text (line {line}); save it as UTF-8") from error
    if data.count(b'"') % 2:
        raise ConfigError(f"{given}: a double quote is opened and not closed; {QUOTE}")


def _find_delimiter(data: bytes, given: str) -> str:
    """The delimiter that divides each of the first rows into the same number of cells, two at least."""
    head = data[:LOOKED_AT].decode(errors="ignore")
    lengths: dict[str, list[int]] = {}
    for delimiter in DELIMITERS:
        rows = [len(row) for row in csv.reader(io.StringIO(head, newline=""), delimiter=delimiter) if row]
        if len(data) > LOOKED_AT and len(rows) > 1:
            rows.pop()  # cut off by the limit
        lengths[delimiter] = rows
    even = [delimiter for delimiter, rows in lengths.items() if len(set(rows)) == 1 and rows[0] > 1]
    if len(even) > 1:
        how = " or ".join(DELIMITERS[delimiter] for delimiter in even)
        raise ConfigError(
            f"{given}: cells may be separated by {how}; put text between double quotes, and write decimal points"
        )
    if even:
        return even[0]
    # Uneven: the error about its rows is for the delimiter that the first row has most of.
    most = max(lengths, key=lambda delimiter: (lengths[delimiter][0], sum(lengths[delimiter])))
    if max(lengths[most]) == 1:
        words = ", ".join(DELIMITERS.values())
        raise ConfigError(f"{given} has only one column; separate features and target by one of {words}")
    return most


def _parse(data: bytes, delimiter: str, given: str) -> "list[pa.ChunkedArray]":
    import pyarrow as pa  # late: only tables need it
    import pyarrow.csv as parser

    bad: list[Any] = []

    def remember(row: Any) -> str:
        bad.append(row)
        return "skip"

    start = io.StringIO(data[:BLOCK].decode(errors="ignore"), newline="")
    first = next(row for row in csv.reader(start, delimiter=delimiter) if row)
    try:
        table = parser.read_csv(
            pa.BufferReader(data if data.endswith((b"\n", b"\r")) else data + b"\n"),  # or one row alone is not read
            # One thread: 4 million cells take it 0.4 s, and more would compete with the other jobs of a sweep.
            read_options=parser.ReadOptions(use_threads=False, autogenerate_column_names=True, block_size=BLOCK),
            parse_options=parser.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=remember
            ),
            convert_options=parser.ConvertOptions(
                column_types={f"f{number}": pa.string() for number in range(len(first))}, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{given} is not a table: {' '.join(str(error).split())}; {QUOTE}") from error
    if bad:
        raise ConfigError(f"{given}: {_ragged(first, bad, len(table), delimiter)}")
    return list(table.itercolumns())


def _ragged(first: list[str], bad: list[Any], even: int, delimiter: str) -> str:
    """Say what is wrong with rows of another length than the first."""
    row, width = bad[0], len(first)
    if first[0].startswith("#") or row.text.startswith("#"):
        number = 1 if first[0].startswith("#") else row.number
        return f"row {number} begins with #; comments are not read: remove them"
    if all(one.actual_columns == width + 1 for one in bad) and even == 1:
        if row.text.rstrip("\r\n").endswith(delimiter):
            return f"the first row has {width} cells, the others end with a delimiter; remove it, or give it a name"
        return (
            f"the first row has {width} names, the others have {width + 1} values; name each column"
            " (R: write.csv(x, file), or write.table(..., col.names=NA))"
        )
    return (
        f"row {row.number} has {row.actual_columns} cells, the first has {width}; give all the same number, and put"
        " text that contains a delimiter between double quotes"
    )
