"""The memory that a container or a job of a cluster may still take: the limit of its control group (Linux)."""

import re
from contextlib import suppress
from pathlib import Path

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

NAMES = {"": ("memory.max", "memory.current"), "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes")}
"""Files of the limit and of what is used, by the folder of the controller: version 2 has none, version 1 has one."""

RECLAIMED = re.compile(r"^(?:total_)?inactive_file (\d+)$", re.MULTILINE)
"""Pages of files, which count as used and are given up for others."""


def free_memory() -> int | None:
    """Return the bytes that are free in the group of this process, or in one above it; None without a limit."""
    found: list[int] = []
    with suppress(OSError):
        for line in OWN.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            controller = "memory" if "memory" in controllers.split(",") else ""
            if controllers and not controller:
                continue
            folder = ROOT / controller / path.lstrip("/")
            groups = [folder, *folder.parents]
            top = groups.index(ROOT / controller) if ROOT / controller in groups else len(groups) - 1
            found += [free for group in groups[: top + 1] if (free := _free(group, *NAMES[controller])) is not None]
    return min(found, default=None)


def _free(group: Path, limit: str, used: str) -> int | None:
    with suppress(OSError, ValueError):
        most, now = int((group / limit).read_text()), int((group / used).read_text())
        reclaimed = 0
        with suppress(OSError):
            reclaimed = sum(int(number) for number in RECLAIMED.findall((group / "memory.stat").read_text())[-1:])
        return max(0, most - now + reclaimed)
    return None
