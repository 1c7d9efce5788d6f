"""`model.weights`, and a run's best weights."""

import copy
import logging
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conftest import Called
from helpers.delivered import delivered_here
from helpers.problems import about, problem_of, problems_of
from helpers.trained import place, train
from helpers.training import same
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.manifest import Manifest
from runner.rundir.uploaded_files import UploadedFiles
from runner.runs.predictor import trained_model
from runner.saved.run import find
from runner.saved.weights import fingerprint, load_into, weights_of_run
from runner.tracking import artifacts


def net(classes: int = 3, width: int = 5, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, classes))


@pytest.fixture(scope="module", autouse=True)
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with place(tmp_path_factory.mktemp("weights")) as folder:
        yield folder


@pytest.fixture(scope="module")
def averaged(there: Path) -> Path:
    """A run that has averaged its weights."""
    return train("averaged", "trainer.ema_decay=0.9")


def checkpoint(folder: Path, name: str = "best") -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"{name}.pt", weights_only=True)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_a_state_dict_is_loaded_bit_for_bit_and_wrappers_leave_no_trace(prefix: str) -> None:
    there, here = net(seed=1), net(seed=2)
    torch.save({f"{prefix}{name}": tensor for name, tensor in there.state_dict().items()}, "net.pth")
    load_into(here, "net.pth")
    assert same(here.state_dict(), there.state_dict())


def wrapped(inner: nn.Module, **others: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"model.{name}": tensor for name, tensor in inner.state_dict().items()} | others


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_a_model_within_the_state_of_a_program_is_found_and_what_is_not_of_it_is_said(
    key: str, caplog: pytest.LogCaptureFixture
) -> None:
    there, here = net(seed=1), net(seed=2)
    loss_weight = {"loss.weight": torch.ones(3)}
    content = {"epoch": 3, key: wrapped(there, **loss_weight), "optimizer": {"state": {}, "param_groups": []}}
    torch.save(content, "program.ckpt")
    with caplog.at_level(logging.INFO, "runner"):
        load_into(here, "program.ckpt")
    assert same(here.state_dict(), there.state_dict())
    (line,) = caplog.messages
    assert f"program.ckpt, its {key}" in line and "prefix model." in line and "left out: loss.weight" in line


def test_under_a_prefix_another_number_of_outputs_and_another_model_are_told_apart() -> None:
    there, here, untouched = net(3, seed=1), net(7, seed=2), net(7, seed=2)
    torch.save({"state_dict": wrapped(there, **{"loss.weight": torch.ones(3)})}, "program.ckpt")
    load_into(here, "program.ckpt")
    assert same(here[:3].state_dict(), there[:3].state_dict())
    assert same(here[3].state_dict(), untouched[3].state_dict())
    problem = problem_of(lambda: load_into(nn.Sequential(*net(), nn.Linear(3, 3)), "program.ckpt"))
    assert (problem.key, problem.topic) == ("model.weights", "shape")
    assert "4.weight (3, 3) is missing" in problem.text and "loss.weight (3) is in the weights only" in problem.text


def test_a_hidden_layer_of_which_one_tensor_does_not_fit_is_no_output_layer() -> None:
    tensors = net(3, seed=1).state_dict()
    tensors["1.weight"] = torch.zeros(len(tensors["1.weight"]) + 1, *tensors["1.weight"].shape[1:])
    torch.save(tensors, "odd.pt")
    problem = problem_of(lambda: load_into(net(3, seed=2), "odd.pt"))
    assert (problem.key, problem.topic) == ("model.weights", "shape") and "1.weight is" in problem.text


def test_averaged_weights_of_torch_are_loaded_without_their_counter() -> None:
    there, here = net(seed=1), net(seed=2)
    torch.save(torch.optim.swa_utils.AveragedModel(there).state_dict(), "averaged.pt")
    load_into(here, "averaged.pt")
    assert same(here.state_dict(), there.state_dict())


def test_a_checkpoint_of_lightning_is_loaded(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self, width: int = 5) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net, self.loss = net(width=width, seed=1), nn.CrossEntropyLoss(weight=torch.ones(3))

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return self.loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    data = torch.utils.data.TensorDataset(torch.randn(8, 4), torch.randint(3, (8,)))
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    module, here = Module(), net(seed=2)
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=4))
    trainer.save_checkpoint("lightning.ckpt")
    load_into(here, "lightning.ckpt")
    assert same(here.state_dict(), module.net.state_dict())


