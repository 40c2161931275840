"""Every kind of bad input that we know of, what it is told, and odd input that has to be read all the same.

`KINDS` is the table: kind → the data it is about, the damage, and the words of the message, which name the file, the
value and the remedy. No words: it is no fault.
"""

import json
import os
import re
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from conftest import FOLDER_TABLE, check_list
from PIL import Image

from weaktr.data import open_dataset
from weaktr.data.images import read_label_png, write_label_png
from weaktr.errors import DataError, UserError
from weaktr.workbench import checks, runner, stage
from weaktr.workbench.checks import check_data
from weaktr.workbench.parameters import catalogue, check_parameters

FIRST, LAST = "scene_000000", "scene_000007"  # of VOC's list train
COCO_FIRST, COCO_LAST = "COCO_train2014_000000000001", "COCO_train2014_000000000002"
VOC, COCO, FOLDER = "voc12", "coco14", "folder"
JPEG, PNG, XML = (
    f"VOCdevkit/VOC2012/{place}" for place in (f"JPEGImages/{LAST}.jpg", f"SegmentationClass/{LAST}.png",
                                               f"Annotations/{LAST}.xml")
)  # fmt: skip
VOC_LIST, COCO_LIST = "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt", "voc_format/train.txt"
COCO_MASK, COCO_JSON = f"voc_format/class_labels/{COCO_LAST}.png", "annotations/instances_train2014.json"


# ── Damages: functions of the data's root ─────────────────────────────────────────────────────────────────────────
def write(path, content):
    """The file holds this text, or these bytes, instead."""

    def damage(root):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())

    return damage


def table(content):
    return write("labels.csv", content)


def gone(path):
    return lambda root: (root / path).unlink()


def renamed(path):
    return lambda root: (root / path).rename(root / f"{path}_")


def cut(path, size):
    return lambda root: (root / path).write_bytes((root / path).read_bytes()[:size])


def replaced(path, old, new):
    """The first match of the pattern becomes `new`."""
    return lambda root: (root / path).write_text(re.sub(old, new, (root / path).read_text(), count=1))


def picture(path, size, mode="RGB", **how):
    return lambda root: Image.new(mode, size).save(root / path, **how)


def same_picture(path, mode=None, **how):
    """The file's own picture, saved in another way."""

    def damage(root):
        with Image.open(root / path) as image:
            copy = image.convert(mode or image.mode)
        copy.save(root / path, **how)

    return damage


def painted(path, value):
    def damage(root):
        mask = read_label_png(root / path)
        mask[5, 7] = value
        write_label_png(root / path, mask)

    return damage


def mask(path, shape):
    def damage(root):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        write_label_png(root / path, np.zeros(shape, np.uint8))

    return damage


def both(*damages):
    return lambda root: [damage(root) for damage in damages]


def entities(declared, name):
    return replaced(XML, r"<annotation>(?s:.*?)<name>\w+</name>", f"{declared}<annotation><object><name>{name}</name>")


ROUNDS = "".join(f'<!ENTITY e{n} "{10 * f"&e{n - 1};"}">' for n in range(1, 9))
ANNOTATED = {
    "images": [{"id": n, "file_name": f"{name}.jpg"} for n, name in enumerate((COCO_FIRST, COCO_LAST))],
    "annotations": [{"image_id": n, "category_id": category} for n, category in enumerate((18, 18))],
}
CLASSES_TXT = write("classes.txt", "cat\ndog\n")

