"""Names that other tools use for runner's keys and choices, and what to write instead."""

import re
from collections.abc import Collection

from runner.errors import did_you_mean

CHOICES: dict[str, dict[str, str]] = {
    "data": {
        "fashion": "fashion_mnist",
        "folder": "image_folder",
        "images": "image_folder",
        "imagefolder": "image_folder",
        "parquet": "table",
        "tabular": "table",
        "tsv": "table",
        "npz": "tensors",
        "numpy": "tensors",
        "tensor": "tensors",
    },
    "debug": {
        "true": "fast",
        "yes": "fast",
        "on": "fast",
        "false": "null",
        "none": "null",
        "profiler": "profile",
        "lr_find": "lr_range",
        "lr_finder": "lr_range",
    },
    "device": {
        "gpu": "cuda",
        "nvidia": "cuda",
        "rocm": "cuda",
        "metal": "mps",
        "apple": "mps",
        "intel": "xpu",
        "gaudi": "hpu",
        "ascend": "npu",
    },
    "loss": {
        "ce": "cross_entropy",
        "xent": "cross_entropy",
        "nll": "cross_entropy",
        "bce": "bce_with_logits",
        "binary_cross_entropy": "bce_with_logits",
        "l2": "mse",
        "mean_squared_error": "mse",
    },
    "model": {"mlp_classifier": "mlp", "convnet": "cnn", "conv": "cnn", "linear": "simple_nn"},
    "precision": {
        "16": "fp16",
        "16-mixed": "amp",
        "bf16-mixed": "bf16",
        "32": "fp32",
        "64": "fp64",
        "bfloat16": "bf16",
        "double": "fp64",
        "float16": "fp16",
        "float32": "fp32",
        "float64": "fp64",
        "full": "fp32",
        "half": "fp16",
        "mixed": "amp",
    },
    "scheduler": {
        "cosineannealinglr": "cosine",
        "cosineannealingwarmrestarts": "cosine_restarts",
        "false": "constant",
        "fixed": "constant",
        "none": "constant",
        "null": "constant",
        "off": "constant",
        "reducelronplateau": "plateau",
        "steplr": "step",
        "warmup": "warmup_cosine",
    },
    "tracking": {
        "disabled": "off",
        "false": "off",
        "mlflow": "local",
        "none": "off",
        "null": "off",
        "remote": "server",
        "sqlite": "local",
    },
    "hydra/launcher": {"basic": "local", "joblib": "local", "submitit_slurm": "slurm", "submitit": "slurm"},
    "hydra/sweeper": {"basic": "grid"},
}
"""Choices, by the names that other tools use."""

KEYS = {
    "accumulate_grad_batches": "trainer.grad_accumulation",
    "amp": "precision=amp",
    "batchsize": "data.batch_size",
    "bs": "data.batch_size",
    "checkpoint": "resume",
    "cuda": "device=cuda",
    "dataset": "data",
    "debug": "debug=fast",
    "exp_name": "tracking.experiment",
    "experiment_name": "tracking.experiment",
    "fp16": "precision=fp16",
    "gpu": "device=cuda",
    "gpus": "device=cuda",
    "gradient_accumulation_steps": "trainer.grad_accumulation",
    "gradient_clip_val": "trainer.clip_norm",
    "learning_rate": "optimizer.lr",
    "lr_scheduler": "scheduler",
    "max_epochs": "trainer.epochs",
    "n_epochs": "trainer.epochs",
    "name": "tracking.run_name",
    "num_epochs": "trainer.epochs",
    "num_train_epochs": "trainer.epochs",
    "per_device_train_batch_size": "data.batch_size",
    "wd": "optimizer.weight_decay",
    "weights": "model.weights",
    "workers": "data.num_workers",
}
"""Keys, by the names that other tools use. One with a value, such as `device=cuda`, is a complete argument."""

OTHER_DEVICES = ("ipu", "vulkan", "xla")
"""Unsupported devices. A similar name is not suggested for them: `tpu` is not a misspelt `cpu`."""

FILES = (".csv", ".tsv", ".txt", ".parquet", ".npz", ".npy", ".pt", ".json", ".yaml", ".zip")
"""Endings of files, whose names are no paths of a class or function."""

TORCHVISION = {
    "alexnet": "alexnet", "convnext": "convnext_tiny", "densenet": "densenet121", "efficientnet": "efficientnet_b0",
    "googlenet": "googlenet", "inception": "inception_v3", "maxvit": "maxvit_t", "mnasnet": "mnasnet1_0",
    "mobilenet": "mobilenet_v3_small", "regnet": "regnet_y_400mf", "resnet": "resnet18",
    "resnext": "resnext50_32x4d", "shufflenet": "shufflenet_v2_x1_0", "squeezenet": "squeezenet1_0", "swin": "swin_t",
    "vgg": "vgg11", "vit": "vit_b_16", "wide_resnet": "wide_resnet50_2",
}  # fmt: skip
"""Prefixes of the names of torchvision's classifiers, each with a small existing model."""


def for_choice(group: str, value: str, options: Collection[str]) -> str:
    """Suggest what to write instead of an unknown choice."""
    name = value.strip().lower()
    same = [option for option in options if _normalize(option) == _normalize(name)]
    if meant := CHOICES.get(group, {}).get(name) or next(iter(same), None):
        return f"write {group}={meant}"
    if group == "model" and any(re.match(rf"{family}(_|\d|$)", name) for family in TORCHVISION):
        return f"write model=torchvision model.name={TORCHVISION.get(name, name)}"
    if group == "device" and (numbered := re.fullmatch(r"(?:cuda|gpu):?(\d+)", name)):
        return f"write device=cuda device.index={numbered[1]}"
    is_path = all(part.isidentifier() for part in value.strip().split(".")) and "." in value
    if "custom" in options and is_path and not name.endswith(FILES):
        return f"write {group}=custom {group}._target_={value.strip()}"
    if group == "device" and name in OTHER_DEVICES:
        return f"choose from {', '.join(sorted(options))}"
    return did_you_mean(value, options)


def for_key(name: str, keys: Collection[str]) -> str | None:
    """Translate another tool's name of a key to runner's key, or key and value; None if the name is unknown."""
    meant = KEYS.get(name.replace("-", "_").lower())
    return meant if meant and meant.partition("=")[0] in keys else None


def _normalize(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
