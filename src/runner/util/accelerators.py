"""The devices of this machine."""

import torch


def available() -> list[str]:
    """Return the devices of this machine besides the CPU; `device=auto` takes the first."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    names = [name for name, usable in found.items() if usable]
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return names if accelerator is None or accelerator.type in names else [*names, accelerator.type]
