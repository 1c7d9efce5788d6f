import warnings
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import optimizer as torch_optimizer
from torch.profiler import ProfilerActivity, profile

from helpers.problems import about
from helpers.training import net, training
from runner.device import resolve
from runner.errors import ConfigError
from runner.precision import Precision, step_unrecorded
from runner.rundir.checkpoint_file import load
from runner.scheduler import cosine
from runner.training.loop import fit

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "computed", "weights"),
    [
        ("fp32", torch.float32, torch.float32),
        ("amp", torch.bfloat16, torch.float32),
        ("bf16", torch.bfloat16, torch.float32),
        ("fp16", torch.float16, torch.float32),
        ("fp64", torch.float64, torch.float64),
    ],
)
def test_it_trains_and_computes_in_the_format_it_names(
    tmp_path: Path, name: str, computed: torch.dtype, weights: torch.dtype
) -> None:
    model = net()
    seen: set[torch.dtype] = set()
    model[0].register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    state = training(tmp_path, model=model, precision=name, epochs=5)
    fit(state)
    assert seen == {computed}
    assert {p.dtype for p in state.parameters} == {weights}
    losses = state.log.of("train/loss")
    assert losses[5] < 0.8 * losses[1]


def test_the_loss_is_computed_in_at_least_32_bits(tmp_path: Path) -> None:
    state = training(tmp_path, precision="bf16", epochs=1)
    seen: list[torch.dtype] = []
    state.task.loss.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].dtype))
    fit(state)
    assert set(seen) == {torch.float32}


class TestScaler:
    def test_its_state_is_in_the_checkpoint_and_its_scale_grows(self, tmp_path: Path) -> None:
        state = training(tmp_path, precision="fp16", epochs=2)
        state.precision.scaler.set_growth_interval(2)
        before = state.precision.scaler.get_scale()
        fit(state)
        scaler = load(state.checkpoints.last)["scaler"]
        assert scaler["scale"] == state.precision.scaler.get_scale() == before * 2**3

    def test_without_float16_there_is_none(self) -> None:
        assert Precision("amp", CPU).scaler is None
        assert Precision("amp", CPU).state_dict() == {}

    def test_a_skipped_step_advances_neither_optimizer_nor_scheduler(self, tmp_path: Path) -> None:
        state = training(
            tmp_path,
            model=net(),
            precision="fp16",
            epochs=1,
            optimizer=lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
            schedule=lambda optimizer: cosine(optimizer, total_steps=3),
        )
        batches = 0

        def overflow(gradient: Tensor) -> Tensor:
            nonlocal batches
            batches += 1
            return gradient * torch.inf if batches == 2 else gradient

        state.parameters[0].register_hook(overflow)
        fit(state)
        assert batches == 3
        assert state.progress.step == 2
        assert state.schedule.scheduler.last_epoch == 2
        assert {int(moments["step"]) for moments in state.optimizer.state.values()} == {2}
        assert all(bool(torch.isfinite(p).all()) for p in state.parameters)

    @pytest.mark.parametrize("clip_norm", [None, 1e-3])
    def test_clipping_sees_unscaled_gradients(self, tmp_path: Path, clip_norm: float | None) -> None:
        model = net()
        before = [p.detach().clone() for p in model.parameters()]
        state = training(
            tmp_path,
            model=model,
            precision="fp16",
            epochs=1,
            max_steps=1,
            clip_norm=clip_norm,
            optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        )
        fit(state)
        moved = torch.cat([(p - q).flatten() for p, q in zip(state.parameters, before, strict=True)]).norm().item()
        if clip_norm is None:
            assert 1e-2 < moved < 10
        else:
            assert moved == pytest.approx(clip_norm, rel=1e-2)


def test_the_outputs_of_a_user_s_module_may_be_of_any_type(tmp_path: Path) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, inputs: Tensor) -> Tensor:
            return self.inner(inputs).half()

    fit(training(tmp_path, model=Half(), epochs=1))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fp32", "fp32"),
        ("amp", "amp -> bfloat16 autocast"),
        ("fp16", "fp16 -> float16 autocast with GradScaler"),
    ],
)
def test_it_says_what_it_does(name: str, words: str) -> None:
    assert str(Precision(name, CPU)) == words