@pytest.mark.parametrize("arguments", [{}, {"max_shard_size": 100}, {"safe_serialization": False}], ids=str)
def test_a_folder_of_accelerate_is_loaded(arguments: dict[str, Any], tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    there, here = net(seed=1), net(seed=2)
    accelerate.Accelerator(cpu=True).save_model(there, tmp_path / "saved", **arguments)
    load_into(here, str(tmp_path / "saved"))
    assert same(here.state_dict(), there.state_dict())
    (tmp_path / "empty").mkdir()
    assert problem_of(lambda: load_into(here, str(tmp_path / "empty"))).topic == "run"


def test_safetensors_are_loaded_or_the_package_is_named() -> None:
    there, here = net(seed=1), net(seed=2)
    try:
        from safetensors.torch import save_file
    except ImportError:
        Path("net.safetensors").write_bytes(b"whatever")
        problem = problem_of(lambda: load_into(here, "net.safetensors"))
        assert (problem.key, problem.topic) == ("model.weights", "unavailable")
        assert "pip install safetensors" in problem.suggestion
        return
    save_file(there.state_dict(), "net.safetensors")
    load_into(here, "net.safetensors")
    assert same(here.state_dict(), there.state_dict())
    Path("net.safetensors").write_bytes(b"whatever")
    assert about(problems_of(lambda: load_into(here, "net.safetensors"))) == [("model.weights", "file")]


def test_for_other_classes_all_but_the_output_layer_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    there, here, untouched = net(3, seed=1), net(7, seed=2), net(7, seed=2)
    torch.save(there.state_dict(), "three.pt")
    with caplog.at_level(logging.INFO, "runner"):
        load_into(here, "three.pt")
    assert same(here[:3].state_dict(), there[:3].state_dict())
    assert same(here[3].state_dict(), untouched[3].state_dict())
    (line,) = caplog.messages
    assert "three.pt" in line and "(3)" in line and "7 outputs" in line and "had 3" in line


def test_a_fingerprint_is_of_names_and_values_alone() -> None:
    one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    other = copy.deepcopy(one).to(memory_format=torch.channels_last)
    assert fingerprint(one) == fingerprint(other)
    other[1].running_mean[0] += 1e-7
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(nn.Sequential(nn.ReLU(), *one)) != fingerprint(one)


class _Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def test_code_in_a_file_is_refused_and_does_not_run() -> None:
    torch.save({"weight": _Bomb()}, "bomb.pt")
    Path("plain.pt").write_bytes(pickle.dumps(_Bomb()))
    for name in ("bomb.pt", "plain.pt"):
        assert about(problems_of(partial(load_into, net(), name))) == [("model.weights", "file")]
    assert not Path("exploded").exists()


def damaged(path: Path) -> None:
    torch.save(net().state_dict(), path)
    content, weight = path.read_bytes(), net()[0].weight.detach().numpy().tobytes()
    assert content.count(weight) == 1
    path.write_bytes(content.replace(weight, bytes([weight[0] ^ 1]) + weight[1:]))


@pytest.mark.parametrize(
    ("write", "topic", "words"),
    [
        (lambda p: torch.save(net(width=6).state_dict(), p), "shape", ["0.weight", "(6, 4)", "(5, 4)", "0.bias"]),
        (lambda p: torch.save(net()[:3].state_dict(), p), "shape", ["3.weight (3, 5)", "3.bias (3)"]),
        (lambda p: torch.save({**net().state_dict(), "a.b": torch.ones(2)}, p), "shape", ["a.b (2)"]),
        (lambda p: torch.save({"state": net().state_dict(), "epoch": 1}, p), "file", ["a dict of state, epoch"]),
        (lambda p: torch.save([1, 2], p), "file", ["a list"]),
        (lambda p: p.write_bytes(b"x"), "file", []),
        (damaged, "file", ["damaged ("]),
        (lambda p: None, "file", ["other.pt"]),
    ],
)
def test_what_does_not_fit_is_named_and_the_model_is_left_alone(
    write: Callable[[Path], Any], topic: str, words: list[str], tmp_path: Path
) -> None:
    write(tmp_path / "other.pt")
    model = net(seed=2)
    problem = problem_of(lambda: load_into(model, str(tmp_path / "other.pt")))
    assert (problem.key, problem.topic) == ("model.weights", topic)
    assert f"model.weights={tmp_path}" in problem.text and all(word in problem.text for word in words)
    assert same(model.state_dict(), net(seed=2).state_dict())


@pytest.mark.parametrize("value", ["", "no/such/run", "0" * 32, "x" * 300])
def test_what_is_neither_a_file_nor_a_run_is_said(value: str) -> None:
    assert problem_of(lambda: load_into(net(), value)).key == "model.weights"


BRANCHES = """
import torch
class Branches(torch.nn.Linear):
    def __init__(self, num_outputs): super().__init__(64, num_outputs)
    def forward(self, x):
        x = x.flatten(1)
        return super().forward(x if x.sum() > 0 else -x)
"""


def test_a_model_that_cannot_be_exported_has_its_weights_in_mlflow_all_the_same(
    there: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (there / "branching_models.py").write_text(BRANCHES)
    monkeypatch.syspath_prepend(str(there))
    with delivered_here(empty_store):
        folder = train("branches", "model=custom", "model._target_=branching_models.Branches", "tracking=local")
    (warning,) = [line for line in (folder / "run.log").read_text().splitlines() if " WARNING " in line]
    assert "checkpoints/best.pt" in warning and not (folder / "model").exists()
    best = checkpoint(folder)
    run_id = str(DeliveryState.load(folder).run_id)
    shutil.rmtree(folder)
    run = find(run_id)
    _, model, found = trained_model(run)
    assert run.folder is None and same(model.state_dict(), best["model"])
    assert found.epoch == best["progress"]["best_epoch"]


def test_the_best_checkpoint_is_delivered_where_nothing_else_has_its_weights(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("best.pt", "last.pt"):
        (tmp_path / "checkpoints" / name).touch()

    def delivered(status: str, log_model: bool = True, before: tuple[str, ...] = ()) -> list[str]:
        manifest = Manifest("", "", "", log_model=log_model, status=status)
        uploaded = UploadedFiles(tmp_path, DeliveryState(artifacts={name: [0, 0] for name in before}))
        return [path.name for path in artifacts._files(tmp_path, manifest, uploaded)]

    assert delivered("FINISHED") == ["best.pt"]
    assert delivered("FINISHED", log_model=False) == delivered("KILLED") == []
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").touch()
    assert delivered("FINISHED") == []
    assert delivered("FINISHED", before=("checkpoints/best.pt",)) == ["best.pt"], "an old one would be taken for it"


def test_a_runs_best_weights_are_the_averaged_ones(averaged: Path) -> None:
    best = checkpoint(averaged)
    for value in (str(averaged), str(averaged / "checkpoints" / "best.pt")):
        taken, model, _ = trained_model(find(str(averaged)))
        assert taken.input_shape == [1, 8, 8]
        load_into(model, value)
        assert same(model.state_dict(), best["ema"]["weights"]), value
    assert not same(best["ema"]["weights"], best["model"])
    found = weights_of_run(find(str(averaged)))
    assert (found.epoch, found.data) == (best["progress"]["best_epoch"], best["progress"]["data"])


def test_without_a_best_the_last_are_taken_and_that_is_said(averaged: Path, caplog: pytest.LogCaptureFixture) -> None:
    best = averaged / "checkpoints" / "best.pt"
    kept = best.rename(averaged / "kept.pt")
    try:
        found = weights_of_run(find(str(averaged)))
        (warning,) = caplog.messages
        assert "averaged" in warning and "checkpoints/best.pt" in warning
        assert same(found.tensors, checkpoint(averaged, "last")["ema"]["weights"]) and found.epoch == 2
        best.write_bytes(b"x")
        problem = problem_of(lambda: weights_of_run(find(str(averaged))))
        assert (problem.key, problem.topic) == ("run", "run") and "best.pt" in problem.text
    finally:
        kept.replace(best)


def test_a_run_without_weights_says_so(averaged: Path) -> None:
    hidden = (averaged / "checkpoints").rename(averaged / "hidden")
    try:
        problem = problem_of(lambda: weights_of_run(find(str(averaged))))
        assert (problem.key, problem.topic) == ("run", "run") and "averaged/checkpoints" in problem.text
    finally:
        hidden.rename(averaged / "checkpoints")


def test_a_run_starts_from_given_weights(averaged: Path, runner: Callable[..., Called]) -> None:
    assert runner  # in a place of its own
    arguments = ("tracking=off", "debug=fast", "model.hidden=[8]", "trainer.epochs=1", "optimizer.lr=1e-30")
    assert runner(*arguments, f"model.weights={averaged}", "hydra.run.dir=warm").code == 0
    assert same(checkpoint(Path("warm"))["model"], checkpoint(averaged)["ema"]["weights"])
    called = runner(*arguments, f"model.weights={averaged}", "model.hidden=[9]")
    assert called.code == 2
    assert called.about == [("model.weights", "shape")]
    assert all(word in called.problems[0].text for word in (str(averaged), "layers.1.weight", "(8, 64)", "(9, 64)"))
