"""The modes of `torch.compile` that `trainer.compile` takes, and what each means on a device."""

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")

GRAPH_MODES = ("reduce-overhead", "max-autotune")
"""Modes that record CUDA graphs on a GPU: a call overwrites what the calls of earlier steps returned."""

TUNED_MODES = ("max-autotune", "max-autotune-no-cudagraphs")
"""Modes that choose kernels by their time."""


def mode_of(value: bool | str) -> str:
    """Return the mode that a value of `trainer.compile` asks for, if any is asked for."""
    return value if isinstance(value, str) else MODES[0]


def uses_graphs(value: bool | str, device: str) -> bool:
    """Return whether a mode records CUDA graphs on a type of device."""
    return value in GRAPH_MODES and device == "cuda"


def notes(value: bool | str, device: str) -> list[str]:
    """Return what the user should know of a mode on a type of device before training."""
    said = []
    if uses_graphs(value, device):
        said.append(f"trainer.compile={value}: runner was not tried with CUDA graphs")
    elif value in GRAPH_MODES:
        said.append(f"trainer.compile={value}: CUDA graphs need an NVIDIA GPU, there are none on {device}")
    if value in TUNED_MODES:
        said.append(f"trainer.compile={value} chooses kernels by their time: a resume may differ in the last bits")
    return said