# ── The table ─────────────────────────────────────────────────────────────────────────────────────────────────────
KINDS = {
    # lists
    "list with Windows line ends": (VOC, write(VOC_LIST, f"{FIRST}\r\n{LAST}\r\n"), []),
    "list with blank lines": (VOC, write(VOC_LIST, f"\n\n{FIRST}\n\n{LAST}\n\n\n"), []),
    "list with spaces": (VOC, write(VOC_LIST, f"  {FIRST}\t\n{LAST}   "), []),
    "list with a byte order mark": (VOC, write(VOC_LIST, f"\ufeff{FIRST}\n{LAST}"), []),
    "list in Latin-1": (VOC, write(VOC_LIST, "scène\n".encode("latin-1")), ["train.txt is not UTF-8 text", "in UTF-8"]),
    "empty list": (VOC, write(VOC_LIST, "\n \n"), ["train.txt is empty; write one image id per line"]),
    "missing list": (VOC, gone(VOC_LIST), ["train.txt does not exist", "has val"]),
    "../ in an id": (VOC, write(VOC_LIST, "../../secret\n"), ["train.txt holds '../../secret'", "without folder"]),
    "parent folder as id": (VOC, write(VOC_LIST, "..\n"), ["train.txt holds '..'", "an id is a file name"]),
    "absolute path as id": (VOC, write(VOC_LIST, f"{FIRST}\n/etc/passwd\n"), ["train.txt holds '/etc/passwd' (id 2)"]),
    "Windows path as id": (VOC, write(VOC_LIST, "a\\b\n"), [r"train.txt holds 'a\\b'", "without folder"]),
    "ending in an id": (VOC, write(VOC_LIST, f"{FIRST}.jpg\n"), [f"train.txt holds '{FIRST}.jpg'", "and ending"]),
    "duplicate ids": (VOC, write(VOC_LIST, f"{FIRST}\n{LAST}\n{FIRST}\n"), [f"holds '{FIRST}' twice; remove one"]),
    "id without an image": (VOC, write(VOC_LIST, "scene_999999\n"), ["scene_999999.jpg does not exist", "the list"]),
    "id of COCO's other form": (COCO, write(COCO_LIST, "000000000139\n"), ["000000000139.jpg does not exist"]),
    # images
    "missing image": (VOC, gone(JPEG), [f"{LAST}.jpg does not exist; check the path, or data_root"]),
    "zero-byte image": (VOC, write(JPEG, ""), [f"{LAST}.jpg cannot be read as an image", "restore it"]),
    "truncated JPEG": (VOC, cut(JPEG, 1500), [f"{LAST}.jpg", "truncated", "take it off its list"]),
    "text as image": (VOC, write(JPEG, "hello"), [f"{LAST}.jpg", "cannot identify", "restore"]),
    "folder as image": (VOC, both(gone(JPEG), lambda root: (root / JPEG).mkdir()), [f"{LAST}.jpg cannot be read"]),
    "tiny image": (VOC, picture(JPEG, (40, 9)), [f"{LAST}.jpg is 40×9 pixels; at least 16"]),
    "PNG named .jpg": (VOC, same_picture(JPEG, format="PNG"), []),
    "grey JPEG": (VOC, same_picture(JPEG, "L"), []),
    "CMYK JPEG": (VOC, same_picture(JPEG, "CMYK"), []),
    # masks
    "missing mask": (VOC, gone(PNG), [f"image {LAST} has no mask", f"{LAST}.png; add it, take it off list train"]),
    "mask 1 px off": (VOC, lambda root: mask(PNG, np.add(read_label_png(root / PNG).shape, (0, 1)))(root),
                      [f"{LAST}.png is ", "pixels, its image", "export the mask at the image's size"]),
    "value 21 in a 20-class mask": (VOC, painted(PNG, 21), [f"{LAST}.png holds the value 21", "0…20 and 255"]),
    "value 254 in a mask": (VOC, painted(PNG, 254), [f"{LAST}.png holds the value 254", "check the class list"]),
    "value 91 in a mask": (COCO, painted(COCO_MASK, 91), [f"{COCO_LAST}.png holds the value 91", "0…90 and 255"]),
    "mask with an RGB palette": (VOC, same_picture(PNG, "RGB"), [f"{LAST}.png is a RGB image", "palette or grey PNGs"]),
    "16-bit mask of another size": (VOC, picture(PNG, (9, 9), "I;16"), [f"{LAST}.png is 9×9 pixels, its image"]),
    "mask of fractions": (VOC, picture(PNG, (9, 9), "F", format="TIFF"), [f"{LAST}.png is a F image", "grey PNGs"]),
    "truncated mask": (VOC, cut(PNG, 400), [f"{LAST}.png cannot be read", "restore it"]),
    "zero-byte mask": (COCO, write(COCO_MASK, ""), [f"{COCO_LAST}.png cannot be read", "restore it"]),
    "mask of 80 ids read as 91": (COCO, painted(COCO_MASK, 12), [f"{COCO_LAST}.png holds 12", "without gaps; convert"]),
    "mask of 80 ids read as 80": ("coco14_80", painted(COCO_MASK, 12), [f"{COCO_LAST}.png holds 12", "coco-masks"]),
    "mask of 80 ids, all used in both numberings": (
        COCO, both(mask(COCO_MASK, (30, 40)), painted(COCO_MASK, 17), write(COCO_JSON, json.dumps(ANNOTATED))),
        [f"{COCO_LAST}.png holds 17, which its annotations lack", "without gaps; convert"]),
    # annotations
    "missing XML": (VOC, gone(XML), [f"{LAST}.xml does not exist; image labels are read from it"]),
    "truncated XML": (VOC, cut(XML, 150), [f"{LAST}.xml is not well-formed XML", "restore the file"]),
    "empty XML": (VOC, write(XML, ""), [f"{LAST}.xml is not well-formed XML (no element found", "restore the file"]),
    "XML with an unknown class": (VOC, replaced(XML, r"<name>\w+</name>", "<name>dragon</name>"),
                                  [f"{LAST}.xml names 'dragon'; correct it, the classes are aeroplane, bicycle"]),
    "XML with an unknown class beside known ones": (
        VOC, replaced(XML, "</annotation>", "<object><name>dragon</name></object></annotation>"), ["names 'dragon'"]),
    "XML of an object without a name": (VOC, replaced(XML, r"<name>\w+</name>", "<name/>"), ["names ''", "aeroplane"]),
    "XML with an undeclared entity": (VOC, entities("", "&cat;"), [f"{LAST}.xml is not well-formed XML (undefined"]),
    "XML with a file as entity": (VOC, entities('<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]>', "&e;"),
                                  [f"{LAST}.xml is not well-formed XML (undefined entity"]),
    "XML with entities of entities": (VOC, entities(f'<!DOCTYPE a [<!ENTITY e0 "cat">{ROUNDS}]>', "&e8;"),
                                      [f"{LAST}.xml is not well-formed XML (limit on input amplification"]),
    "empty annotations": (COCO, write(COCO_JSON, ""), ["instances_train2014.json cannot be read", "fetch"]),
    "truncated annotations": (COCO, write(COCO_JSON, "{"), ["instances_train2014.json cannot be read", "fetch"]),
    "annotations that are a list": (COCO, write(COCO_JSON, "[]"), ["instances_train2014.json cannot be read"]),
    "annotations without objects": (COCO, write(COCO_JSON, '{"images": []}'), ["cannot be read", "annotations"]),
    "annotations of other images": (
        COCO, write(COCO_JSON, json.dumps({"images": [{"id": 5, "file_name": "other.jpg"}], "annotations": []})),
        [f"image {COCO_FIRST} is not in any annotations/instances_*.json; take it off"]),
    "annotations of an unknown image": (
        COCO, write(COCO_JSON, json.dumps({"images": [], "annotations": [{"image_id": 7, "category_id": 1}]})),
        ["instances_train2014.json", "image 7", "fetch"]),
    # the data's folder
    "no devkit": (VOC, renamed("VOCdevkit"), ["no VOC data set in", "JPEGImages does not exist; unpack the devkit"]),
    "no images of COCO": (COCO, renamed("images"), ["images does not exist; give the folder that holds images/"]),
    "no masks of COCO": (COCO, renamed("voc_format"), ["voc_format does not exist; give the folder that holds"]),
    "unknown data set": ("voc2012", lambda root: None, ["'voc2012' is unknown; one of synthetic, voc12"]),
    # labels.csv
    "no labels.csv": (FOLDER, gone("labels.csv"), ["labels.csv does not exist; write the header image,labels"]),
    "labels.csv with Windows line ends": (FOLDER, table(FOLDER_TABLE.replace("\n", "\r\n")), []),
    "labels.csv with a byte order mark": (FOLDER, table("\ufeff" + FOLDER_TABLE), []),
    "labels.csv with quotes and spaces": (FOLDER, table(FOLDER_TABLE.replace("cat;dog", '"cat ; dog"')), []),
    "labels.csv with Windows paths": (FOLDER, table(FOLDER_TABLE.replace("a b/", "a b\\")), []),
    "labels.csv without header": (FOLDER, table("three.png,cat\n"),
                                  ["its first line is 'three.png,cat'; write image,labels"]),
    "empty labels.csv": (FOLDER, table(""), ["labels.csv: its first line is ''; write image,labels"]),
    "labels.csv with an unknown column": (FOLDER, table("image,labels,quality\nthree.png,cat,5\n"),
                                          ["column 'quality' is unknown; there are image, labels, split"]),
    "labels.csv without a row": (FOLDER, table("image,labels\n\n"), ["labels.csv names no image; write a line"]),
    "labels.csv without a label": (FOLDER, table("image,labels\nthree.png,\n"), ["labels.csv names no class; write"]),
    "labels.csv with a comma in a name": (FOLDER, table("image,labels\na,b.png,cat\n"),
                                          ["line 2: 3 cells, the header has 2; quote commas"]),
    "labels.csv with ../": (FOLDER, table("image,labels\n../x.png,cat\n"), ["line 2: image '../x.png' is not a path"]),
    "labels.csv with an absolute path": (FOLDER, table("image,labels\n/etc/x.png,cat\n"),
                                         ["line 2: image '/etc/x.png' is not a path below"]),
    "labels.csv with an empty path": (FOLDER, table("image,labels\n,cat\n"), ["line 2: image '' is not a path below"]),
    "labels.csv with an image twice": (FOLDER, table("image,labels\nthree.png,cat\nthree.png,dog\n"),
                                       ["line 3: 'three.png' stands there twice"]),
    "labels.csv with names that differ by their ending": (
        FOLDER, table("image,labels\nthree.png,cat\nthree.jpg,dog\n"), ["'three.jpg'", "or differs by its ending"]),
    "labels.csv in Latin-1": (FOLDER, table("image,labels\nthree.png,été\n".encode("latin-1")),
                              ["labels.csv is not a CSV file in UTF-8", "save it as CSV in UTF-8"]),
    "labels.csv with a class typo": (
        FOLDER, both(CLASSES_TXT, table(FOLDER_TABLE.replace("two.jpg,dog", "two.jpg,dgo"))),
        ["line 3: class 'dgo' is not in classes.txt, did you mean dog?"]),
    "labels.csv with a class of another kind": (
        FOLDER, both(CLASSES_TXT, table(FOLDER_TABLE.replace("two.jpg,dog", "two.jpg,zebra"))),
        ["line 3: class 'zebra' is not in classes.txt; it has cat, dog"]),
    "labels.csv with a typo in a split": (FOLDER, table(FOLDER_TABLE.replace("train", "trian")),
                                          ["no image of split 'train'; there are trian, val and all"]),
    "labels.csv with a split left out": (FOLDER, table("image,labels,split\nthree.png,cat,train\ntwo.jpg,dog,\n"),
                                         ["line 3: no split, where other lines have one; write it"]),
    "labels.csv with a missing image": (FOLDER, table("image,labels\nfour.png,cat\n"), ["four.png does not exist"]),
    "labels.csv whose last image is bad": (
        FOLDER, both(write("empty.png", ""), table(FOLDER_TABLE + "empty.png,cat,train\n")),
        ["empty.png cannot be read"]),
    "classes.txt in Latin-1": (FOLDER, write("classes.txt", "été\n".encode("latin-1")),
                               ["classes.txt is not UTF-8 text", "save it as UTF-8, a class a line"]),
    "mask of a folder 1 px off": (FOLDER, mask("masks/a b/two.png", (20, 30)),
                                  ["two.png is 30×20 pixels, its image 31×20", "export the mask"]),
    "more images than there are": ("folder:9", lambda root: None, ["'9' is not a number from 1 to 2, the length"]),
}  # fmt: skip


