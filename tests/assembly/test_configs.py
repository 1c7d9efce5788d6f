"""Every YAML file under `conf/`, found by itself."""

import pickle
import re
import shlex
import struct
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.types import RunMode
from omegaconf import OmegaConf

from conftest import REPOSITORY
from runner.assembly import build
from runner.config.command_line import make_composer, parse_arguments
from runner.config.hydra_job import group_choices, without_hydra
from runner.data.cifar10 import FOLDER, TEST_FILE, TRAIN_FILES
from runner.device import ACCELERATORS
from runner.errors import ConfigError
from runner.util.accelerators import available

CONF = REPOSITORY / "conf"
FILES = sorted(path.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml"))

LACKING = {
    "device/cuda.yaml": None if torch.cuda.is_available() else ("device", "device=cuda"),
    "device/mps.yaml": None if torch.backends.mps.is_available() else ("device", "device=mps"),
    **{f"device/{name}.yaml": ("device", f"device={name}") for name in set(ACCELERATORS) - set(available())},
    "data/csv.yaml": ("data.path", "table.csv"),
    "data/table.yaml": ("data.path", "table.csv"),
    "data/image_folder.yaml": ("data.path", "photos"),
    "loss/bce_with_logits.yaml": ("data.path", "spam.csv"),
    "loss/focal_with_logits.yaml": ("data.path", "spam.csv"),
    "loss/huber.yaml": ("data.path", "prices.csv"),
    "loss/l1.yaml": ("data.path", "prices.csv"),
    "precision/tf32.yaml": None if torch.cuda.is_available() else ("device", "device=cuda"),
    "model/tabular.yaml": ("data.path", "table.csv"),
    "loss/mse.yaml": ("data.path", "prices.csv"),
    "data/custom.yaml": ("data._target_", "my_package"),
    "data/huggingface.yaml": ("data.name", "reviews.csv") if find_spec("datasets") else ("data", "datasets"),
    "data/webdataset.yaml": ("data.path", "train-000000.tar") if find_spec("webdataset") else ("data", "webdataset"),
    "model/custom.yaml": ("model._target_", "my_package"),
    "model/timm.yaml": None if find_spec("timm") else ("model", "timm"),
    "model/huggingface.yaml": None if find_spec("transformers") else ("model", "transformers"),
    "task/custom.yaml": ("task._target_", "my_package"),
    **{f"{group}/custom.yaml": (f"{group}._target_", "my_package") for group in ("loss", "optimizer", "scheduler")},
}
"""What the command of a file needs that is not here: the key of the problem, and what is missing."""


def command_of(name: str) -> list[str]:
    """The arguments of the command in the first line."""
    first = (CONF / name).read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# python -m runner"), f"{name}: its first line is not the command that uses it"
    typed = first.removeprefix("# python -m runner").replace("[key=value ...]", " ")
    return shlex.split(re.split(r"\s{2,}", typed)[0])


def key_lines(name: str) -> list[str]:
    """The lines with a key and a value, but for those of a text block."""
    lines, block = [], -1
    for line in (CONF / name).read_text(encoding="utf-8").splitlines():
        indent = len(line) - len(line.lstrip())
        if block >= 0 and (indent > block or not line.strip()):
            continue
        block = -1
        found = re.match(r"\s*(?:- )?(?:override )?[\w/@]+:\s+(\S.*)", line)
        if found and not line.lstrip().startswith("#") and not found[1].startswith("#"):
            lines.append(line)
            block = indent if found[1].startswith("|") else -1
    return lines


def write_mnist(folder: Path) -> None:
    """MNIST's four files, with few images in them."""
    folder.mkdir()
    for part, count in (("train", 50), ("t10k", 10)):
        images = struct.pack(">4i", 2051, count, 28, 28) + bytes(i % 256 for i in range(count * 784))
        labels = struct.pack(">2i", 2049, count) + bytes(i % 10 for i in range(count))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)


def write_cifar10(folder: Path) -> None:
    """CIFAR-10's six files, with few images in them."""
    folder.mkdir()
    for name in (*TRAIN_FILES, TEST_FILE):
        pixels = np.arange(10 * 3072, dtype=np.uint8).reshape(10, -1)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": list(range(10))}))


def test_there_are_files() -> None:
    assert len(FILES) >= 30 and key_lines("config.yaml")


@pytest.mark.parametrize("name", FILES)
def test_every_key_has_a_few_words_of_comment(name: str) -> None:
    bare = [line for line in key_lines(name) if not re.search(r"\S # \w", line)]
    assert bare == []


@pytest.mark.parametrize("name", FILES)
def test_the_command_of_the_first_line_uses_the_file_and_builds(name: str, here: Path) -> None:
    write_mnist(here / "data")
    write_cifar10(here / "data" / FOLDER)
    before = sorted(here.rglob("*"))
    typed = parse_arguments(command_of(name))
    cfg, problems = make_composer(typed).compose(typed.overrides, RunMode.MULTIRUN if typed.multirun else RunMode.RUN)
    assert cfg is not None and problems == []
    group, _, choice = name.removesuffix(".yaml").rpartition("/")
    if group:
        assert {**cfg.hydra.runtime.choices, **group_choices(cfg)}[group] == choice
        keys = [line.split(":")[0].strip() for line in key_lines(name) if not line.startswith((" ", "-"))]
        assert all(key in OmegaConf.select(cfg, group.replace("/", ".")) for key in keys)
    try:
        experiment = build.build(without_hydra(cfg), group_choices(cfg), problems)
    except ConfigError as error:
        (problem,) = error.problems
        key, missing = LACKING.get(name) or ("", "")
        assert problem.key == key and missing in problem.text
    else:
        assert LACKING.get(name) is None, "this needs something that is not here"
        assert experiment.cost.flops and experiment.config["seed"] == 0
    assert sorted(here.rglob("*")) == before


def test_every_choice_of_every_group_is_described_where_it_is_offered() -> None:
    groups = {path.parent.name for path in CONF.rglob("*/*.yaml")}
    config = (CONF / "config.yaml").read_text() + (CONF / "hydra" / "sweeper" / "optuna.yaml").read_text()
    for group in groups:
        assert re.search(rf"^  - (override hydra/)?{group}(@_global_)?: \w+ # \w", config, re.MULTILINE), group
