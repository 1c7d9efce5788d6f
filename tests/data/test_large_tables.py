"""Large tables are read block by block, with the same result as one that is read as a whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.data import table_blocks, table_cells, table_look
from runner.data.csv_file import csv_file
from runner.data.source import Source
from runner.data.table import table
from runner.data.table_blocks import Blocks
from runner.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("error")

ROWS = 60  # many blocks of 256 bytes


def lines(row: Callable[[int], str], header: str | None = "a,b,y", end: str = "\n", rows: int = ROWS) -> bytes:
    return end.join([*([header] if header is not None else []), *map(row, range(rows)), ""]).encode()


def plain(i: int) -> str:
    return f"{i / 7:.6f},{i % 5 - 2},{'uvw'[i % 3]}"


BY_BLOCKS = {
    "plain": lines(plain),
    "decimals, then blanks": lines(lambda i: f"{i / 7:.3f},{'' if i > 30 else i / 3},{i % 2}", rows=400),
    "decimals, then NaN": lines(lambda i: f"{i / 7:.3f},{'nan' if i > 90 else i / 3},{i % 2}", rows=400),
    "decimals, then words": lines(lambda i: f"{i / 7:.3f},{'NA' if i > 90 else i / 3},{i % 2}", rows=400),
    "decimals, then text": lines(lambda i: f"{i / 7:.3f},{i / 3 if i < 390 else 'x'},{i % 2}", rows=400),
    "decimals, then whole": lines(lambda i: f"{i / 7:.3f},{i / 3 if i < 90 else f'0{i}'},{i % 2}", rows=400),
    "decimals in every notation": lines(
        lambda i: f"{i / 7:.3f},{('1e3', ' 2.5', '+.5', '-0', '1e400')[i % 5]},{i % 2}"
    ),
    "decimals that float64 rounds": lines(lambda i: f"{i / 7:.17f},{i * 1e300 / 7!r},{i % 2}"),
    "a quoted header": lines(plain, header='"a","b","y"'),
    "text that is not ASCII": lines(lambda i: f"{i / 7:.3f},{i % 4},{'éüø'[i % 3]}"),
    "CRLF": lines(plain, end="\r\n"),
    "BOM": b"\xef\xbb\xbf" + lines(plain),
    "no newline at the end": lines(plain)[:-1],
    "no header": lines(lambda i: f"{i / 7:.3f},{i % 4}.5,{i % 3}", header=None),
    "true in the first row alone": lines(lambda i: f"{i / 7:.3f},{'NA' if i else 'true'},{i % 3}", header=None),
    "semicolons": lines(lambda i: f"{i},5;{i % 7};{i % 2}", header="a;b;y"),
    "tabs": lines(lambda i: plain(i).replace(",", "\t"), header="a\tb\ty"),
    "blanks in the last rows": lines(lambda i: f"{i}.5,{'' if i > 55 else i % 3},{i % 2}"),
    "words for blanks": lines(lambda i: f"{i}.5,{('NA', 'nan', '?', '')[i % 4] if i > 50 else i % 3},{i % 2}"),
    "text in the last row": lines(lambda i: f"{i}.5,{'x' if i == ROWS - 1 else i},{i % 2}"),
    "true and false": lines(lambda i: f"{i}.5,{('true', 'false')[i % 2] if i > 20 else 'NA'},{i % 2}"),
    "true and false, then a number": lines(lambda i: f"{i}.5,{'true' if i < 50 else 1},{i % 2}"),
    "an index without a name": lines(lambda i: f"{i},{i / 3:.2f},{i % 2}", header=",b,y"),
    "a column that counts": lines(lambda i: f"{i},{i / 3:.2f},{i % 2}"),
    "whole numbers of any length": lines(lambda i: f"{2**53 + i}{i % 2},{i}.5,{i % 2}"),
    "leading zeros in the target": lines(lambda i: f"{i}.5,{i % 4},{i % 3:02d}"),
    "minus zero": lines(lambda i: f"-0,{('-0', '1')[i % 2]},{i % 2}"),
    "infinity": lines(lambda i: f"{'inf' if i == 57 else i},{i % 4}.5,{i % 2}"),
    "one class": lines(lambda i: f"{i}.5,{i % 4},u"),
    "the delimiter ends the rows": lines(lambda i: f"{i}.5,{i % 2},", header="a,y,"),
    "empty lines": lines(lambda i: plain(i) + ("\n\n" if i % 9 == 0 else "")),
    "only a header": lines(plain, rows=0) + b"\n" * 300,
}
"""Tables that are read by blocks, in several threads."""

WITH_QUOTES = {
    "quotes": lines(lambda i: f'{i}.5,{i % 4},"{"u,v" if i % 2 else "line" + chr(10) + "end"}"'),
    "a header of two lines": lines(plain, header='"a\n1",b,y'),
    "quotes in the last row": lines(plain) + b'1.5,2,"u"\n',
}
"""Tables that are read by blocks, in one thread."""

AS_A_WHOLE = {
    "a row too long": lines(lambda i: plain(i) + (",9" if i == 40 else "")),
    "a row of more than a block": lines(lambda i: f"{i}.5,{i % 4},{'u' * (900 if i == 40 else 1)}"),
    "an open quote": lines(lambda i: f"{i}.5,{i % 4},{chr(34) if i == 50 else 'u'}"),
    "mixed ends": lines(plain) + lines(plain, header=None, end="\r\n"),
    "NUL": lines(plain) + b"1,\0,u\n",
    "NUL in the header": lines(plain, header="a,\0b,y"),
    "Windows-1252 in the header": lines(plain).replace(b"y", b"\xe9", 1),
    "Windows-1252": lines(plain) + b"1,2,\xe9\n",
    "spaces after delimiters": lines(lambda i: f"{i}.5, {i % 4}, {i % 2}", header="a, b, y"),
    "spaces before quotes": lines(lambda i: f'{i}.5, "{i % 4}", "u,{i % 2}"'),
    "comments": b"# from a logger\n" + lines(plain),
    "R": lines(lambda i: f'"{i + 1}",{i}.5,{i % 4},{i % 2}'),
    "sep": b"sep=;\n" + lines(lambda i: f"{i}.5;{i % 4};{i % 2}", header="a;b;y"),
    "words": lines(lambda i: f"{i}.5   {i % 4}  {i % 2}", header="a b y"),
}


def outcome(read: Callable[..., Source], path: Path, **keys: Any) -> Any:
    """Return all that a data set says of a table, or the problem."""
    try:
        source = read(path, **keys)
    except ConfigError as error:
        return str(error)
    assert isinstance(source.train, tuple) and isinstance(source.test, tuple)
    tensors = [tensor.clone() for part in (source.train, source.test) for tensor in part]
    return tensors, source.classes, source.columns, source.target, source.notes, source.reading


def same(one: Any, other: Any) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return bool(one == other)
    pairs = zip(one[0], other[0], strict=True)
    bits = all(a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes() for a, b in pairs)
    return bits and one[1:] == other[1:]


@pytest.mark.parametrize("name", [*BY_BLOCKS, *WITH_QUOTES, *AS_A_WHOLE])
def test_blocks_change_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes({**BY_BLOCKS, **WITH_QUOTES, **AS_A_WHOLE}[name])
    ways = [
        (csv_file, {"old_rules": False, "loss_takes": "either"}),
        (csv_file, {"old_rules": False, "loss_takes": "values", "index": "none"}),
        (table, {}),
        (table, {"index": "none", "header": False, "split_by": "2"}),
    ]
    whole = [outcome(read, path, **keys) for read, keys in ways]
    sources: list[type] = []
    parse = table_cells.Cells._parse

    def parsed(cells: table_cells.Cells) -> Any:
        done = parse(cells)
        sources.append(type(cells._source))
        return done

    monkeypatch.setattr(table_cells.Cells, "_parse", parsed)
    sizes = ((table_look, {"LARGE": 1, "LEAST_HEAD": 1}), (table_cells, {"BLOCK_OF_FILE": 256}),
             (table_blocks, {"BLOCK": 256, "MARGIN": 16, "LOOK": 256}))  # fmt: skip
    for module, names in sizes:
        for key, value in names.items():
            monkeypatch.setattr(module, key, value)
    by_blocks = [outcome(read, path, **keys) for read, keys in ways]
    for (read, keys), one, other in zip(ways, whole, by_blocks, strict=True):
        assert same(one, other), (read.__name__, keys, one, other)
    by_blocks_of = Blocks if name in BY_BLOCKS else type(path) if name in WITH_QUOTES else None
    assert {Blocks, type(path)} & {*sources} == ({by_blocks_of} if by_blocks_of else set())


def test_a_large_table_is_not_read_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.csv"
    monkeypatch.setattr(table_look, "LARGE", 2**17)
    monkeypatch.setattr(table_cells, "BLOCK_OF_FILE", 2**15)
    rows = 20_000
    path.write_bytes(lines(plain, rows=rows))
    assert path.stat().st_size > table_look.LARGE
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("it is read as a whole"))
    for source in (csv_file(path, old_rules=False), table(path)):
        assert isinstance(source.train, tuple) and isinstance(source.test, tuple)
        assert len(source.train[0]) + len(source.test[0]) == rows and source.classes == ["u", "v", "w"]
        order = torch.cat([source.places["train"], source.places["test"]])
        inputs = torch.cat([source.train[0], source.test[0]])[order.argsort()]
        assert inputs[:, 1].tolist() == [i % 5 - 2 for i in range(rows)]