@pytest.fixture
def damaged(request):
    """Function (kind) → what opens and checks its data, after the damage; before it nothing is wrong."""

    def prepare(kind):
        name, damage, words = KINDS[kind]
        name, _, count = name.partition(":")
        root = request.getfixturevalue(
            {"coco14": "coco", "coco14_80": "coco", "folder": "folder"}.get(name, "voc12_copy")
        )

        def check(name=name, count=""):
            check_list(open_dataset(name, str(root)), f"train:{count}" if count else "train", masks=name != FOLDER)

        if words and name != "voc2012":
            check()
        damage(root)
        return lambda: check(count=count)

    return prepare


def test_there_are_at_least_forty_kinds():
    assert len([words for _, _, words in KINDS.values() if words]) >= 40


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_refused_by_file_value_and_remedy(damaged, kind):
    check, words = damaged(kind), KINDS[kind][2]
    if not words:
        check()
        return
    with pytest.raises(DataError) as caught:
        check()
    for word in words:
        assert word in str(caught.value)


# ── A run is refused before anything is trained ───────────────────────────────────────────────────────────────────
def parameters(root, **more):
    lists = {"train_list": "train", "eval_list": "val", "val_list": "val"}
    return {"dataset": VOC, "data_root": str(root), "cam_batch_size": 2, "seg_batch_size": 2} | lists | more


