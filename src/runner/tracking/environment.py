"""Describe the environment of a run: machine, packages, git commit. No environment variables, no secrets."""

import os
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

from runner import __version__
from runner.util import git
from runner.util.redaction import MASK, redact

_MAIN = ("torch", "torchvision", "numpy", "mlflow", "hydra-core", "omegaconf")


def environment(gpu: Mapping[str, str]) -> str:
    """Describe Python, machine and packages, for `environment.txt`.

    Args:
        gpu: the facts about the GPU in use, by name; torch has them, and is not imported here.
    """
    lines = [
        f"python: {platform.python_version()} ({platform.python_implementation()})",
        f"platform: {platform.platform()}",
        f"cpu: {_cpu()}",
        f"cores: {os.cpu_count()} ({len(os.sched_getaffinity(0))} usable)"
        if hasattr(os, "sched_getaffinity")
        else f"cores: {os.cpu_count()}",
        *(f"{name}: {value}" for name, value in gpu.items()),
        "",
        f"runner: {__version__}",
        *(f"{name}: {number}" for name in _MAIN if (number := version_of(name)) is not None),
        "",
        "# every installed package",
        *sorted(_packages(), key=str.lower),
    ]
    return "\n".join(lines) + "\n"


def read_facts(text: str) -> dict[str, str]:
    """Parse the `name: value` lines of an environment.txt, without the list of packages."""
    lines = text.partition("# every")[0].splitlines()
    return {name: value for name, colon, value in (line.partition(": ") for line in lines) if colon}


def git_tags(cwd: Path, repositories: git.Repositories | None = None) -> dict[str, str]:
    """Return the commit of the code as MLflow tags; empty outside a repository or without git.

    Args:
        cwd: a folder of the repository.
        repositories: those whose states are known already.
    """
    status = (repositories or git.Repositories()).status(cwd)
    if status is None or status.commit is None:
        return {}
    tags = {"mlflow.source.git.commit": status.commit, "git.dirty": "true" if status.dirty else "false"}
    if status.branch is not None:
        tags["mlflow.source.git.branch"] = status.branch
    remote = (git.call(cwd, "config", "--get", "remote.origin.url") or b"").decode(errors="replace").strip()
    if remote:
        tags["mlflow.source.git.repoURL"] = redact(remote).replace(f"{MASK}@", "")  # a URL that opens in a browser
    return tags


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@cache
def version_of(name: str) -> str | None:
    """Return the version of an installed package; None without it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _packages() -> set[str]:
    named = ((package.metadata["Name"], package.version) for package in distributions())
    return {f"{name}=={number}" for name, number in named if name}
