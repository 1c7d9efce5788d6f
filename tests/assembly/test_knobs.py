"""Every key of the config has an effect: one test walks them all, and finds by itself which there are."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from omegaconf import OmegaConf

from conftest import REPOSITORY, Called
from helpers.delivered import DeliveryHere
from runner.config.settings import SweepSettings

BASE = ("tracking=off", "data.limit=60", "trainer.epochs=2", "data.batch_size=8")


@dataclass
class Run:
    """What is known of a run: what it printed, its figures, its metrics, its checkpoint."""

    called: Called
    folder: Path
    result: dict[str, Any] = field(default_factory=dict)
    metrics: dict[tuple[str, int], float] = field(default_factory=dict)

    @property
    def checkpoint(self) -> dict[str, Any]:
        return torch.load(self.folder / "checkpoints" / "last.pt", weights_only=True)

    def steps(self, name: str) -> list[int]:
        return [step for n, step in self.metrics if n == name]


@pytest.fixture
def run(runner: Callable[..., Called], here: Path) -> Callable[..., Run]:
    def call(*overrides: str) -> Run:
        before = set((here / "outputs" / "runs").glob("*"))
        called = runner(*overrides)
        new = set((here / "outputs" / "runs").glob("*")) - before
        assert len(new) == 1, called.err
        made = Run(called, new.pop())
        made.result = json.loads((made.folder / "result.json").read_text())
        for line in (made.folder / "metrics.jsonl").read_text().splitlines():
            point = json.loads(line)
            made.metrics[point["name"], point["step"]] = point["value"]
        return made

    return call


def learned_differently(a: Run, b: Run) -> bool:
    return a.metrics["train/loss", 2] != b.metrics["train/loss", 2]


Effect = Callable[[Run, Run], bool]

EFFECTS: dict[str, tuple[tuple[str, ...], Effect]] = {
    "seed": (("seed=1",), learned_differently),
    "data.batch_size": (("data.batch_size=16",), lambda a, b: (a.result["steps"], b.result["steps"]) == (12, 6)),
    "data.val_fraction": (("data.val_fraction=0.5",), lambda a, b: "30 train, 30 validation" in b.called.err),
    "data.split": (("data.split=sequential",), learned_differently),
    "data.folds": (("data.folds=3", "data.fold=0"), lambda a, b: "40 train, 20 validation samples" in b.called.err),
    "data.fold": (("data.folds=3", "data.fold=1"), learned_differently),
    "data.sampler": (("data.sampler=balanced",), learned_differently),
    "data.limit": (("data.limit=40",), lambda a, b: "32 train, 8 validation, 40 test" in b.called.err),
    "data.scale": (("data.scale=2",), learned_differently),
    "data.in_memory": (
        ("data.in_memory=false",),
        lambda a, b: "loaded by batch" in b.called.err and "in memory" in a.called.err,
    ),
    "data.augment.crop": (("data.augment.crop=1",), learned_differently),
    "data.augment.flip": (("data.augment.flip=true",), learned_differently),
    "data.augment.rotation": (("data.augment.rotation=20",), learned_differently),
    "data.augment.erasing": (("data.augment.erasing=0.5",), learned_differently),
    "data.augment.randaugment.operations": (("data.augment.randaugment.operations=1",), learned_differently),
    "data.augment.mixup.alpha": (("data.augment.mixup.alpha=0.4",), learned_differently),
    "data.augment.cutmix.alpha": (("data.augment.cutmix.alpha=1",), learned_differently),
    "data.mean": (("data.mean=0.9",), learned_differently),
    "data.std": (("data.std=2",), learned_differently),
    "model.hidden": (("model.hidden=[7]",), lambda a, b: b.result["parameters"] == 64 * 7 + 7 + 7 * 10 + 10),
    "model.activation": (("model.activation=tanh",), learned_differently),
    "model.dropout": (("model.dropout=0.5",), learned_differently),
    "model.channels": (("model=cnn", "model.channels=[4,4,4]"), lambda a, b: b.result["parameters"] < 1500),
    "model.batch_norm": (
        ("model=cnn", "model.batch_norm=true"),
        lambda a, b: b.result["parameters"] == a.result["parameters"] + 32 + 64 + 128,
    ),
    "model.strides": (("model=cnn", "model.strides=[2,2,2]"), lambda a, b: b.result["flops_per_sample"] < 1e6),
    "model.kernel_size": (
        ("model=cnn", "model.kernel_size=[5,3,3]"),
        lambda a, b: b.result["parameters"] == a.result["parameters"] + 32 * (25 - 9),
    ),
    "model.pool": (
        ("model=cnn", "model.pool=none"),
        lambda a, b: b.result["parameters"] == a.result["parameters"] + 64 * 128 * (2 * 2 - 1),
    ),
    "optimizer.lr": (  # the mean over six steps of half a cosine
        ("optimizer.lr=0.5",),
        lambda a, b: [x.metrics["lr", 1] for x in (a, b)] == pytest.approx([0.05 * 7 / 12, 0.5 * 7 / 12]),
    ),
    "optimizer.momentum": (("optimizer.momentum=0",), learned_differently),
    "optimizer.weight_decay": (("optimizer.weight_decay=0.1",), learned_differently),
    "optimizer.nesterov": (("optimizer.nesterov=true",), learned_differently),
    "optimizer.betas": (("optimizer=adamw", "optimizer.betas=[0.5,0.9]"), learned_differently),
    "optimizer.eps": (("optimizer=adamw", "optimizer.eps=0.1"), learned_differently),
    "scheduler.min_lr": (
        ("scheduler=cosine", "scheduler.min_lr=0.01"),
        lambda a, b: b.metrics["lr", 2] == pytest.approx(0.0190, rel=1e-3),  # the mean over the second half
    ),
    "scheduler.period": (("scheduler=cosine_restarts", "scheduler.period=2"), lambda a, b: b.metrics["lr", 2] < 0.02),
    "model.freeze": (
        ("model.freeze=[layers.1]",),
        lambda a, b: b.result["parameters"] == a.result["parameters"] - 8320,
    ),
    "optimizer.groups": (
        ("optimizer.groups.head.params=layers.5", "optimizer.groups.head.lr=0.5"),
        lambda a, b: b.metrics["lr/head", 1] == pytest.approx(10 * a.metrics["lr", 1]) and learned_differently(a, b),
    ),
    "optimizer.no_decay": (
        ("optimizer=adamw", "optimizer.no_decay=true"),
        lambda a, b: [group["weight_decay"] for group in b.checkpoint["optimizer"]["param_groups"]] == [0.01, 0],
    ),
    "optimizer.layer_decay": (("optimizer.layer_decay=0.5",), learned_differently),
    "loss.label_smoothing": (("loss.label_smoothing=0.3",), learned_differently),
    "loss.class_weight": (("loss.class_weight=balanced",), learned_differently),
    "loss.ignore_index": (("loss.ignore_index=3",), learned_differently),
    "loss.gamma": (("loss=focal", "loss.gamma=0"), learned_differently),
    "loss.alpha": (("loss=focal", "loss.alpha=balanced"), learned_differently),
    "device.name": (("device=cpu",), lambda a, b: "device cpu (" in b.called.err and "auto -> cpu" in a.called.err),
    "device.threads": (
        ("device.threads=2",),
        lambda a, b: (a.result["threads"], b.result["threads"], torch.get_num_threads()) == (1, 2, 2),
    ),
    "precision.name": (
        ("precision=fp64",),
        lambda a, b: b.checkpoint["model"]["layers.1.weight"].dtype == torch.float64,
    ),
    "trainer.epochs": (("trainer.epochs=3",), lambda a, b: (a.result["epochs"], b.result["epochs"]) == (2, 3)),
    "trainer.max_steps": (("trainer.max_steps=5",), lambda a, b: b.result["steps"] == 5),
    "trainer.max_time": (("trainer.max_time=1e-6",), lambda a, b: b.result["steps"] == 1),
    "trainer.grad_accumulation": (("trainer.grad_accumulation=3",), lambda a, b: b.result["steps"] == 4),
    "trainer.clip_norm": (("trainer.clip_norm=0.01",), learned_differently),
    "trainer.ema_decay": (
        ("trainer.ema_decay=0.9",),
        lambda a, b: not learned_differently(a, b) and a.metrics["val/loss", 2] != b.metrics["val/loss", 2],
    ),
    "trainer.profile_steps": (
        ("trainer.profile_steps=2",),
        lambda a, b: (b.folder / "profile" / "trace.json").exists() and "profile    2 steps" in b.called.err,
    ),
    "trainer.monitor": (("trainer.monitor=train/loss",), lambda a, b: "best train/loss" in b.called.err),
    "trainer.validate_every_epochs": (("trainer.validate_every_epochs=2",), lambda a, b: b.steps("val/loss") == [2]),
    "trainer.validate_every_steps": (
        ("trainer.validate_every_steps=5",),
        lambda a, b: b.steps("val/loss_step") == [5, 10],
    ),
    "trainer.log_every_epochs": (
        ("trainer.log_every_epochs=2",),
        lambda a, b: "epoch 1/2" in a.called.err and "epoch 1/2" not in b.called.err,
    ),
    "trainer.log_every_steps": (("trainer.log_every_steps=4",), lambda a, b: b.steps("train/loss_step") == [4, 8, 12]),
    "trainer.checkpoint_every_epochs": (
        ("trainer.checkpoint_every_epochs=2", "trainer.validate_every_epochs=2", "trainer.keep_checkpoints=9"),
        lambda a, b: saved(b) == 1,
    ),
    "trainer.checkpoint_every_steps": (
        ("trainer.checkpoint_every_steps=2", "trainer.keep_checkpoints=9"),
        lambda a, b: saved(b) == 6,
    ),
    "trainer.checkpoint_every_seconds": (
        ("trainer.checkpoint_every_seconds=1e-9", "trainer.keep_checkpoints=99"),
        lambda a, b: saved(b) == 12,
    ),
    "trainer.keep_checkpoints": (("trainer.keep_checkpoints=1",), lambda a, b: (saved(a), saved(b)) == (2, 1)),
    "trainer.log_norms": (
        ("trainer.log_norms=true",),
        lambda a, b: not a.steps("norm/weight/layers.1") and b.steps("norm/weight/layers.1") == [1, 2],
    ),
    "trainer.on_nonfinite": (
        ("trainer.on_nonfinite=ignore", "optimizer.lr=1e30"),
        lambda a, b: b.result["status"] == "FINISHED",
    ),
    "trainer.early_stopping.patience": (
        ("trainer.early_stopping.patience=1", "optimizer.lr=5", "trainer.epochs=30"),
        lambda a, b: b.result["epochs"] < 30,
    ),
    "trainer.early_stopping.min_delta": (
        ("trainer.early_stopping.patience=1", "trainer.early_stopping.min_delta=100", "trainer.epochs=9"),
        lambda a, b: b.result["epochs"] == 2,
    ),
    "tracking.log_model": (("tracking.log_model=true",), lambda a, b: (b.folder / "model" / "MLmodel").exists()),
    "runner.quiet": (("runner.quiet=true",), lambda a, b: b.called.err == ""),
}

SHOWN_ELSEWHERE = {
    "resume": "test_resume.py",
    "model.weights": "test_weights.py",
    "model.embedding": "test_tabular.py",
    "model.unfreeze_at_epoch": "test_freeze.py",
    **{f"model.lora.{key}": "test_lora.py" for key in ("params", "rank", "alpha", "dropout", "train")},
    "task.targets": "test_supervised.py",
    "loss.delta": "test_formulas.py",
    "optimizers": "test_turns.py",
    **{f"strategy.{key}": "test_strategy.py" for key in ("name", "nproc_per_node", "find_unused_parameters", "shard")},
    "metrics": "test_metrics_of_a_run.py",
    "model.output_activation": "test_model.py",
    "device.evaluation_threads": "test_cores.py",
    "trainer.steps_per_epoch": "test_streaming.py",
    "runner.dry_run": "test_footprint.py",
    "trainer.compile": "test_compilation.py",
    "trainer.callbacks": "test_callbacks.py",
    "trainer.activation_checkpointing": "test_recomputation.py",
    "trainer.on_oom": "test_micro_batches.py",
    **{f"trainer.lr_range.{key}": "test_lr_range.py" for key in ("steps", "lowest", "highest")},
    "data.cache": "test_image_cache.py",
    "data.shuffle_window": "test_webdataset.py",
    "data.download_limit": "test_webdataset.py",
    "trainer.deterministic": "test_device.py",
    "trainer.detect_anomaly": "test_anomaly.py",
    "resume_mode": "test_resume.py",
    "runner.verbose": "test_cli.py",
    "model.name": "test_vision.py",
    "model.pretrained": "test_timm.py, test_huggingface.py",
    "model.auto": "test_huggingface.py",
    "model.config": "test_huggingface.py",
    "model.revision": "test_huggingface.py",
    "model.layers": "test_gpt.py",
    "model.heads": "test_gpt.py",
    "model.width": "test_gpt.py",
    "task.ignore_index": "test_language_model.py",
    "data.block": "test_text.py",
    "data.stride": "test_text.py",
    "data.held_out": "test_text.py",
    "data.samples": "test_shapes.py",
    "optimizer.alpha": "test_optimizer.py",
    "optimizer.centered": "test_optimizer.py",
    "optimizer.adamw_lr": "test_optimizer.py",
    "optimizer.ns_steps": "test_optimizer.py",
    "optimizer.adjust_lr_fn": "test_optimizer.py",
    "scheduler.step_size": "test_scheduler.py",
    "scheduler.gamma": "test_scheduler.py",
    "scheduler.factor": "test_scheduler.py",
    "scheduler.patience": "test_scheduler.py",
    "scheduler.threshold": "test_scheduler.py",
    "scheduler.warmup_epochs": "test_scheduler.py",
    "scheduler.pct_start": "test_scheduler.py",
    "scheduler.div_factor": "test_scheduler.py",
    "scheduler.final_div_factor": "test_scheduler.py",
    "scheduler.base_momentum": "test_scheduler.py",
    "data.augment.randaugment.magnitude": "test_randaugment.py",
    "data.augment.mixup.probability": "test_mixing.py",
    "data.augment.cutmix.probability": "test_mixing.py",
    "data.split_by": "test_division.py",
    "data.sample_weight": "test_sampling.py",
    "data.num_workers": "test_the_number_of_workers",
    "data.root": "test_where_data_lie",
    "data.path": "test_where_data_lie",
    "data.target": "test_data.py",
    "data.val_path": "test_data.py",
    "data.val_inputs": "test_data.py",
    "data.val_targets": "test_data.py",
    "data.classes": "test_data.py",
    "data.test_path": "test_data.py",
    "data.test_fraction": "test_data.py",
    "data.index": "test_csv_file.py",
    "data.header": "test_csv_file.py",
    "data.target_type": "test_csv_file.py",
    "data.scale_targets": "test_target_scale.py",
    "data.size": "test_images.py",
    "data.name": "test_huggingface_data.py",
    "data.subset": "test_huggingface_data.py",
    "data.revision": "test_huggingface_data.py",
    "data.train_split": "test_huggingface_data.py",
    "data.val_split": "test_huggingface_data.py",
    "data.test_split": "test_huggingface_data.py",
    "data.columns": "test_huggingface_data.py",
    "data.tokenizer": "test_huggingface_data.py",
    "data.max_length": "test_huggingface_data.py",
    "data.padding": "test_huggingface_data.py",
    "data.channels": "test_images.py",
    "data.inputs": "test_data.py",
    "data.targets": "test_data.py",
    "data.test_inputs": "test_data.py",
    "data.test_targets": "test_data.py",
    "device.index": "test_device.py, where there is a GPU",
    "tracking.name": "test_tracking_knobs",
    "tracking.uri": "test_tracking_knobs",
    "tracking.experiment": "test_tracking_knobs",
    "tracking.run_name": "test_tracking_knobs",
    "tracking.log_checkpoints": "test_tracking_knobs",
    "tracking.tags": "test_pages.py",
    "tracking.description": "test_pages.py",
    "tracking.register": "test_champion.py",
    "tracking.notify": "test_notify.py",
    "tracking.wait": "test_how_long_the_end_waits_for_the_store",
    **{f"sweep.{field.name}": "test_sweep.py" for field in fields(SweepSettings)},
}


def saved(run: Run) -> int:
    return len(list((run.folder / "checkpoints").glob("last*.pt")))


def keys(node: Any, prefix: str) -> set[str]:
    if not OmegaConf.is_dict(node) or not node:
        return {prefix}
    found = set()
    for name in node:
        if str(name) not in ("_target_", "defaults", "hydra"):
            child = node._get_node(name)
            found |= keys(child, f"{prefix}.{name}".lstrip("."))
    return found


def test_no_key_is_forgotten() -> None:
    there = keys(OmegaConf.load(REPOSITORY / "conf" / "config.yaml"), "")
    for path in (REPOSITORY / "conf").glob("*/*.yaml"):
        if path.parent.name not in ("experiment", "debug"):
            there |= keys(OmegaConf.load(path), path.parent.name)
    there -= {""}
    assert there == set(EFFECTS) | set(SHOWN_ELSEWHERE)


@pytest.fixture(scope="module")
def base() -> dict[tuple[str, ...], Run]:
    return {}


@pytest.mark.parametrize("key", EFFECTS)
def test_every_knob_has_its_effect(key: str, run: Callable[..., Run], base: dict[Any, Run]) -> None:
    overrides, effect = EFFECTS[key]
    groups = tuple(o for o in overrides if re.fullmatch(r"(model|optimizer|scheduler|loss)=\w+", o))
    if groups not in base:
        base[groups] = run(*BASE, *groups)
    assert effect(base[groups], run(*BASE, *overrides))


def test_the_number_of_workers(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    start = torch.utils.data.dataloader._MultiProcessingDataLoaderIter.__init__

    def counted(self: Any, loader: Any) -> None:
        started.append(loader.num_workers)
        start(self, loader)

    monkeypatch.setattr(torch.utils.data.dataloader._MultiProcessingDataLoaderIter, "__init__", counted)
    inline = run(*BASE, "data.in_memory=false")
    assert not started
    workers = run(*BASE, "data.in_memory=false", "data.num_workers=2")
    assert set(started) == {2}
    assert not learned_differently(inline, workers)


def test_where_data_lie(run: Callable[..., Run], here: Path) -> None:
    made = np.random.default_rng(0)
    for name, shift in (("one", 0), ("two", 100)):
        folder = here / name
        folder.mkdir()
        for part, samples in (("train", 40), ("t10k", 10)):
            pixels = made.integers(0, 100, (samples, 28, 28)) + shift
            header = np.array([0x803, samples, 28, 28], dtype=">i4").tobytes()
            (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.astype("u1").tobytes())
            labels = np.arange(samples) % 10
            header = np.array([0x801, samples], dtype=">i4").tobytes()
            (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.astype("u1").tobytes())
    assert learned_differently(*(run(*BASE, "data=mnist", f"data.root={here / name}") for name in ("one", "two")))

    for name in ("one", "two"):
        rows = made.normal(size=(40, 3))
        np.savetxt(here / f"{name}.csv", rows, delimiter=",", header="a,b,c", comments="")
    assert learned_differently(
        *(run(*BASE, "data=csv", "loss=mse", f"data.path={name}.csv") for name in ("one", "two"))
    )


@pytest.mark.usefixtures("delivery_here")
def test_how_long_the_end_waits_for_the_store(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(DeliveryHere, "close", lambda self, timeout, longest=None: waited.append(timeout) or True)
    local = [o for o in BASE if o != "tracking=off"] + ["tracking.log_model=false"]
    run(*local, "tracking.wait=0")
    at_once = max(waited)
    run(*local, "tracking.wait=5")
    assert at_once == 0
    assert 3 < max(waited) <= 5


@pytest.mark.usefixtures("delivery_here")
def test_tracking_knobs(run: Callable[..., Run], here: Path) -> None:
    local = [o for o in BASE if o != "tracking=off"] + ["tracking.log_model=false"]
    plain = run(*local)
    other = f"sqlite:///{here}/other.db"
    named = ["tracking.experiment=mine", "tracking.run_name=x, y (z)"]
    changed = run(*local, f"tracking.uri={other}", *named, "tracking.log_checkpoints=true")
    client = MlflowClient(f"sqlite:///{here}/outputs/mlflow.db")
    first = client.get_run(plain.result["run_id"])
    assert first.info.run_name.startswith("limit=60 epochs=2 batch_size=8 mlp digits ")
    assert first.info.run_name.endswith("_".join(plain.folder.name.split("_")[:2])[5:])
    assert client.get_experiment(first.info.experiment_id).name == "runner"
    assert "checkpoints" not in {f.path for f in client.list_artifacts(first.info.run_id)}
    client = MlflowClient(other)
    second = client.get_run(changed.result["run_id"])
    assert second.info.run_name == "x, y (z)"
    assert client.get_experiment(second.info.experiment_id).name == "mine"
    assert {f.path for f in client.list_artifacts(second.info.run_id, "checkpoints")} >= {
        "checkpoints/last.pt",
        "checkpoints/best.pt",
    }
    assert not first.outputs.model_outputs
