"""Devices and precisions; what a GPU computes with them is tested with the trainings."""

import pytest
import torch

from weaktr import device
from weaktr.errors import ParameterError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def tf32():
    """Function → whether TF32 is allowed in matrix products and in convolutions; restored afterwards."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [one.allow_tf32 for one in backends]
    yield lambda: [one.allow_tf32 for one in backends]
    for one, allowed in zip(backends, before, strict=True):
        one.allow_tf32 = allowed


def test_only_the_device_to_run_on_allows_tf32(tf32):
    device.allow_tf32(False)
    assert device.available_device("cpu") == CPU and tf32() == [False, False]
    assert device.pick_device("cpu") == CPU and tf32() == [True, True]


def test_gpus_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    named = {name: str(device.available_device(name)) for name in ("auto", "cpu", "cuda", "cuda:1")}
    assert named == {"auto": "cuda", "cpu": "cpu", "cuda": "cuda", "cuda:1": "cuda:1"}
    with pytest.raises(ParameterError, match="'cuda:2' is not there; give one of auto, cpu, cuda, cuda:0, cuda:1"):
        device.available_device("cuda:2")


@pytest.mark.parametrize(
    ("precision", "allowed", "dtype"), [("fp32", False, torch.float32), ("bf16", True, torch.bfloat16)]
)
def test_a_precision_is_set_once_and_entered_at_every_step(tf32, precision, allowed, dtype):
    device.allow_tf32(not allowed)
    context = device.set_precision(CPU, precision)
    assert tf32() == [allowed, allowed]
    x = torch.ones(2, 2)
    for _ in range(2):
        with context:
            assert (x @ x).dtype == dtype
        assert (x @ x).dtype == torch.float32


def test_auto_is_what_the_hardware_multiplies(monkeypatch):
    for has, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has)
        assert device.auto_precision(CPU) == expected
    with pytest.raises(ParameterError, match="'half' is unknown; one of auto, bf16, fp32"):
        device.set_precision(CPU, "half")