def without_objects(root):
    for path in (root / XML).parent.glob("*.xml"):
        path.write_text(re.sub(r"(?s)<object>.*</object>", "", path.read_text()))


VAL_LAST = "scene_000011"
RUNS = {
    "no image of a list shows a class": (without_objects, "list train: no image of it shows a class"),
    "the last training image is bad": (write(JPEG, ""), f"{LAST}.jpg"),
    "the last training label is missing": (gone(XML), f"{LAST}.xml"),
    "the last evaluated mask is missing": (gone(PNG.replace(LAST, VAL_LAST)), f"{VAL_LAST}.png"),
    "the last evaluated image is bad": (write(JPEG.replace(LAST, VAL_LAST), ""), f"{VAL_LAST}.jpg"),
    "the second list is empty": (write(VOC_LIST.replace("train", "val"), ""), "val.txt"),
    "the labels are of another data set": (replaced(XML, r"<name>\w+</name>", "<name>bear</name>"), "the classes are"),
}


def test_the_best_map_needs_labels_to_be_measured_on(voc12_copy, tmp_path):
    for path in (voc12_copy / XML).parent.glob("*.xml"):
        if path.stem in open_dataset(VOC, str(voc12_copy)).ids("val"):
            path.write_text(re.sub(r"(?s)<object>.*</object>", "", path.read_text()))
    given = parameters(voc12_copy, eval_list="train")
    check_data(given)
    with pytest.raises(DataError, match="list val: no image of it shows a class"):
        runner.run(given | {"cam_checkpoint": "map"}, tmp_path / "run")


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_is_refused_before_it_starts(voc12_copy, tmp_path, kind):
    damage, word = RUNS[kind]
    check_data(parameters(voc12_copy))
    damage(voc12_copy)
    with pytest.raises(DataError, match=re.escape(word)):
        runner.run(parameters(voc12_copy), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_photographs_whose_attention_no_memory_could_hold(voc12_copy, tmp_path, monkeypatch):
    """The largest image is named; at half its size its maps would take a sixteenth."""
    width, height = max((Image.open(path).size for path in voc12_copy.rglob("*.jpg")), key=np.prod)
    need = 2 * 3 * 4 * ((width // 8) * (height // 8)) ** 2  # patches of 8 pixels, float32
    given = parameters(voc12_copy, train_list="train", device="cpu", cam_scales=[0.5, 1.0])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=need / 16))
    with pytest.raises(DataError, match=r"GB are there; shrink it to 50 %, or lower cam_scales") as caught:
        runner.run(given, tmp_path / "run")
    assert re.search(rf"JPEGImages/scene_\d+\.jpg is {width}×{height} pixels", str(caught.value))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=need))
    monkeypatch.setattr(checks, "refuse_what_cannot_fit", lambda *_: "")  # what else a run takes is more than this
    checks.check_run(check_parameters(given, catalogue()))


def test_a_run_folder_that_cannot_be_made(voc12_copy, tmp_path):
    """A file stands in its way; root, who may write everywhere, is told as well."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"run cannot be written \(.*Not a directory.*choose another run_"):
        runner.run(parameters(voc12_copy), tmp_path / "file" / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_run_folder(voc12_copy, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"run cannot be written \(.*Permission denied"):
        runner.run(parameters(voc12_copy), tmp_path / "locked" / "run")


def test_a_full_disk(tmp_path, monkeypatch):
    """The manifest, the first file of a stage, goes to a device that is full."""

    def on_the_full_device(path, value):
        with open("/dev/full", "w") as device:
            json.dump(value, device)

    monkeypatch.setattr(stage, "write_json", on_the_full_device)
    with pytest.raises(UserError, match=r"01 cannot be written \(.*No space left on device\); make room"):
        stage.prepare(tmp_path / "01", "key", {})
