"""Where networks run, and how precisely they multiply."""

from contextlib import AbstractContextManager, nullcontext

import torch

from .errors import ParameterError

PRECISIONS = ("auto", "bf16", "fp32")


def available_device(name: str = "auto") -> torch.device:
    """The device of a name, for whoever only wants to know it.

    Args:
        name: "cpu", "cuda", "cuda:<number>", or "auto" for the first GPU, if there is one, else the CPU.

    Raises:
        ParameterError: This machine has no such device.
    """
    gpus = []
    if torch.cuda.is_available():
        gpus = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if name not in ("auto", "cpu", *gpus):
        raise ParameterError(f"device {name!r} is not there; give one of {', '.join(['auto', 'cpu', *gpus])}")
    if name == "auto":
        name = gpus[0] if gpus else "cpu"
    return torch.device(name)


def pick_device(name: str = "auto") -> torch.device:
    """The device to run networks on, with TF32 allowed from now on: inference uses it whatever a training's precision.

    Args:
        name: as for `available_device`.

    Raises:
        ParameterError: This machine has no such device.
    """
    device = available_device(name)
    allow_tf32(True)
    return device


def allow_tf32(allowed: bool) -> None:
    """Whether GPUs may multiply float32 with the 10 bits of TF32 from now on, in this process."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def auto_precision(device: torch.device) -> str:
    """What the precision "auto" stands for on a device: "bf16" where the hardware multiplies it, else "fp32"."""
    if device.type == "cuda":
        multiplies_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        multiplies_bf16 = torch.cpu._is_avx512_bf16_supported()
    return "bf16" if multiplies_bf16 else "fp32"


def set_precision(device: torch.device, precision: str = "auto") -> AbstractContextManager:
    """Set the precision of a training, once before it starts.

    TF32 is allowed or not from now on, also in the backward pass. bfloat16 is for the forward passes, each of which
    enters the context that is returned.

    Args:
        device: where the network is.
        precision: "fp32", without TF32; "bf16", mixed with float32; "auto", as `auto_precision` has it.

    Returns:
        A context that can be entered again and again.

    Raises:
        ParameterError: The precision is unknown.
    """
    if precision not in PRECISIONS:
        raise ParameterError(f"precision {precision!r} is unknown; one of {', '.join(PRECISIONS)}")
    if precision == "auto":
        precision = auto_precision(device)
    allow_tf32(precision != "fp32")
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
