"""Read a text file into cells: encoding, delimiter, quotes, and rows of equal length."""

import csv
import io
import re

from runner.data.named_path import NamedPath
from runner.data.table_blocks import Blocks, UnusualError
from runner.data.table_cells import BLOCK, QUOTE, Cells
from runner.data.table_look import BOM, Head, is_usual, look_at_head
from runner.errors import ConfigError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
HEAD = 64 * 1024  # bytes from which the delimiter is detected
SEPARATOR = re.compile(rb'"?sep=([,;\t|])"?(\r\n|\r|\n)')  # a first line that Excel writes and reads
A_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def read_cells(file: NamedPath) -> Cells:
    """Read all cells. Empty lines are skipped.

    Spaces after a delimiter belong to it if every delimiter is followed by one, also before numbers
    (`5.1, 3.5, setosa`). Otherwise they belong to the text.

    Args:
        file: in UTF-8, with cells separated by commas, semicolons, tabs or bars; text may be in double quotes.

    Raises:
        ConfigError: it cannot be read, or its rows differ in length.
    """
    if (head := look_at_head(file.path)) and (cells := _read_large(head, file)):
        return cells
    data = read_bytes(file).removeprefix(BOM)
    _check_text(data, file)
    separator = SEPARATOR.match(data)
    data = data[separator.end() :] if separator else data
    if b"\r" in data and len(set(re.findall(rb"\r\n|\r|\n", _without_quoted(data)))) > 1:
        raise ConfigError(file.problem("line endings are mixed (\\n, \\r\\n, \\r)", "save it with one of them"))
    return _split(data, separator[1].decode() if separator else _find_delimiter(data, file), file)


