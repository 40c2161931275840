"""Where networks run, and in which precision."""

from contextlib import nullcontext

import torch

from .errors import ParameterError


def pick_device(name="auto"):
    """The device of a name; "auto" is the first GPU, else the CPU. Raises ParameterError for a device that is not there."""
    allow_tf32(True)  # where inference multiplies float32
    gpus = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))] if torch.cuda.is_available() else []
    if name not in ("auto", "cpu", *gpus):
        raise ParameterError(f"device {name!r} is not there; give one of {', '.join(['auto', 'cpu', *gpus])}")
    return torch.device([*gpus, "cpu"][0] if name == "auto" else name)


def allow_tf32(allowed):
    """Whether a GPU may multiply float32 with the 10 bits of TF32; in training, "fp32" means that it may not."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def auto_precision(device):
    """What "auto" stands for on a device: "bf16" where the hardware multiplies it, else "fp32"."""
    gpu, cpu = torch.cuda.is_bf16_supported, torch.cpu._is_avx512_bf16_supported
    return "bf16" if (gpu(including_emulation=False) if device.type == "cuda" else cpu()) else "fp32"


def autocast(device, precision="auto"):
    """Mixed precision context. precision: "auto" (bfloat16 where the hardware multiplies it), "bf16" or "fp32"."""
    if precision not in ("auto", "bf16", "fp32"):
        raise ParameterError(f"precision {precision!r} is unknown; one of auto, bf16, fp32")
    precision = auto_precision(device) if precision == "auto" else precision
    allow_tf32(precision != "fp32")
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
