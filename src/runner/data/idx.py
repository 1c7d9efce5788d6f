"""The IDX file format of MNIST and its descendants, for unsigned bytes."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

UNSIGNED_BYTE = 0x08
GZIP_MAGIC = b"\x1f\x8b"


class IdxError(Exception):
    """The file is not a complete IDX file; the message is the reason."""


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzipped or not.

    The header is two zero bytes, the type, the number of dimensions, then each dimension as a big-endian
    32-bit integer (format: "The IDX file format" on the MNIST page of Y. LeCun, C. Cortes and C. Burges).

    Args:
        path: the file.
        ndim: the number of dimensions: 3 for images (N, H, W), 1 for labels (N,).

    Returns:
        A writable uint8 array. A file that is not gzipped is read without a copy.

    Raises:
        IdxError: if the header is wrong, or the length of the file differs from it.
        OSError: if the file cannot be read.
    """
    with path.open("rb") as file:
        is_gzip = file.read(2) == GZIP_MAGIC
    if is_gzip:
        try:
            content = np.frombuffer(bytearray(gzip.decompress(path.read_bytes())), np.uint8)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise IdxError(f"damaged gzip file ({error})") from error
    else:
        content = np.fromfile(path, np.uint8)

    start = 4 + 4 * ndim
    if content.size < start:
        raise IdxError(f"{content.size} bytes, too short for an IDX header")
    magic = content[:4].tolist()
    if magic != [0, 0, UNSIGNED_BYTE, ndim]:
        raise IdxError(f"the first bytes are {magic}, not {[0, 0, UNSIGNED_BYTE, ndim]}")
    shape = content[4:start].view(">u4").tolist()
    expected = start + math.prod(shape)
    if content.size != expected:
        raise IdxError(f"{content.size:,} bytes, the header says {expected:,}")
    return content[start:].reshape(shape)
