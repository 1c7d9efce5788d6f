"""A block in which root, too, may not enter a folder of mode 000: containers run the tests as root."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_READS_ALL = 0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH

needs_rights = pytest.mark.skipif(
    os.geteuid() == 0 and sys.platform != "linux", reason="root may enter every folder here"
)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def as_plain_user() -> Iterator[None]:
    """Let permissions apply to this thread."""
    if os.geteuid() != 0:
        yield
        return
    libc, header, data = ctypes.CDLL(None, use_errno=True), _Header(_VERSION, 0), (_Data * 2)()

    def switch(name: str) -> None:
        if getattr(libc, name)(ctypes.byref(header), data):
            raise OSError(ctypes.get_errno(), name)

    switch("capget")
    before = data[0].effective
    data[0].effective = before & ~_READS_ALL
    switch("capset")
    try:
        yield
    finally:
        data[0].effective = before
        switch("capset")
