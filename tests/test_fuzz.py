"""Files of every kind that is read, with bytes flipped and cut at random: a good result, or an error that names them.

Nothing else may come of them: no exception of a library, no file run as code, no hang, and no memory beyond a small
multiple of the file's size. WEAKTR_FUZZ is how many damages of each kind of file are tried; the usual run tries few.
"""

import io
import json
import os
import pickle
import resource
import shutil
import struct
import sys
import tracemalloc
import zipfile
import zlib
from functools import partial

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from weaktr import files
from weaktr.data import open_dataset
from weaktr.data.coco import write_masks
from weaktr.data.images import image_size, read_image, read_label_png, write_label_png
from weaktr.data.lists import read_list
from weaktr.errors import UserError
from weaktr.method import cams, training_state
from weaktr.models import create_cam_model, load_model, save_model
from weaktr.models.backbones import make_vit
from weaktr.models.checkpoints import import_released, released_names
from weaktr.models.weights import load_pretrained, read_weights
from weaktr.sweeps.file import read_sweep
from weaktr.workbench import collection, comparison, keys, reports, text
from weaktr.workbench.stage import Stage, prepare

DAMAGES = int(os.environ.get("WEAKTR_FUZZ", "15"))
MOST = 128e6  # bytes that a file made to take much may take: expat gives up at 100 times a file, from 8 MB on
SECONDS = 20  # that a file may take: it takes milliseconds, but on a busy machine
MEMORY = 48e6  # bytes that any file may take, beside TIMES its own size
TIMES = 200  # a picture in a PNG of one colour has some thousand times its size, one in a photograph 10 to 50 times
SMALL = {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 8}  # of a network
GIVEN = {"seed": 1, "lr": 0.1}  # parameters of a stage


# ── Sound files ───────────────────────────────────────────────────────────────────────────────────────────────────
def small_model():
    torch.manual_seed(0)
    return create_cam_model(SMALL, 2, pretrained=False, image_size=16, reduction=1)


def picture(root, name):
    rng = np.random.default_rng(0)
    grid = rng.integers(0, 255, (6, 8, 3), np.uint8).repeat(5, 0).repeat(5, 1)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(grid).save(root / name, exif=exif)
    return root / name


def mask(root):
    labels = np.zeros((30, 40), np.uint8)
    labels[4:20, 5:30], labels[20:] = 1, 255
    write_label_png(root / "mask.png", labels)
    return root / "mask.png"


def voc(root):
    for place in ("JPEGImages", "Annotations"):
        (root / place).mkdir()
    path = root / "Annotations/a.xml"
    path.write_text("<annotation><object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object></annotation>")
    return path


def ids(root):
    (root / "train.txt").write_text("".join(f"2008_{number:06d}\n" for number in range(20)))
    return root / "train.txt"


def folder(root, name):
    for image in ("a.png", "b.png"):
        Image.new("RGB", (20, 20)).save(root / image)
    (root / "labels.csv").write_text("image,labels,split\na.png,cat;dog,train\nb.png,dog,val\n")
    (root / "classes.txt").write_text("cat\ndog\n")
    return root / name


def coco(root):
    for place in ("images", "voc_format", "annotations"):
        (root / place).mkdir()
    things = [
        {"id": 1, "image_id": 1, "category_id": 18, "iscrowd": 0, "area": 50, "segmentation": [[1, 1, 20, 1, 20, 20]]},
        {"id": 2, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 9, "segmentation": [[5, 5, 9, 5, 9, 9]]},
    ]
    images = [{"id": 1, "file_name": "COCO_train2014_000000000001.jpg", "height": 30, "width": 40}]
    kinds = [{"id": 1, "name": "person", "supercategory": "x"}, {"id": 18, "name": "dog", "supercategory": "x"}]
    path = root / "annotations/instances_train2014.json"
    path.write_text(json.dumps({"images": images, "annotations": things, "categories": kinds}))
    return path


def checkpoint(root):
    save_model(small_model(), root / "model.safetensors", classes=["cat", "dog"], inference={"scales": [1.0]})
    return root / "model.safetensors"


def weights(root, name):
    state = make_vit(SMALL, image_size=16).state_dict()
    if name.endswith("safetensors"):
        save_file(state, root / name)
    else:
        torch.save({"model": state}, root / name)
    return root / name


def released(root):
    model = small_model()
    names = released_names(model)
    torch.save({"model": {names[name]: tensor for name, tensor in model.state_dict().items()}}, root / "released.pth")
    return root / "released.pth"


def resume(root):
    model = small_model()
    training_state.keep(root, model, torch.optim.AdamW(model.parameters()), [{"epoch": 1, "loss": 0.5}])
    return root / "resume.pt"


def cam_file(root):
    grid = np.random.default_rng(0).uniform(size=(4, 5)).astype(np.float32)
    cams.save_cams(root / "a.npz", {0: [grid, grid], 2: [grid, grid]}, (30, 40))
    return root / "a.npz"


