"""Two processes compute what one computes, and none is left behind: on the CPU by gloo, on two GPUs by NCCL."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_training import BACKBONE, SIDE, cam_model, mask_options, samples_of

from weaktr import ranks
from weaktr.errors import ParameterError, RunError, UserError, remedy
from weaktr.files import ROOT
from weaktr.method.cam_generation import generate_list
from weaktr.method.cam_measures import validate
from weaktr.method.cam_training import cam_losses
from weaktr.method.clipping import COUNTS, clipping_counts, gradient_clipping
from weaktr.method.retraining import train_segmenter
from weaktr.method.segmentation import segment_list
from weaktr.method.training_state import check_batch
from weaktr.models.segmenter import create_segmenter

BATCH, STEPS = 4, 3
CLOSE = {"cpu": {"rtol": 1e-5, "atol": 1e-6}, "cuda": {"rtol": 1e-3, "atol": 1e-5}}  # sums in another order
FEWER_GPUS = f"two CUDA devices are needed, here are {torch.cuda.device_count()}"
TWO_GPUS = [pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < 2, reason=FEWER_GPUS)]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=TWO_GPUS)])
def device(request):
    """Where networks run, and so by what ranks talk: gloo or NCCL."""
    return torch.device(request.param)


class Silent:
    """Progress that goes to another process, whose first rank dies at an epoch if asked."""

    def __init__(self, total=0, label="", die_in=""):
        self.dies = bool(die_in) and label.startswith(die_in)

    def update(self, n, note=""):
        if self.dies and ranks.is_first():
            os.kill(os.getpid(), signal.SIGKILL)


def segmenter(seed=1):
    """A segmenter without dropout and drop path: nothing random is left in it."""
    torch.manual_seed(seed)
    model = create_segmenter(BACKBONE, 9, pretrained=False, image_size=SIDE, drop_path=0.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def of_this_rank(model, *parts):
    """This rank's share of each part of a batch, on its device."""
    torch.backends.cudnn.allow_tf32 = False
    device = next(model.parameters()).device
    return (torch.stack(ranks.share(part)).to(device) for part in parts)


def some_steps(model, images, targets, dataset, folder):
    """Steps of SGD with a step-1 network over this rank's share of a batch, and a validation."""
    model.train()
    network = ranks.in_step(model)
    images, targets = of_this_rank(model, images, targets)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found = {}
    for number in range(STEPS):
        optimizer.zero_grad()
        losses = cam_losses(network(images), targets)
        sum(losses.values()).backward()
        optimizer.step()
        found[f"loss {number}"] = ranks.mean(sum(losses.values()).detach()).reshape(1)
        found |= {f"gradient {number} {name}": gradient for name, gradient in gradients(model).items()}
    found |= {f"weights {name}": parameter.detach().clone() for name, parameter in model.named_parameters()}
    seen = validate(model, dataset, "val:3", precision="fp32", workers=0)
    found |= {"scores": torch.from_numpy(seen.scores), "labels": torch.from_numpy(seen.labels)}
    if ranks.is_first():
        save_file(found, folder / f"{ranks.world()}.safetensors")


def clipped_steps(model, images, targets, folder):
    """Backward passes of a step-2 network with each scope of clipping, and how many pixels were clipped."""
    network = ranks.in_step(model.train())
    found = {}
    images, targets = of_this_rank(model, images, targets)
    for scope in ("batch", "image", "own", "local", "global", "none"):
        model.zero_grad()
        clipped = gradient_clipping(network(images), targets, start_value=10.0, patch_size=8, scope=scope)
        clipped.loss.backward()
        found |= {f"{scope} {name}": gradient for name, gradient in gradients(model).items()}
        found[f"{scope} loss"] = ranks.mean(clipped.loss.detach()).reshape(1)
        counts = clipping_counts(~clipped.kept, targets, targets, scope)
        found[f"{scope} counts"] = ranks.total(torch.stack([counts[name] for name in sorted(counts)]))
    if ranks.is_first():
        save_file(found, folder / f"{ranks.world()}.safetensors")


def compared(folder):
    """The results of one and of two processes, tensor by tensor."""
    one, two = (load_file(folder / f"{count}.safetensors") for count in (1, 2))
    assert one.keys() == two.keys()
    for name, alone in one.items():
        yield name, alone, two[name]


@pytest.fixture
def batch(tiny_dataset):
    samples = samples_of(tiny_dataset)
    pairs = [samples[0, index] for index in range(BATCH)]
    return [pair[0] for pair in pairs], [pair[1].long() for pair in pairs]


def test_step_one_has_the_weights_of_one_process(tiny_dataset, tmp_path, batch, device):
    images, _ = batch
    labels = [torch.from_numpy(tiny_dataset.labels(i)) for i in tiny_dataset.ids("train")[:BATCH]]
    model = cam_model()
    for block in model.encoder.vit.blocks:
        block.drop_path1 = block.drop_path2 = torch.nn.Identity()
    model.to(device)
    assert not ranks.run(some_steps, 1, model, images, labels, tiny_dataset, tmp_path)
    assert ranks.run(some_steps, 2, model, images, labels, tiny_dataset, tmp_path)
    some_steps(model, images, labels, tiny_dataset, tmp_path)
    for name, one, two in compared(tmp_path):
        assert torch.allclose(one, two, **CLOSE[device.type]), name
        assert one.abs().max() > 0 or name.startswith("weights"), name
    assert len(load_file(tmp_path / "2.safetensors")["scores"]) == 3  # an odd list: none twice, none missing