def read_bytes(file: NamedPath) -> bytes:
    """Read a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return file.path.read_bytes()
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
        raise ConfigError(file.problem(reason, "make it readable, or name another file", topic="file")) from error


def guess_large(file: NamedPath) -> tuple[Cells, str, list[str]] | None:
    """Read all cells of a large table of the usual form as `guess_cells` does; None if it is another file."""
    head = look_at_head(file.path)
    if head is None or head.text.startswith(b"#"):
        return None
    first_line = _without_quoted(head.text.strip().partition(b"\n")[0])
    if not any(mark.encode() in first_line for mark in DELIMITERS):
        return None
    try:
        delimiter = _find_delimiter(head.text, file, decide=True)
    except ConfigError:
        return None
    if len(set(_row_lengths(head.text, delimiter))) > 1:
        return None
    cells = _read_large(head, file, delimiter)
    return None if cells is None else (cells, delimiter, [])


def guess_cells(data: bytes, file: NamedPath) -> tuple[Cells, str, list[str]]:
    """Read all cells as `read_cells` does, and decide where it would ask.

    Lines may end in several ways. Of several possible delimiters the comma comes last, as it may separate decimals. If
    the first row has one cell less than all others, as R writes tables, the first column has no name. Lines at the
    beginning that start with `#` and do not name the columns are left out. Spaces separate cells if nothing else does.

    Args:
        data: in UTF-8.
        file: they are from it.

    Returns:
        The cells, the delimiter, and short phrases about guesses.

    Raises:
        ConfigError: this is not a table.
    """
    _check_text(data, file)
    separator = SEPARATOR.match(data)
    data = data[separator.end() :] if separator else data
    if b"\r" in data:
        data = re.sub(rb'("[^"]*")|\r\n?', lambda match: match[1] or b"\n", data)
    comments, data = _divide_comments(data)
    notes: list[str] = []
    if not separator and (aligned := _separate_words(data)):
        data = aligned
        comments = [b"\t".join(comment.removeprefix(b"# ").split()) for comment in comments]  # as numpy.savetxt writes
        notes.append("cells are separated by spaces")
    delimiter = separator[1].decode() if separator else _find_delimiter(data, file, decide=True)
    if comments and _is_header(comments[-1], data, delimiter):
        data = comments.pop() + b"\n" + data
    if comments:
        notes.append(f"lines at the beginning that begin with # are left out: {len(comments)}")
    lengths = _row_lengths(data, delimiter)
    if len(lengths) > 1 and set(lengths[1:]) == {lengths[0] + 1}:
        data = delimiter.encode() + data.lstrip(b"\n")
    return _split(data, delimiter, file), delimiter, notes


def _row_lengths(data: bytes, delimiter: str) -> list[int]:
    """Return the numbers of cells of the first rows."""
    head = data[:HEAD].decode(errors="ignore")
    lengths = [len(row) for row in csv.reader(io.StringIO(head, newline=""), delimiter=delimiter) if row]
    return lengths[:-1] if len(data) > HEAD and len(lengths) > 1 else lengths


def _divide_comments(data: bytes) -> tuple[list[bytes], bytes]:
    """Divide a text into the lines at its beginning that start with `#`, and the rest, if there is one."""
    comments, rest = list[bytes](), data
    while rest.startswith(b"#"):
        line, _, rest = rest.partition(b"\n")
        comments.append(line)
    return (comments, rest) if rest.strip() and not any(line.count(b'"') % 2 for line in comments) else ([], data)


def _is_header(comment: bytes, data: bytes, delimiter: str) -> bool:
    """Whether a line such as `#,name` or `# name,size` above the first row names its columns."""
    if _row_lengths(comment, delimiter) != _row_lengths(data, delimiter)[:1]:
        return False
    is_word = not comment.startswith((b"# ", b"##"))
    first = next(csv.reader(io.StringIO(data[:HEAD].decode(errors="ignore"), newline=""), delimiter=delimiter))
    return is_word or any(A_NUMBER.fullmatch(cell.strip()) for cell in first)


def _separate_words(data: bytes) -> bytes | None:
    """Return a text with tabs between its words, if only spaces separate them, and each line has as many."""
    line = _without_quoted(data.strip().partition(b"\n")[0])
    if any(mark.encode() in line for mark in DELIMITERS):
        return None
    lines = [line for line in data.splitlines() if line.strip()]
    words = [re.sub(rb'("[^"]*")|[ \t]+', lambda match: match[1] or b"\t", line.strip()) for line in lines]
    text = b"\n".join(words) + b"\n"
    first, *others = _row_lengths(text, "\t")
    even = len({*others}) == 1 and others[0] > 1 and others[0] - first in (0, 1)
    cells = text.decode(errors="ignore").split()
    return text if even and any(map(A_NUMBER.fullmatch, cells)) else None


def _without_quoted(data: bytes) -> bytes:
    return re.sub(rb'"[^"]*"', b'""', data) if b'"' in data else data


def _split(data: bytes, delimiter: str, file: NamedPath) -> Cells:
    """Split text into columns of cells."""
    outside = _without_quoted(data)
    mark = re.escape(delimiter.encode())
    spaced = re.search(mark + rb" +[+-]?\.?\d", outside) is not None and not re.search(mark + rb"(?! )", outside)
    if re.search(mark + rb' +"', outside):
        data = re.sub(rb'("[^"]*")|(' + mark + rb') +(?=")', lambda match: match[1] or match[2], data)
    first = _first_row(data, delimiter)
    text = data if data.endswith((b"\n", b"\r")) else data + b"\n"  # else a single row is not read
    return Cells(text, delimiter, first, file, spaced=spaced)


def _read_large(head: Head, file: NamedPath, delimiter: str | None = None) -> Cells | None:
    """Read a large table of the usual form; None if only `_split` can read it, or explain what is wrong."""
    try:
        delimiter = delimiter or _find_delimiter(head.text, file)
        if not re.search(re.escape(delimiter.encode()) + rb"(?! )", _without_quoted(head.text)):
            return None
        first = _first_row(head.text, delimiter)
        try:
            return Cells(Blocks(file.path, delimiter, head, len(first)), delimiter, first, file)
        except UnusualError:
            return Cells(file.path, delimiter, first, file) if is_usual(file.path) else None
    except (ConfigError, OSError, csv.Error):
        return None


def _first_row(data: bytes, delimiter: str) -> list[str]:
    start = io.StringIO(data[:BLOCK].decode(errors="ignore"), newline="")
    return next(row for row in csv.reader(start, delimiter=delimiter) if row)


def _check_text(data: bytes, file: NamedPath) -> None:
    """Check that bytes are text with an even number of double quotes."""
    if b"\0" in data:
        raise ConfigError(file.problem("not UTF-8 text: it contains NUL bytes", "save it as UTF-8"))
    try:
        if not data.decode().strip():
            raise ConfigError(file.problem("the file is empty", "name a file with samples"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(file.problem(f"not UTF-8 text (line {line})", "save it as UTF-8")) from error
    if data.count(b'"') % 2:
        raise ConfigError(file.problem("a double quote is opened and not closed", QUOTE))


def _find_delimiter(data: bytes, file: NamedPath, decide: bool = False) -> str:
    """Find the delimiter that splits each of the first rows into the same number of cells, at least two.

    Args:
        data: the text.
        file: it is from it.
        decide: prefer tabs, semicolons and bars, in this order, to commas; else several are an error.
    """
    head = data[:HEAD].decode(errors="ignore")
    lengths: dict[str, list[int]] = {}
    for delimiter in DELIMITERS:
        rows = [len(row) for row in csv.reader(io.StringIO(head, newline=""), delimiter=delimiter) if row]
        if len(data) > HEAD and len(rows) > 1:
            rows.pop()  # probably incomplete
        lengths[delimiter] = rows
    even = [delimiter for delimiter, rows in lengths.items() if len(set(rows)) == 1 and rows[0] > 1]
    if decide and even:
        return min(even, key="\t;|,".index)
    if len(even) > 1:
        words = " or ".join(DELIMITERS[delimiter] for delimiter in even)
        how = "put text in double quotes, and write decimal points"
        raise ConfigError(file.problem(f"cells may be separated by {words}", how))
    if even:
        return even[0]
    # Rows of different lengths: the error reports them for the delimiter that is most frequent in the first row.
    most = max(lengths, key=lambda delimiter: (lengths[delimiter][0], sum(lengths[delimiter])))
    if max(lengths[most]) == 1:
        how = f"separate features and target by {', '.join(DELIMITERS.values())}"
        raise ConfigError(file.problem("only one column", how))
    return most
