"""Where the network runs and in which precision."""

import contextlib

import torch

from utils.cli import UserError


def pick_device(name):
    """Return the torch.device for "auto", "cpu", "cuda", "cuda:1", "mps".

    "auto" is the first NVIDIA GPU, or the processor. Raises UserError for a device that this
    machine or this PyTorch does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps", "xpu"):
            raise NotImplementedError(f"{device.type} has never been tried with this code")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r} cannot be used here ({reason}); "
                        'try "auto" or "cpu".') from None
    return device


def pick_precision(name, device):
    """Return "bf16" or "fp32" for "auto", "bf16" or "fp32".

    "auto" is bf16 where the hardware multiplies it natively, and fp32 elsewhere.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp32"
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"


def _cpu_has_bf16():
    """Tell whether the processor has AVX512-BF16 or AMX; PyTorch offers the test since 2.4."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)


@contextlib.contextmanager
def run_in(precision, device):
    """Run the network's convolutions in "fp32" or "bf16" inside this context.

    fp32 means fp32: the TF32 shortcut of NVIDIA's convolutions is switched off meanwhile, so that
    numbers do not depend on the machine.
    """
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
