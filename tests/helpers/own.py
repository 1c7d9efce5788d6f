"""Experiments as users have them: files of at most 40 lines outside of the package, and the commands that use them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conftest import REPOSITORY

PAGE = REPOSITORY / "src" / "runner" / "task" / "README.md"
FILES = REPOSITORY / "tests" / "cases"
LINES = 40


@dataclass(frozen=True)
class Own:
    """An experiment.

    Attributes:
        typed: its arguments.
        metric: of the test part.
        bound: what chance, or no training, gives; better is `above` it or below.
        above: whether higher is better.
        axis: a sweep over a learning rate.
        sample: writes new samples to a folder, and returns the argument `input` for them; None where there is none.
        needs: a package.
        files: of the user's.
    """

    typed: list[str]
    metric: str
    bound: float
    above: bool = True
    axis: str = "optimizer.lr=0.005,0.01"
    sample: Callable[[Path], str] | None = None
    needs: str = "torch"
    files: tuple[str, ...] = ()


def arrays(**kinds: tuple[tuple[int, ...], str]) -> Callable[[Path], str]:
    """Return a function that writes an array of three samples for each input, named by its keyword."""

    def write(folder: Path) -> str:
        draw = np.random.default_rng(0)
        made = {
            name: draw.integers(1, 9, (3, *shape)) if kind == "tokens" else draw.random((3, *shape), dtype="f4")
            for name, (shape, kind) in kinds.items()
        }
        if list(made) == ["inputs"]:
            np.save(folder / "new.npy", made["inputs"])
            return "new.npy"
        np.savez(folder / "new.npz", **made)
        return "new.npz"

    return write


def rows(folder: Path) -> str:
    """Write the rows of the case's own table without their answers, and one with an unknown colour."""
    lines = (folder / "rows.csv").read_text().splitlines()[:4]
    new = [line.rpartition(",")[0] for line in lines]
    (folder / "new.csv").write_text("\n".join([*new, "9,violet,S,3.5"]) + "\n")
    return "new.csv"


def code(module: str, *more: str, data: str = "", task: str = "", model: str = "") -> list[str]:
    """Return the arguments that name a user's data, task and model in a module."""
    named = {"data": data, "task": task, "model": model}
    chosen = [(group, name) for group, name in named.items() if name]
    return [f"{group}=custom" for group, _ in chosen] + [f"{g}._target_={module}.{n}" for g, n in chosen] + list(more)


ADAM = ("optimizer=adam", "optimizer.lr=0.01")

CASES = {
    "two_inputs": Own(
        code("two_inputs", "optimizer=adam", "optimizer.lr=0.02", data="products", model="Both"), "test/accuracy", 0.7,
        sample=arrays(left=((4,), "f4"), right=((3,), "f4")), files=("two_inputs.py",),
    ),
    "hf_dict": Own(
        code("hf_dict", *ADAM, data="sentences", model="bert"), "test/accuracy", 0.7,
        sample=arrays(input_ids=((12,), "tokens"), attention_mask=((12,), "tokens")), needs="transformers",
        files=("hf_dict.py",),
    ),
    "own_gpt": Own(
        code("own_gpt", "task=language_model", *ADAM, data="characters", model="Tiny"), "test/loss", 1.0, above=False,
        sample=lambda folder: "the cat ", files=("own_gpt.py",),
    ),
    "segmentation": Own(
        code("segmentation", "task=segmentation", "data.batch_size=8", *ADAM, data="squares", model="Pixels"),
        "test/iou", 0.6, files=("segmentation.py",),
    ),
    "vae": Own(
        code("vae", *ADAM, task="VAE", model="Autoencoder"), "test/error", 40, above=False,
        sample=arrays(inputs=((1, 8, 8), "f4")), files=("vae.py",),
    ),
    "gan": Own(
        ["--config-dir", "my_conf", "experiment=gan"], "test/off", 0.75, above=False,
        axis="optimizers.generator.lr=0.001,0.002", sample=arrays(points=((2,), "f4")),
        files=("gan.py", "my_conf/experiment/gan.yaml"),
    ),
    "contrastive": Own(
        code("contrastive", "model=custom", "model._target_=torch.nn.Linear", "+model.in_features=8",
             "+model.out_features=8", *ADAM, data="views", task="Contrastive"), "test/found", 0.3,
        sample=arrays(a=((8,), "f4"), b=((8,), "f4")), files=("contrastive.py",),
    ),
    "multi_label": Own(
        code("multi_label", *ADAM, "loss.class_weight=balanced", "metrics=[{auroc: {average: macro}}]", data="labels"),
        "test/auroc", 0.8, sample=arrays(inputs=((6,), "f4")), needs="torchmetrics", files=("multi_label.py",),
    ),
    "frozen": Own(
        code("frozen", "model.freeze=[backbone]", "optimizer.groups.head.params=head.*", "optimizer.groups.head.lr=0.2",
             model="Backbone"), "test/accuracy", 0.6, axis="optimizer.groups.head.lr=0.1,0.2",
        sample=arrays(inputs=((1, 8, 8), "f4")), files=("frozen.py",),
    ),
    "stream": Own(
        code("stream", *ADAM, "trainer.steps_per_epoch=12", data="endless"), "test/accuracy", 0.8,
        sample=arrays(inputs=((6,), "f4")), files=("stream.py",),
    ),
    "padded": Own(
        code("padded", *ADAM, data="sequences", model="Bag"), "test/accuracy", 0.76,
        sample=arrays(tokens=((7,), "tokens")), files=("padded.py",),
    ),
    "table": Own(
        ["data=table", "data.path=rows.csv", *ADAM], "test/accuracy", 0.6, sample=rows, files=("rows.py",)
    ),
}  # fmt: skip
"""The experiments that a user should be able to have, by name."""


def sources() -> dict[str, str]:
    """Return the text of each user's file: those of the page, and the others."""
    shown = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return dict(shown) | {path.name: path.read_text(encoding="utf-8") for path in FILES.glob("*.py")}


def write(case: Own, folder: Path) -> None:
    """Write the files of an experiment to a folder, and the table if it has one."""
    texts = sources()
    for name in case.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(texts[name])
    if "rows.py" in case.files:
        names: dict[str, Callable[[str], None]] = {}
        exec(texts["rows.py"].partition("if __name__")[0], names)
        names["write"](str(folder / "rows.csv"))
