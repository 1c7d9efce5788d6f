"""The largest memory that this process has used."""

import re
import sys
from contextlib import suppress
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # what Linux takes in `clear_refs` to start the peak again


def reset_peak() -> None:
    """Start the peak again from what is used now; where the system cannot, it is that since the process began."""
    with suppress(OSError):
        CLEAR.write_text(RESET_PEAK)


def peak() -> int:
    """Return the largest resident memory of this process in bytes."""
    with suppress(OSError):
        if found := re.search(r"^VmHWM:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE):
            return int(found[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