def test_clipping_compares_with_the_whole_batch(tmp_path, batch, device):
    images, targets = batch
    model = segmenter().to(device)
    ranks.run(clipped_steps, 2, model, images, targets, tmp_path)
    clipped_steps(model, images, targets, tmp_path)
    for name, one, two in compared(tmp_path):
        assert torch.allclose(one, two, rtol=10 * CLOSE[device.type]["rtol"], atol=CLOSE[device.type]["atol"]), name
    one = load_file(tmp_path / "1.safetensors")
    clipped = sorted(COUNTS).index("clipped")
    shares = {scope: int(one[f"{scope} counts"][clipped]) for scope in ("batch", "local", "global", "none")}
    assert shares["none"] == 0 and len(set(shares.values())) == 4  # the scopes did something, each its own


def train(dataset, folder, device, *, processes, progress=Silent):
    folder.mkdir(exist_ok=True)
    model = segmenter().to(device)
    options = mask_options(epochs=2, batch_size=4, start_value=10.0, processes=processes)
    history = train_segmenter(model, samples_of(dataset), options, folder=folder, progress=progress)
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}, history


def test_a_training_of_two_is_that_of_one_and_goes_on_after_a_death(tiny_dataset, tmp_path, device):
    alone, history = train(tiny_dataset, tmp_path / "one", device, processes=1)
    with pytest.raises(RunError, match="process 1 of 2 was killed"):
        train(tiny_dataset, tmp_path / "two", device, processes=2, progress=partial(Silent, die_in="epoch 2"))
    resumed, shared_history = train(tiny_dataset, tmp_path / "two", device, processes=2)
    undisturbed, _ = train(tiny_dataset, tmp_path / "again", device, processes=2)
    for name in alone:  # a GPU adds up in no order
        same = partial(torch.allclose, **CLOSE["cuda"]) if device.type == "cuda" else torch.equal
        assert same(resumed[name], undisturbed[name]), name
    for name in alone:
        assert torch.allclose(alone[name], resumed[name], rtol=1e-3, atol=2e-5), name
    columns = ["iteration", "labelled", "wrong", "known"]
    assert history[columns].equals(shared_history[columns])
    assert np.allclose(history["loss"], shared_history["loss"], rtol=1e-5)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def test_lists_are_shared_without_a_trace(tiny_dataset, tmp_path, device):
    ids = tiny_dataset.ids("train")[:7]
    model = cam_model().eval().to(device)
    view = {"scales": [1.0], "mirror": True, "base_size": SIDE, "window": SIDE, "stride": 16}
    for processes in (1, 2):
        place = tmp_path / str(processes)
        variants = {place / "cams": ("fused", True)}
        (place / "cams").mkdir(parents=True)
        generate_list(model, tiny_dataset, ids, [1.0], variants, Silent(), processes)
        segment_list(
            segmenter().eval().to(device),
            tiny_dataset,
            ids,
            place / "masks",
            crf="voc",
            workers=1,
            progress=Silent(),
            processes=processes,
            **view,
        )
    made = files(tmp_path / "1")
    assert len(made) == 7 * 3 and made == files(tmp_path / "2")


class Listening:
    def __init__(self):
        self.counts = []

    def update(self, n):
        self.counts.append(n)


def test_progress_of_a_shared_list_ends_at_its_total(monkeypatch):
    monkeypatch.setattr(ranks, "world", lambda: 2)
    listening = Listening()
    bar = ranks.SharedProgress(listening, 7)
    for images in (1, 1, 2):
        bar.update(images)
    bar.finish()
    assert listening.counts == [2, 2, 3]
    bar = ranks.SharedProgress(listening, 7)
    bar.update(1)
    bar.finish()
    assert listening.counts[3:] == [2, 5]


# ---------------------------------------------------------------- what goes wrong


def fail(model, error):
    if ranks.rank() == 1:
        raise error
    ranks.wait()


FAILURES = [UserError("no such thing"), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")]


@pytest.mark.parametrize("error", FAILURES, ids=["ours", "memory"])
def test_what_a_rank_raises_is_raised_here(device, error):
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(type(error), match=f"^{error}$") as raised:
        ranks.run(fail, 2, torch.nn.Linear(1, 1).to(device), error)
    assert set(psutil.Process().children(recursive=True)) <= before
    assert isinstance(error, UserError) or "lower the batch size" in remedy(str(raised.value))


def sleep(model, folder):
    (folder / str(ranks.rank())).write_text(str(os.getpid()))
    time.sleep(300)


def test_ranks_end_with_whoever_started_them(tmp_path, device):
    code = f"""
import sys, pathlib, torch
sys.path.insert(0, "tests")
import test_ranks
model = torch.nn.Linear(1, 1, device={device.type!r})
test_ranks.ranks.run(test_ranks.sleep, 2, model, pathlib.Path({str(tmp_path)!r}))
"""
    starter = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONPATH": "."})
    until = time.monotonic() + 120
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(0.1)
    processes = [psutil.Process(int(path.read_text())) for path in tmp_path.iterdir()]
    assert len(processes) == 2
    starter.kill()
    starter.wait()
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert not alive


def test_more_processes_than_there_is_to_run_them_on(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [ranks.wanted(n, cpu) for n in (0, 1, 2)] == [1, 1, 2]
    with pytest.raises(ParameterError, match=r"processes 1000: there is one for each core"):
        ranks.wanted(1000, cpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [ranks.wanted(n, gpu) for n in (0, 1, 3)] == [4, 1, 3]
    assert ranks.wanted(0, torch.device("cuda:1")) == 1
    with pytest.raises(ParameterError, match=r"processes 8: there is one for each GPU, and here are 4; take at most 4"):
        ranks.wanted(8, gpu)


def test_a_batch_that_processes_cannot_share():
    check_batch(100, 6, processes=3)
    with pytest.raises(ParameterError, match="batch size 6, shared by 4 processes"):
        check_batch(100, 6, processes=4)