def run_folder(root, name):
    """A run with one finished stage."""
    stage_folder, key = root / "01_first", keys.stage_key(GIVEN, "", [])
    with prepare(stage_folder, key, {"preset": "demo", "data_fingerprint": ""}):
        stage = Stage("01_first", stage_folder, GIVEN)
        stage.finish([stage.record("mIoU", 50.0, on="val", size=4, threshold=0.4, threshold_from="rule", crf=False)])
    shutil.rmtree(stage_folder / "figures")
    cells = [nbformat.v4.new_markdown_cell("# First"), nbformat.v4.new_code_cell("1 + 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), stage_folder / "notebook.ipynb")
    return stage_folder / name


def sweep(root):
    lines = "preset = 'smoke'\nseeds = [1, 2]\n[grid]\nclip_cell = [24, 48]\n"
    lines += "[[measure]]\nlabel = 'mAP'\nstage = '01_cam_training'\nmetric = 'mAP'\n"
    (root / "cells.toml").write_text(lines)
    return root / "cells.toml"


# ── What reads them ───────────────────────────────────────────────────────────────────────────────────────────────
def read_xml(path):
    open_dataset("voc12", path.parents[1]).labels("a")


def read_folder(path):
    data = open_dataset("folder", path.parent)
    for image_id in data.ids("all"):
        data.check_image(image_id)
    data.fingerprint()


def read_coco(path):
    open_dataset("coco14", path.parents[1]).labels("000000000001")


def make_masks(path):
    shutil.rmtree(path.parents[1] / "voc_format", ignore_errors=True)
    (path.parents[1] / "voc_format").mkdir()
    write_masks(path.parents[1], "train")


def start_from(path):
    load_pretrained(make_vit(SMALL, image_size=16), read_weights(path), "bicubic", path)


def go_on(path):
    model = small_model()
    training_state.restore(path.parent, model, torch.optim.AdamW(model.parameters()))


def read_run(path):
    """What `weaktr compare` and `figures` do, and a run that asks whether the stage is finished, and prints it."""
    run = path.parents[1]
    shutil.rmtree(run / "collected", ignore_errors=True)
    keys.finished_key(path.parent), keys.identity(path.parent)
    compared = comparison.compare([run])
    assert compared.parameters is not None
    text.results_rows(files.read_json(path.parent / "metrics.json", list))
    collection.collect_figures(run, run / "collected")


def go_on_with(path):
    """What the runner and a notebook do in a stage's folder."""
    with prepare(path.parent, keys.stage_key(GIVEN, "", []), {}):
        Stage("01_first", path.parent, GIVEN).origin  # noqa: B018 (its entries are what is read)


KINDS = {  # kind: what makes a sound file in a folder, what reads it
    "annotation.xml": (voc, read_xml),
    "photograph.jpg": (partial(picture, name="a.jpg"), read_image),
    "photograph.png": (partial(picture, name="a.png"), read_image),
    "photograph.tif": (partial(picture, name="a.tif"), read_image),
    "size of a photograph": (partial(picture, name="a.jpg"), image_size),
    "mask.png": (mask, partial(read_label_png, num_classes=3)),
    "list.txt": (ids, lambda path: read_list(path.parent, "train:5")),
    "labels.csv": (partial(folder, name="labels.csv"), read_folder),
    "classes.txt": (partial(folder, name="classes.txt"), read_folder),
    "instances.json": (coco, read_coco),
    "instances.json, to masks": (coco, make_masks),
    "checkpoint.safetensors": (checkpoint, load_model),
    "weights.safetensors": (partial(weights, name="vit.safetensors"), start_from),
    "weights.pth": (partial(weights, name="vit.pth"), start_from),
    "released.pth": (released, import_released),
    "resume.pt": (resume, go_on),
    "cams.npz": (cam_file, cams.load_cams),
    "manifest.json": (partial(run_folder, name="manifest.json"), read_run),
    "manifest.json, unfinished": (partial(run_folder, name="manifest.json"), go_on_with),
    "params.json": (partial(run_folder, name="params.json"), read_run),
    "metrics.json": (partial(run_folder, name="metrics.json"), read_run),
    "notebook.ipynb": (partial(run_folder, name="notebook.ipynb"), lambda path: reports.report(path.parents[1])),
    "sweep.toml": (sweep, read_sweep),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """{kind: path of a sound file}, which tests may damage and restore."""
    made = {}
    for number, (kind, (make, _)) in enumerate(KINDS.items()):
        root = tmp_path_factory.mktemp(f"kind{number}")
        made[kind] = make(root)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_file_of_each_kind_is_read(sound, kind):
    KINDS[kind][1](sound[kind])


# ── Bytes flipped and cut ─────────────────────────────────────────────────────────────────────────────────────────
place = st.floats(0, 1, exclude_max=True)
damages = st.tuples(
    st.lists(st.tuples(place, st.integers(1, 255)), max_size=6),  # where, and which bits of a byte are turned over
    st.none() | st.tuples(place, place),  # from where to where the file is cut out
    st.none() | place,  # where it ends
)


def damaged(content, damage):
    flips, cut, end = damage
    content = bytearray(content)
    for where, bits in flips:
        if content:
            content[int(where * len(content))] ^= bits
    if cut:
        first, last = sorted(int(where * len(content)) for where in cut)
        del content[first:last]
    if end is not None:
        del content[int(end * len(content)) :]
    return bytes(content)


def refused_or_read(read, path):
    """Read a file that may be damaged: either that works, or a UserError names the file."""
    tracemalloc.start()
    try:
        read(path)
    except UserError as error:
        assert path.stem in str(error) or path.parent.name in str(error), f"it does not name the file: {error}"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEMORY + TIMES * path.stat().st_size, f"{peak / 1e6:.0f} MB for {path.stat().st_size} bytes"


@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_by_name(sound, kind):
    path, read = sound[kind], KINDS[kind][1]
    content = path.read_bytes()
    others = {other: other.read_bytes() for other in path.parent.glob("*.json")}
    read(path)  # what is imported only then takes its time and memory once

    @settings(
        max_examples=DAMAGES,
        deadline=1000 * SECONDS,
        derandomize=DAMAGES < 100,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(damages)
    def try_it(damage):
        path.write_bytes(damaged(content, damage))
        try:
            refused_or_read(read, path)
        finally:
            for other, sound_content in others.items():
                other.write_bytes(sound_content)

    try:
        try_it()
    finally:
        path.write_bytes(content)


# ── Small files that would take much ──────────────────────────────────────────────────────────────────────────────
def png_of(width, height):
    """A PNG of a few kilobytes, one bit a pixel, whose pixels are all black."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + width // 8)) for _ in range(min(height, 2000))) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_of(width, height):
    """A photograph whose head says another size."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (90, 20, 10)).save(file, "JPEG")
    content = bytearray(file.getvalue())
    start = content.index(b"\xff\xc0")
    content[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def laughs():
    entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9))
    return f'<!DOCTYPE a [<!ENTITY e0 "ha">{entities}]><annotation><object><name>&e9;</name></object></annotation>'


def array_of(shape):
    """A CAM file of a few hundred bytes that says its array is large."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as parts:
        for name in ("size.npy", "classes.npy", "grid0.npy"):
            parts.writestr(name, header.getvalue())
    return file.getvalue()


BOMBS = {
    "a PNG of 40,000 × 40,000": ("photograph.png", png_of(40_000, 40_000)),
    "a PNG of 13,000 × 13,000": ("photograph.png", png_of(13_000, 13_000)),
    "a mask of 13,000 × 13,000": ("mask.png", png_of(13_000, 13_000)),
    "a JPEG of 60,000 × 60,000": ("photograph.jpg", jpeg_of(60_000, 60_000)),
    "a JPEG of 9,000 × 9,000": ("photograph.jpg", jpeg_of(9_000, 9_000)),
    "entities of entities": ("annotation.xml", laughs().encode()),
    "elements in elements": ("annotation.xml", b"<a>" * 300_000),
    "lists in lists": ("instances.json", b"[" * 300_000),
    "lists in lists of a manifest": ("manifest.json", b"[" * 300_000),
    "a list instead of an object": ("manifest.json", b"[]"),
    "an object instead of a list": ("metrics.json", b"{}"),
    "numbers instead of records": ("metrics.json", b"[1, 2]"),
    "lists in lists of a sweep": ("sweep.toml", b"a = " + b"[" * 100_000),
    "a header of exabytes": ("checkpoint.safetensors", struct.pack("<Q", 2**60) + b"{}"),
    "an array of terabytes": ("cams.npz", array_of((10**6, 10**6))),
    "an array of gigabytes": ("cams.npz", array_of((10**9,))),
    "a cell of megabytes": ("labels.csv", b"image,labels\n" + b"a" * 2_000_000 + b",cat\n"),
    "an id of kilobytes": ("list.txt", b"a" * 5000),
}


@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_file_cannot_take_much_memory(sound, bomb):
    kind, content = BOMBS[bomb]
    path, read = sound[kind], KINDS[kind][1]
    whole = path.read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path.write_bytes(content)
    try:
        with pytest.raises(UserError) as refused:
            read(path)
    finally:
        path.write_bytes(whole)
    assert len(str(refused.value)) < 6000
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < MOST + TIMES * len(content)


# ── Files that would run code ─────────────────────────────────────────────────────────────────────────────────────
class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("form", ["pickle", "torch", "array"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_code_of_a_file_runs(sound, kind, form, tmp_path):
    """A pickle under the name of every kind of file that is read, as it is, in torch's and in NumPy's form."""
    path, read = sound[kind], KINDS[kind][1]
    whole, marker = path.read_bytes(), tmp_path / "it_ran"
    bad = Malicious(str(marker))
    if form == "pickle":
        path.write_bytes(pickle.dumps({"model": bad}))
    elif form == "torch":
        torch.save({"model": bad, "optimizer": bad, "history": bad}, path)
    else:
        arrays = {name: np.array([bad], object) for name in ("size", "classes", "grid0")}
        with open(path, "wb") as file:
            np.savez(file, **arrays)
    try:
        with pytest.raises(UserError):
            read(path)
    finally:
        path.write_bytes(whole)
    assert not marker.exists()
    pickle.loads(pickle.dumps(bad))
    assert marker.exists(), "it would have"
