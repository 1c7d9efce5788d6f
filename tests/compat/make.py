"""Make the archives of tests/test_compat.py: what runner leaves behind at a commit. They were made by

    python tests/compat/make.py 68ae680 version_0_1_0
    python tests/compat/make.py 765f5d0 flat

`flat` is the last state that has all modules in one folder. An archive has `outputs/` with its MLflow store:
`runs/finished` with a logged model, `runs/stopped` (by SIGTERM), `sweeps/stopped` (by SIGTERM, in the second of three
jobs). And it has `expected/`: what the stopped ones give if nobody stops them, and predictions of the finished run.

The files contain no name of a user or host and no path but those below `PLACE`: sources and environment are used from
there, locks (host names) and plots (size) are left out. It takes a minute; a run that ends before it is stopped is an
error, then start again.
"""

import getpass
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

PLACE = Path("/tmp/runner-compat")
HERE = Path(__file__).resolve().parent

COMMON = ("data=digits", "data.limit=200", "model.hidden=[8]", "device.threads=1")
FINISHED = (*COMMON, "trainer.epochs=2")
STOPPED = (
    *COMMON, "trainer.epochs=40", "model.dropout=0.1", "data.augment.rotation=10", "optimizer=adamw",
    "optimizer.lr=0.01", "scheduler=warmup_cosine", "trainer.ema_decay=0.9", "trainer.clip_norm=1",
    "trainer.log_every_epochs=4", "trainer.validate_every_epochs=4", "tracking.log_model=false",
)  # fmt: skip
SWEEP = (
    "--multirun", *COMMON, "optimizer.lr=0.1,0.05,0.01", "sweep.jobs=1", "trainer.epochs=60",
    "trainer.log_every_epochs=10", "trainer.validate_every_epochs=10", "tracking.log_model=false",
)  # fmt: skip


def arithmetic() -> str:
    """Hash the weights of a short training in plain torch: where it differs, a run's last bits differ too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        images, targets = torch.rand(32, 1, 8, 8), torch.randint(10, (32,))
        turned = nn.functional.affine_grid(
            torch.tensor([[[0.9, -0.4, 0.0], [0.4, 0.9, 0.0]]] * 32), [32, 1, 8, 8], False
        )
        images = nn.functional.grid_sample(images, turned, align_corners=False)
        for _ in range(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), targets).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return hashlib.sha256(b"".join(weights.detach().numpy().tobytes() for weights in model.parameters())).hexdigest()


def start(*arguments: str, module: str = "runner") -> subprocess.Popen[bytes]:
    """`python -m runner ...` as Ada would start it."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(PLACE), "USER": "ada", "LOGNAME": "ada"}
    environment |= {"PYTHONPATH": str(PLACE / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen([PLACE / ".venv/bin/python", "-m", module, *arguments], cwd=PLACE, env=environment)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def stop(process: subprocess.Popen[bytes], journal: Path) -> None:
    """SIGTERM as soon as a run has measured something."""
    while not lines(journal):
        assert process.poll() is None, "it has ended before it could be stopped"
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM, "it was too late to stop it: make it again"


def make_outputs() -> None:
    outputs = PLACE / "outputs"
    expected = PLACE / "expected"
    expected.mkdir()
    (expected / "arithmetic.txt").write_text(arithmetic())
    assert start(*FINISHED, "hydra.run.dir=outputs/runs/finished").wait() == 0
    np.save(expected / "digits.npy", load_digits().images[-20:, None].astype(np.float32) / 16)
    told = ("run=outputs/runs/finished", "input=expected/digits.npy", "output=expected/predictions.csv")
    assert start(*told, module="runner.predict").wait() == 0
    stop(start(*STOPPED, "hydra.run.dir=outputs/runs/stopped"), outputs / "runs/stopped/metrics.jsonl")
    assert start(*STOPPED, "hydra.run.dir=twins/run", "tracking=off").wait() == 0
    stop(start(*SWEEP, "hydra.sweep.dir=outputs/sweeps/stopped"), outputs / "sweeps/stopped/1/metrics.jsonl")
    assert start(*SWEEP, "hydra.sweep.dir=twins/sweep", "tracking=off").wait() == 0

    shutil.copy(PLACE / "twins/run/checkpoints/last.pt", expected / "last.pt")
    jobs = [json.loads((PLACE / f"twins/sweep/{job}/result.json").read_text()) for job in range(3)]
    figures = ("val/loss", "val/accuracy", "test/loss", "test/accuracy", "steps", "best_epoch")
    (expected / "jobs.json").write_text(json.dumps([{name: job[name] for name in figures} for job in jobs], indent=1))


def pack(archive: Path) -> None:
    """Everything but pictures and locks, which hold the host's name."""
    secrets = [name.encode() for name in (socket.gethostname(), getpass.getuser(), str(HERE.parents[1]))]

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if entry.name.endswith(("/plots", ".lock")):
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name in ("outputs", "expected"):
            tar.add(PLACE / name, name, filter=anonymous)
    found = [secret for secret in secrets if len(secret) > 4 and secret in content.getvalue()]
    assert not found, f"{found} would be published"
    with tarfile.open(archive, "w:xz", preset=9) as tar, tarfile.open(fileobj=io.BytesIO(content.getvalue())) as source:
        for entry in source:
            tar.addfile(entry, source.extractfile(entry))
    print(f"{archive}: {archive.stat().st_size:,} bytes")


def main(commit: str, name: str) -> None:
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir()
    (PLACE / ".venv").symlink_to(sys.prefix)
    sources = subprocess.run(
        ["git", "archive", commit, "src", "conf"], cwd=HERE.parents[1], check=True, stdout=subprocess.PIPE
    )
    subprocess.run(["tar", "x"], cwd=PLACE, check=True, input=sources.stdout)
    make_outputs()
    pack(HERE / f"{name}.tar.xz")
    shutil.rmtree(PLACE)


if __name__ == "__main__":
    main(*sys.argv[1:])