def test_a_machine_without_the_instructions_is_said_to_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    def on(**has: bool) -> str | None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
        return Precision("amp", CPU).slow_here()

    assert on(avx512_f=True, avx512_bf16=True) is None
    assert on(amx_tile=True, amx_bf16=True) is None
    assert on(neon=True, bf16=True) is None
    emulated = {f"avx512_{name}": True for name in ("f", "bw", "vl", "dq", "vnni")}
    assert "slower" in str(on(**emulated, avx512_bf16=False, amx_bf16=False))
    assert Precision("fp32", CPU).slow_here() is None


def test_a_torch_without_onednn_is_said_to_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS the operations of oneDNN are not registered."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert "slower" in str(Precision("bf16", CPU).slow_here())


def test_mps_has_no_64_bit_floats() -> None:
    with pytest.raises(ConfigError) as error:
        Precision("fp64", torch.device("mps"))
    assert about(error) == [("precision", "unavailable")]
    assert all(part in error.value.problems[0].suggestion for part in ("precision=fp32", "device=cpu"))


def test_a_format_without_a_name_or_a_device_is_refused() -> None:
    for name, topic, suggested in (("tf32", "unavailable", "precision=fp32"), ("half", "choice", "fp32")):
        with pytest.raises(ConfigError) as error:
            Precision(name, CPU)
        assert about(error) == [("precision", topic)]
        assert suggested in error.value.problems[0].suggestion


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["fp32", "amp", "bf16", "fp16", "fp64"])
def test_cuda(tmp_path: Path, name: str) -> None:
    state: Any = training(tmp_path, precision="fp32")
    device = resolve("cuda")
    state.model.to(device.torch)
    formats = Precision(name, device.torch)
    assert (formats.scaler is not None) == (name in ("amp", "fp16"))


class TestStepUnrecorded:
    """A step that torch's profiler does not record is the same step, and nothing that was put around it is lost."""

    def optimizer(self) -> torch.optim.Optimizer:
        weight = nn.Parameter(torch.ones(3))
        weight.grad = torch.full((3,), 2.0)
        return torch.optim.SGD([weight], lr=0.25)

    def stepped(self, optimizer: torch.optim.Optimizer) -> bool:
        step_unrecorded(optimizer)
        return optimizer.param_groups[0]["params"][0].tolist() == [0.5, 0.5, 0.5]

    def test_it_steps_and_makes_no_record(self) -> None:
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            assert self.stepped(self.optimizer())
        assert not [event for event in recorded.events() if event.name.startswith("Optimizer.step")]

    @pytest.mark.parametrize("when", ["pre", "post"])
    @pytest.mark.parametrize("where", ["own", "global"])
    def test_hooks_are_called(self, when: str, where: str) -> None:
        optimizer, calls = self.optimizer(), []
        register = {
            "own": getattr(optimizer, f"register_step_{when}_hook"),
            "global": getattr(torch_optimizer, f"register_optimizer_step_{when}_hook"),
        }[where]
        handle = register(lambda *_: calls.append(when))
        try:
            assert self.stepped(optimizer) and calls == [when]
        finally:
            handle.remove()

    def test_a_scheduler_sees_the_step(self) -> None:
        optimizer = self.optimizer()
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            assert self.stepped(optimizer)
        assert not [event for event in recorded.events() if event.name.startswith("Optimizer.step")]
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # "`lr_scheduler.step()` before `optimizer.step()`"
            scheduler.step()

    def test_a_wrapper_of_the_object_is_called(self, monkeypatch: pytest.MonkeyPatch) -> None:
        optimizer, calls = self.optimizer(), []
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
        step = optimizer.step

        @wraps(step)
        def counted(*arguments: Any) -> Any:
            calls.append(1)
            return step(*arguments)

        monkeypatch.setattr(optimizer, "step", counted)
        assert self.stepped(optimizer) and calls == [1]

    def test_a_wrapper_of_the_class_is_called(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls, step = [], torch.optim.SGD.step

        @wraps(step)
        def counted(*arguments: Any) -> Any:
            calls.append(1)
            return step(*arguments)

        monkeypatch.setattr(torch.optim.SGD, "step", counted)
        assert self.stepped(self.optimizer()) and calls == [1]
