"""The energy counters, on folders and a library that stand for those of a machine: CI machines have none."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from runner.util import energy
from runner.util.energy import Gpu, Packages, UnreadableError, busy_seconds, counters, own_seconds

RANGE = 262_143_328_850
"""Microjoules of a package's counter, as an Intel Xeon has it."""


class Machine:
    """A folder like /sys/class/powercap, and the seconds of CPU time of this process and of all."""

    def __init__(self, root: Path) -> None:
        self.root, self.own, self.busy = root, 0.0, 0.0

    def add(self, folder: str, name: str, reading: int = 0) -> Path:
        domain = self.root / folder
        domain.mkdir()
        (domain / "name").write_text(f"{name}\n")
        (domain / "max_energy_range_uj").write_text(f"{RANGE}\n")
        (domain / "energy_uj").write_text(f"{reading}\n")
        return domain

    def set(self, folder: str, reading: int) -> None:
        (self.root / folder / "energy_uj").write_text(f"{reading}\n")

    def work(self, own: float, all_together: float) -> None:
        self.own, self.busy = self.own + own, self.busy + all_together


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    monkeypatch.setattr(energy, "own_seconds", lambda process: made.own)
    monkeypatch.setattr(energy, "busy_seconds", lambda: made.busy)
    return made


class TestPackages:
    def test_a_run_that_has_the_machine_to_itself_has_all_energy_of_all_packages(self, machine: Machine) -> None:
        machine.add("intel-rapl:0", "package-0", 5_000_000)
        machine.add("intel-rapl:1", "package-1-die-0", 100)
        counter = Packages()
        machine.set("intel-rapl:0", 45_000_000)
        machine.set("intel-rapl:1", 10_000_100)
        machine.work(own=3.0, all_together=3.0)
        assert counter.joules() == pytest.approx(50.0)
        machine.work(own=1.0, all_together=1.0)
        assert counter.joules() == 0.0, "since the last call"

    def test_the_board_and_the_parts_of_a_package_are_not_added_to_it(self, machine: Machine) -> None:
        others = {
            "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram", "intel-rapl:1": "psys",
            "intel-rapl-mmio:0": "package-0", "intel-rapl": "intel-rapl",
        }  # fmt: skip
        machine.add("intel-rapl:0", "package-0")
        for folder, name in others.items():
            machine.add(folder, name)
        counter = Packages()
        for folder in ("intel-rapl:0", *others):
            machine.set(folder, 7_000_000)
        machine.work(own=1.0, all_together=1.0)
        assert counter.joules() == pytest.approx(7.0)

    def test_energy_goes_by_the_share_of_cpu_time(self, machine: Machine) -> None:
        machine.add("intel-rapl:0", "package-0")
        counter = Packages()
        machine.set("intel-rapl:0", 100_000_000)
        machine.work(own=2.0, all_together=8.0)
        assert counter.joules() == pytest.approx(25.0)
        machine.set("intel-rapl:0", 200_000_000)
        machine.work(own=0.009, all_together=0.0)
        assert counter.joules() == pytest.approx(100.0), "never more than all, though the kernel counts hundredths"
        machine.set("intel-rapl:0", 300_000_000)
        machine.work(own=-2.0, all_together=1.0)
        assert counter.joules() == 0.0, "a child that nobody waited for has ended, and its time is lost"
        machine.set("intel-rapl:0", 400_000_000)
        assert counter.joules() == 0.0, "nobody has worked"

    def test_a_counter_starts_again_at_0(self, machine: Machine) -> None:
        machine.add("intel-rapl:0", "package-0", RANGE - 3_000_000)
        counter = Packages()
        machine.set("intel-rapl:0", 2_000_000)
        machine.work(own=1.0, all_together=1.0)
        assert counter.joules() == pytest.approx(5.0)

    def test_a_counter_that_a_suspension_has_reset_is_no_energy(self, machine: Machine) -> None:
        machine.add("intel-rapl:0", "package-0", RANGE // 2)
        counter = Packages()
        machine.set("intel-rapl:0", 1_000_000)
        machine.work(own=1.0, all_together=1.0)
        with pytest.raises(UnreadableError, match="has jumped"):
            counter.joules()

    def test_without_packages_nothing_is_measured(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        machine.add("intel-rapl:1", "psys")
        hidden = machine.add("intel-rapl:0", "package-0")
        (hidden / "name").unlink()
        with pytest.raises(UnreadableError, match="no energy counter of its CPU"):
            Packages()
        monkeypatch.setattr(energy, "POWERCAP", machine.root / "missing")
        with pytest.raises(UnreadableError, match="virtual machines"):
            Packages()

    def test_a_counter_for_root_alone_says_how_to_open_it(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine.add("intel-rapl:0", "package-0")
        read_text = Path.read_text

        def refuse(path: Path, *arguments: Any, **more: Any) -> str:  # root, as whom tests may run, reads everything
            if path.name == "energy_uj":
                raise PermissionError(13, "Permission denied", str(path))
            return read_text(path, *arguments, **more)

        monkeypatch.setattr(Path, "read_text", refuse)
        with pytest.raises(UnreadableError) as raised:
            Packages()
        assert raised.value.why == f"only root can read {machine.root}/intel-rapl:0/energy_uj"
        assert raised.value.instead.endswith(f"sudo chmod a+r {machine.root}/intel-rapl:*/energy_uj")

    @pytest.mark.parametrize("content", [None, "", "many"])
    def test_a_counter_that_vanishes_or_breaks_is_an_error(self, machine: Machine, content: str | None) -> None:
        machine.add("intel-rapl:0", "package-0")
        vanishing = machine.add("intel-rapl:1", "package-1") / "energy_uj"
        counter = Packages()
        vanishing.unlink()
        if content is not None:
            vanishing.write_text(content)
        with pytest.raises(UnreadableError, match="intel-rapl:1/energy_uj cannot be read"):
            counter.joules()


def test_the_time_of_children_counts_while_they_run_and_after() -> None:
    work = "import time\nwhile time.process_time() < 0.15: pass\nprint(flush=True)\ninput()"
    process = psutil.Process()
    before, everyone = own_seconds(process), busy_seconds()
    child = subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    running = own_seconds(process)
    child.communicate("\n")
    assert running - before > 0.1
    assert own_seconds(process) >= running - 0.02
    assert busy_seconds() - everyone > 0.1
    assert own_seconds(process) >= time.process_time()


class NVMLError(Exception):
    """As pynvml has it."""


class Library:
    """A module like pynvml, with one GPU."""

    NVMLError = NVMLError

    def __init__(self) -> None:
        self.millijoules, self.processes = 1_000, [SimpleNamespace(pid=os.getpid())]
        self.refusal: str | None = None

    def nvmlInit(self) -> None: ...  # noqa: N802

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != "GPU-1234":
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        if self.refusal is not None:
            raise NVMLError(self.refusal)
        assert handle == "GPU-1234"
        return self.millijoules

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:  # noqa: N802
        return self.processes


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library()
    monkeypatch.setitem(sys.modules, "pynvml", made)
    return made


class TestGpu:
    def test_processes_that_compute_on_it_share_its_energy(self, library: Library) -> None:
        counter = Gpu("1234")
        library.millijoules += 500_000
        assert counter.joules() == pytest.approx(500.0)
        library.processes *= 4
        library.millijoules += 100_000
        assert counter.joules() == pytest.approx(25.0)
        library.processes = []
        library.millijoules += 100_000
        assert counter.joules() == pytest.approx(100.0), "a container does not show the processes of others"

    def test_a_gpu_that_does_not_tell_or_that_nvml_does_not_know(self, library: Library) -> None:
        library.refusal = "Not Supported"
        with pytest.raises(UnreadableError, match=r"\(Not Supported\)"):
            Gpu("1234")
        with pytest.raises(UnreadableError, match=r"\(Not Found\)"):
            Gpu("MIG-1")

    def test_a_driver_that_goes_away(self, library: Library) -> None:
        counter = Gpu("1234")
        library.refusal = "Driver Not Loaded"
        with pytest.raises(UnreadableError, match="Driver Not Loaded"):
            counter.joules()
        library.refusal, library.millijoules = None, 0
        with pytest.raises(UnreadableError, match="loaded again"):
            counter.joules()

    def test_without_a_driver(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail() -> None:
            raise NVMLError("NVML Shared Library Not Found")

        monkeypatch.setattr(library, "nvmlInit", fail)
        with pytest.raises(UnreadableError, match="Shared Library Not Found"):
            Gpu("1234")

    def test_without_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", None)
        with pytest.raises(UnreadableError) as raised:
            Gpu("1234")
        assert raised.value.instead == "install it: pip install nvidia-ml-py"


class TestCounters:
    def test_a_run_on_a_cpu_has_its_packages_alone(self, machine: Machine, library: Library) -> None:
        machine.add("intel-rapl:0", "package-0")
        assert [counter.name for counter in counters("cpu")] == ["CPU"]

    def test_a_run_on_a_gpu_has_that_and_the_packages_if_they_can_be_read(
        self, machine: Machine, library: Library
    ) -> None:
        assert [counter.name for counter in counters("cuda", "1234")] == ["GPU"]
        machine.add("intel-rapl:0", "package-0")
        assert [counter.name for counter in counters("cuda", "1234")] == ["GPU", "CPU"]

    def test_packages_alone_do_not_stand_for_a_gpu(self, machine: Machine, library: Library) -> None:
        machine.add("intel-rapl:0", "package-0")
        library.refusal = "Not Supported"
        with pytest.raises(UnreadableError, match="Not Supported"):
            counters("cuda", "1234")
        with pytest.raises(UnreadableError, match="device mps"):
            counters("mps")
