"""Instance annotations as COCO of both years and other tools write them: classes, shapes, and what is wrong in them."""

import hashlib
import json
import random
import re
import tracemalloc

import ijson
import numpy as np
import pytest
from conftest import check_list
from PIL import Image
from test_own_classes import damaged

from weaktr.__main__ import main
from weaktr.data import instances, open_dataset
from weaktr.data.coco import NAMES, USED, write_masks
from weaktr.data.report import check
from weaktr.errors import DataError
from weaktr.workbench import checks

FULL = [{"id": i, "name": NAMES[i - 1]} for i in USED]
FRUIT = [{"id": 1, "name": "apple"}, {"id": 2, "name": "pear"}]
HEIGHT, WIDTH = 30, 40


def thing(number, category, image=None, **more):
    corners = [4, 4, 24, 4, 24, 20, 4, 20]
    return {"id": number, "image_id": image or number, "category_id": category, "iscrowd": 0, "area": 320,
            "segmentation": [corners]} | more  # fmt: skip


@pytest.fixture
def make(tmp_path):
    """Function (objects of train, …) → root of two images in train and one in val, with an object of category 17 each.

    With the year 2014 files are named as COCO14's, with 2017 as COCO 2017's, with "" as those of neither.
    """

    def build(things=None, *, categories=FULL, year="2014", name=None, lay="images/{}", **top):
        for split, numbers in (("train", (1, 2)), ("val", (103,))):
            folder = tmp_path / lay.format(f"{split}{year}")
            folder.mkdir(parents=True, exist_ok=True)
            (tmp_path / "annotations").mkdir(exist_ok=True)
            called = name or (f"COCO_{split}2014_{{:012d}}" if year == "2014" else "{:012d}")
            content = {"images": [], "annotations": [thing(number, 17) for number in numbers]} | top
            if split == "train" and things is not None:
                content["annotations"] = things
            for number in numbers:
                file_name = f"{called.format(number)}.jpg"
                Image.new("RGB", (WIDTH, HEIGHT), (number, 90, 30)).save(folder / file_name)
                entry = {"id": number, "file_name": file_name, "height": HEIGHT, "width": WIDTH}
                content["images"].append(entry)
            if categories is not None:
                content["categories"] = categories
            (tmp_path / f"annotations/instances_{split}{year}.json").write_text(json.dumps(content))
        return tmp_path

    return build


def made(root, name="coco14", lists=("train", "val")):
    """The data set after its masks were made, everything in it read."""
    for split in lists:
        write_masks(root, split)
    dataset = open_dataset(name, root)
    for split in lists:
        check_list(dataset, split, masks=True)
    return dataset


def shown(dataset, list_name="train"):
    return [[dataset.classes[c] for c in np.flatnonzero(dataset.labels(i))] for i in dataset.ids(list_name)]


def drawn(dataset, list_name="train"):
    return [sorted(set(np.unique(dataset.mask(i)).tolist()) - {0}) for i in dataset.ids(list_name)]


# ── COCO of both years ────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("lay", ["images/{}", "images", "{}"])
@pytest.mark.parametrize("year", ["2014", "2017", ""])
def test_both_years_and_neither_are_read(make, year, lay, capsys):
    """Pictures in the folders of their splits, all in one, or in folders beside the annotations."""
    root = make(year=year, lay=lay)
    assert main(["data", "coco-masks", str(root)]) == 0
    sizes = {"2014": ("COCO14", 82081), "2017": ("COCO 2017", 117266)}
    out = capsys.readouterr().out
    assert "train: 2 images with masks" in out
    assert (f"all of {sizes[year][0]} are {sizes[year][1]}" in out) if year else ("all of" not in out)
    dataset = made(root)
    assert shown(dataset) == [["cat"], ["cat"]] and drawn(dataset) == [[17], [17]] and not dataset.noticed()
    assert drawn(open_dataset("coco14_80", root), "val") == [[16]]


def test_of_two_years_the_one_counts_whose_pictures_are_there(make, tmp_path):
    root = make(year="2017")
    both = {}
    for split in ("train", "val"):
        own = root / f"annotations/instances_{split}2017.json"
        both[split] = own.with_name(f"instances_{split}2014.json")
        both[split].write_text(own.read_text().replace('"category_id": 17', '"category_id": 18'))
    assert shown(made(root)) == [["cat"], ["cat"]]
    (root / "images/train2017").rename(root / "images/train2014")
    (root / "images/val2017").rename(root / "images/val2014")
    assert shown(open_dataset("coco14", root)) == [["dog"], ["dog"]]


def test_a_list_that_was_not_made_yet_is_told_how(make):
    root = make()
    with pytest.raises(DataError, match=r"voc_format does not exist; .*`weaktr data coco-masks` makes it from annot"):
        open_dataset("coco14", root)
    (root / "voc_format").mkdir()
    with pytest.raises(DataError, match=r"train\.txt does not exist; `weaktr data coco-masks .* --split train` makes"):
        open_dataset("coco14", root).ids("train")


def test_linked_folders_of_pictures_are_in_the_fingerprint(make, tmp_path_factory):
    root = make()
    before = made(root).fingerprint()
    real = tmp_path_factory.mktemp("pictures") / "train2014"
    (root / "images/train2014").rename(real)
    assert open_dataset("coco14", root).fingerprint() != before, "without them it is another"
    (root / "images/train2014").symlink_to(real)
    assert open_dataset("coco14", root).fingerprint() == before


# ── Classes ───────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "categories",
    [
        [{"id": 0, "name": "cat"}, {"id": 5, "name": "dog"}],
        [{"id": 0, "name": " Cat "}, {"id": 5, "name": "DOG"}, {"id": 9, "name": "TrafficLight"}],
    ],
)
def test_cocos_classes_are_told_by_name_whatever_their_ids(make, categories):
    root = make([thing(1, 0), thing(2, 5)], categories=categories)
    (root / "annotations/instances_val2014.json").unlink()
    dataset = made(root, lists=["train"])
    assert shown(dataset) == [["cat"], ["dog"]] and drawn(dataset) == [[17], [18]] and len(dataset.classes) == 90
    assert (
        "COCO's by name, with other ids: " in dataset.noticed()[0]
        and "cat is 0, 17 in masks" in dataset.noticed()[0].lower()
    )
    eighty = open_dataset("coco14_80", root)
    assert shown(eighty) == [["cat"], ["dog"]] and drawn(eighty) == [[16], [17]] and len(eighty.classes) == 80


def test_other_categories_are_classes_of_ones_own(make, capsys):
    """Apples are COCO's, too; with pears beside them they are a class of this data."""
    root = make([thing(1, 7), thing(2, 3)], categories=[{"id": 7, "name": "apple"}, {"id": 3, "name": "pear"}])
    val = root / "annotations/instances_val2014.json"
    val.write_text(val.read_text().replace('"category_id": 17', '"category_id": 3'))
    for name in ("coco14", "coco14_80"):
        dataset = made(root, name)
        assert dataset.classes == ("pear", "apple"), "in the order of their ids"
        assert shown(dataset) == [["apple"], ["pear"]] and drawn(dataset) == [[2], [1]]
        assert shown(dataset, "val") == [["pear"]] and drawn(dataset, "val") == [[1]]
    text, faults = check(dataset, ["train", "val"])
    assert faults == 0 and "classes of voc_format/classes.txt: pear, apple" in text and "2 classes" in text
    checks.check_data({"dataset": "coco14", "data_root": str(root), "train_list": "train"})
    assert "classes of voc_format/classes.txt: pear, apple" in capsys.readouterr().out


def test_of_classes_of_ones_own_no_size_is_known(make, capsys):
    """A JSON may be called as COCO14's are."""
    root = make([thing(1, 1), thing(2, 2)], categories=FRUIT)
    assert main(["data", "coco-masks", str(root), "--split", "train"]) == 0
    assert capsys.readouterr().out == "train: 2 images with masks\n"


def test_masks_keep_their_values_when_categories_are_added(make):
    root = make([thing(1, 1), thing(2, 2)], categories=FRUIT)
    (root / "annotations/instances_val2014.json").unlink()
    made(root, lists=["train"])
    path = root / "annotations/instances_train2014.json"
    path.write_text(path.read_text().replace('"categories": [', '"categories": [{"id": 0, "name": "fig"}, '))
    with pytest.raises(DataError, match=r"classes\.txt lacks 'fig', a category of the annotations; add it at the end"):
        open_dataset("coco14", root)
    with open(root / "voc_format/classes.txt", "a") as file:
        file.write("fig\n")
    dataset = open_dataset("coco14", root)
    assert (
        dataset.classes == ("apple", "pear", "fig") and drawn(dataset) == [[1], [2]] and shown(dataset)[1] == ["pear"]
    )


def test_a_label_of_ones_own_that_is_corrected_in_place_is_in_the_fingerprint(make):
    root = make([thing(1, 1), thing(2, 2)], categories=FRUIT)
    (root / "annotations/instances_val2014.json").unlink()
    before = made(root, lists=["train"]).fingerprint()
    path = root / "annotations/instances_train2014.json"
    size = path.stat().st_size
    path.write_text(path.read_text().replace('"category_id": 1,', '"category_id": 2,'))
    assert path.stat().st_size == size and open_dataset("coco14", root).fingerprint() != before


def test_the_fingerprint_of_coco_is_made_as_it_always_was(make):
    """Keys of finished stages depend on it; annotations of hundreds of megabytes count by name and size."""
    root = make()
    dataset = made(root)
    expected = hashlib.sha256(repr(dataset.classes).encode())
    for place in ("images", "voc_format/class_labels", "annotations"):
        for path in sorted(path for path in (root / place).rglob("[!.]*") if path.is_file()):
            expected.update(f"{place}/{path.name}:{path.stat().st_size}".encode())
    assert dataset.fingerprint() == expected.hexdigest()[:16]


def test_annotations_without_categories_have_cocos_ids(make):
    root = make(categories=None)
    assert shown(made(root)) == [["cat"], ["cat"]]
    path = root / "annotations/instances_train2014.json"
    path.write_text(path.read_text().replace('"category_id": 17', '"category_id": 95'))
    with pytest.raises(
        DataError, match=r"instances_train2014\.json: annotation 1 is of category 95, which is no class"
    ):
        shown(open_dataset("coco14", root))


@pytest.mark.parametrize(
    ("categories", "words"),
    [
        ([{"id": 1, "name": "apple"}, {"id": 2, "name": "Apple"}, {"id": 3, "name": "pear"}], "'apple' and 'Apple'"),
        ([{"id": 1, "name": "apple"}, {"id": 1, "name": "pear"}], "two categories have one id"),
        ([{"id": 1}], r"a category has no id or no name, .* KeyError\('name'\)"),
        ([{"id": 1, "name": 5}], "a category has no id or no name"),
        ([{"id": 1, "name": "a"}, {"id": "b", "name": "b"}], "a category has no id or no name, or one of another kind"),
        (["apple"], "a category has no id"),
        ([{"id": n, "name": f"c{n}"} for n in range(255)], "255 classes, and masks hold 254 at most"),
        ([{"id": 1, "name": "pear"}], "annotation 1 is of category 17, which is no class; list it with a name"),
        ([{"id": 17, "name": "background"}, {"id": 1, "name": "pear"}], "category 17, which is no class"),
    ],
)
def test_categories_that_cannot_be_used(make, categories, words):
    root = make(categories=categories)
    with pytest.raises(DataError, match=words):
        made(root)


def test_categories_are_found_without_reading_the_rest(make, monkeypatch):
    root = make([thing(1, 1), thing(2, 2)], categories=FRUIT)
    paths = sorted((root / "annotations").iterdir())
    content = json.loads(paths[0].read_text())
    first = {"categories": content.pop("categories")} | content  # the other way round
    paths[0].write_text(json.dumps(first, indent=4))
    whole = instances.read_annotations
    monkeypatch.setattr(instances, "read_annotations", lambda path: pytest.fail("was read"))
    assert [instances.read_categories(path) for path in paths] == 2 * [{1: "apple", 2: "pear"}]
    monkeypatch.setattr(instances, "read_annotations", whole)
    first["info"] = {"categories": ["fruit"]}  # the last one that the text has is not theirs
    paths[0].write_text(json.dumps(first))
    assert instances.read_categories(paths[0]) == {1: "apple", 2: "pear"}
    paths[0].write_text(json.dumps(content))
    assert instances.read_categories(paths[0]) is None


SHOWN = {
    "annotations": [{"image_id": 1, "category_id": 2, "segmentation": [[1.5, -2e3]], "text": 'a "[{'}, thing(2, 1, 1)],
    "info": {"images": [], "none": [None, True, 1e5]},
    "images": [{"id": 1, "file_name": "a/Ä,1.jpg"}, {"file_name": "b.png", "id": 22}],
    "version": 123456789,
}


@pytest.mark.parametrize("form", [{}, {"indent": 1}, {"ensure_ascii": False, "separators": (",", ":")}])
def test_objects_are_read_entry_by_entry(tmp_path, monkeypatch, form):
    monkeypatch.setattr(instances, "read_annotations", lambda path: pytest.fail("was read at once"))
    path = tmp_path / "instances.json"
    for order in (list(SHOWN), list(SHOWN)[::-1]):
        path.write_text(json.dumps({key: SHOWN[key] for key in order}, **form), encoding="utf-8")
        assert instances.shown_classes(path, {1: 5, 2: 7}) == {"Ä,1": {5, 7}, "b": set()}


def test_a_mark_before_the_text_and_no_object_are_read_at_once(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(SHOWN), encoding="utf-8-sig")
    assert instances.shown_classes(path, {1: 5, 2: 7}) == {"Ä,1": {5, 7}, "b": set()}
    path.write_text(json.dumps(SHOWN | {"annotations": []}))
    assert instances.shown_classes(path, {}) == {"Ä,1": set(), "b": set()}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"images": []}', '{"images": [], "annotations": {}}', '{"images": [], "annotations": [],}',
     '{"images": [], "annotations": []} 1', '{"images": [',
     '{"images": [] "annotations": []}', '{"images": [{"id": 1, "file_name": 5}], "annotations": []}',
     '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": []}',
     '{"images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "c/a"}], "annotations": []}',
     '{"images": [], "annotations": [{"image_id": 1, "category_id": 1}]}'],
)  # fmt: skip
def test_what_is_not_plain_is_read_at_once(tmp_path, text):
    path = tmp_path / "instances.json"
    path.write_text(text)
    with pytest.raises((ValueError, AttributeError, ijson.JSONError)):
        instances._shown_entry_by_entry(path, {1: 1})


# ── Objects as tools write them ───────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("left_out", ["iscrowd", "area", "id"])
def test_what_tools_leave_out(make, left_out):
    """Without an area the pixels count: the small object stays visible on the large one."""
    small = {"segmentation": [[6, 6, 12, 6, 12, 12, 6, 12]], "area": 36}
    things = [thing(3, 18, image=1, **small), thing(1, 17), thing(2, 17)]
    for one in things:
        del one[left_out]
    assert drawn(made(make(things), lists=["train"])) == [[17, 18], [17]]


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ([[5, 5, 30, 30]], "no polygon of it has three points"),
        ([[]], "no polygon of it has three points"),
        ([[1, 1, 9, 1, 9, 9, 1]], "no polygon of it has three points"),
        ([[1, 1, 9, 1, 9, float("nan")]], "no polygon of it has three points"),
        ([[1, 1, 9, 1, 9, 1e9]], "no polygon of it has three points"),
        ([["1", "1", "9", "1", "9", "x"]], "no polygon of it has three points"),
        ([[[1, 1], [9, 1], [9, 9], [1, 9], [2, 2], [3, 3]]], "no polygon of it has three points"),
        ([], "it has no shape"),
        (None, "it has no shape"),
        ("polygon", "it has no shape"),
        ({"counts": [5, 10], "size": [HEIGHT, WIDTH]}, r"its run lengths are not of 40×30 pixels \(they do not add up"),
        ({"counts": [1200], "size": [WIDTH, HEIGHT]}, r"not of 40×30 pixels \(they are of size \[40, 30\]\)"),
        ({"counts": "zzz", "size": [HEIGHT, WIDTH]}, "do not add up"),
        ({"counts": "", "size": [HEIGHT, WIDTH]}, "do not add up"),
        ({"counts": [-3, 1203], "size": [HEIGHT, WIDTH]}, "do not add up"),
        ({"size": [HEIGHT, WIDTH]}, r"KeyError|'counts'"),
    ],
)
def test_a_shape_that_cannot_be_drawn_is_named_and_left_out(make, capsys, shape, why):
    """The image whose only object it is has no mask and is in no list; beside another object it is missing."""
    root = make([thing(1, 17), thing(4, 18, image=1, segmentation=shape), thing(2, 17, segmentation=shape)])
    dataset = made(root, lists=["train"])
    out = capsys.readouterr().out
    assert (
        "instances_train2014.json: 2 of its objects cannot be drawn and are left out, "
        "and images that show nothing else: annotation 4 (" in out
    )
    assert re.search(why, out) and "annotation 2" in out
    assert dataset.ids("train") == ["COCO_train2014_000000000001"] and drawn(dataset) == [[17]]


def test_of_many_shapes_that_cannot_be_drawn_the_first_are_named(make, capsys):
    made(make([thing(1, 17), *(thing(n, 17, image=1, segmentation=[]) for n in range(10, 30))]), lists=["train"])
    out = capsys.readouterr().out
    assert "20 of its objects" in out and "annotation 14 (it has no shape), …" in out and "annotation 15" not in out


def test_boxes_alone_make_no_masks(make):
    root = make([thing(1, 17, segmentation=[]), thing(2, 17, segmentation=[])])
    with pytest.raises(DataError, match=r"instances_train2014\.json have no object that can be drawn; masks need poly"):
        write_masks(root, "train")
    assert not (root / "voc_format/train.txt").exists()


def test_a_polygon_without_a_list_around_it_is_read(make):
    root = make([thing(1, 17), thing(2, 17, segmentation=[4, 4, 24, 4, 24, 20, 4, 20])])
    dataset = made(root, lists=["train"])
    first, second = dataset.ids("train")
    assert (dataset.mask(first) == dataset.mask(second)).all()


def test_a_part_of_a_shape_that_cannot_be_drawn_leaves_the_others(make):
    root = make([thing(1, 17), thing(2, 17, segmentation=[[4, 4, 24, 4, 24, 20, 4, 20], [1, 1, 2, 2], []])])
    dataset = made(root, lists=["train"])
    first, second = dataset.ids("train")
    assert (dataset.mask(first) == dataset.mask(second)).all()


def test_shapes_are_drawn_as_cocos_own_tools_draw_them():
    """Polygons of several parts, and run lengths packed and plain, against pycocotools."""
    from pycocotools import mask
    from pycocotools.coco import COCO

    chance = np.random.default_rng(0)
    tools = COCO()
    tools.imgs = {1: {"height": HEIGHT, "width": WIDTH}}
    for _ in range(60):
        corners = [chance.uniform(-3, 44, 2 * int(chance.integers(3, 9))).round(2).tolist() for _ in range(2)]
        inside = np.asfortranarray(chance.random((HEIGHT, WIDTH)) < chance.choice([0.02, 0.5]))
        packed = mask.encode(inside.astype(np.uint8))
        counts = [int(n) for n in runs_of(inside)]
        for shape in (
            corners,
            {"counts": packed["counts"].decode(), "size": [HEIGHT, WIDTH]},
            {"counts": counts, "size": [HEIGHT, WIDTH]},
        ):
            one = {"image_id": 1, "segmentation": shape}
            assert instances.shape_fault(one, HEIGHT, WIDTH) == ""
            assert (instances.draw(one, HEIGHT, WIDTH) == tools.annToMask(one)).all()


def runs_of(inside):
    """The lengths of runs, outside first, column by column."""
    flat = np.concatenate([[False], inside.flatten(order="F")])
    ends = np.flatnonzero(np.diff(flat)).tolist()
    return np.diff([0, *ends, inside.size])


def test_an_image_without_a_size_is_measured(make):
    root = make()
    path = root / "annotations/instances_train2014.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        del image["height"], image["width"]
    path.write_text(json.dumps(content))
    assert drawn(made(root)) == [[17], [17]]


# ── Names ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_pictures_of_ones_own_names_and_endings(make):
    root = make([thing(1, 1), thing(2, 2)], categories=FRUIT, year="", name="IMG {}_jpg.rf.ab12")
    (root / "annotations/instances_val.json").unlink()
    for path in (root / "images/train").iterdir():
        path.rename(path.with_suffix(".JPEG"))
    dataset = made(root, lists=["train"])
    assert dataset.ids("train") == ["IMG 1_jpg.rf.ab12", "IMG 2_jpg.rf.ab12"] and shown(dataset) == [
        ["apple"],
        ["pear"],
    ]


def test_one_name_in_two_splits_is_refused(make):
    """Their masks would be one file."""
    root = make([thing(1, 1), thing(2, 2)], categories=FRUIT, year="", name="frame")
    with pytest.raises(DataError, match=r"instances_train\.json cannot be read \(two images are called frame\)"):
        write_masks(root, "train")
    root = root / "again"
    for split, category in (("train", 1), ("val", 2)):
        (root / "images" / split).mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / f"images/{split}/0001.jpg")
        content = {"images": [{"id": 1, "file_name": f"{split}\\0001.jpg", "height": HEIGHT, "width": WIDTH}],
                   "annotations": [thing(1, category)], "categories": FRUIT}  # fmt: skip
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"0001 is a picture in .*train and in .*val; an image needs a name of its own"):
        write_masks(root, "train")
    with pytest.raises(DataError, match=r"image 0001 is in another file of annotations as well, with other classes"):
        open_dataset("coco14", root).labels("0001")


def test_another_split_of_ones_own(make, capsys):
    root = make([thing(1, 1), thing(2, 2)], categories=FRUIT, year="")
    (root / "annotations/instances_train.json").rename(root / "annotations/instances_default.json")
    (root / "annotations/instances_val.json").unlink()
    (root / "images/train").rename(root / "images/default")
    assert main(["data", "coco-masks", str(root), "--split", "default"]) == 0
    assert capsys.readouterr().out == "default: 2 images with masks\n"
    check_list(open_dataset("coco14", root), "default", masks=True)
    assert main(["data", "coco-masks", str(root), "--split", "train"]) == 2
    assert "annotations" in capsys.readouterr().err


# ── Faults ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["annotations"][1].pop("category_id"), "annotation 2: it has no 'category_id'"),
        (lambda c: c["annotations"][1].update(category_id=[1]), r"annotation 2: its 'category_id' is \[1\]"),
        (lambda c: c["annotations"][1].pop("image_id"), "annotation 2: it has no 'image_id'"),
        (lambda c: c["annotations"][1].update(image_id=9), "annotation 2 is on image 9, which it does not list"),
        (lambda c: c["annotations"].append(5), "annotation number 3: it has no 'image_id'"),
        (lambda c: c["images"][1].pop("file_name"), "image number 2: it has no 'file_name'"),
        (lambda c: c["images"][1].update(file_name=None), "image number 2: its 'file_name' is None"),
        (lambda c: c["images"][1].update(id=1), "image 1 stands there twice"),
        (lambda c: c.update(annotations={}), "it has no list 'annotations'"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_by_id(make, change, words):
    root = make()
    path = root / "annotations/instances_train2014.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"instances_train2014\.json cannot be read \({words}"):
        made(root)


def test_annotations_that_are_not_there_are_told_with_those_that_are(make, tmp_path):
    root = make()
    with pytest.raises(DataError, match=r"instances_test2014\.json do not exist, .* has instances_train2014\.json"):
        write_masks(root, "test")
    with pytest.raises(DataError, match=r"annotations has nothing of the kind; give the folder that holds"):
        write_masks(tmp_path / "nowhere", "train")


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", "[" * 200_000, '{"images": "é'.encode("latin-1"), b"", b"1", "1" * 9999]
)
def test_a_file_that_is_no_json_is_named(make, content):
    root = make()
    path = root / "annotations/instances_train2014.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=r"instances_train2014\.json cannot be read \(.*\); restore the file"):
        made(root)


def test_a_byte_order_mark_does_not_matter(make):
    root = make()
    path = root / "annotations/instances_train2014.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert shown(made(root)) == [["cat"], ["cat"]]


def test_damaged_annotations_are_named_or_read(make):
    """Bytes flipped, cut and put in at random: a DataError at most, in no time and in little memory."""
    runs = {"counts": [600, 20, 580], "size": [HEIGHT, WIDTH]}
    root = make([thing(1, 1), thing(2, 2), thing(3, 1, image=1, segmentation=runs, iscrowd=1)], categories=FRUIT)
    (root / "annotations/instances_val2014.json").unlink()
    path = root / "annotations/instances_train2014.json"
    whole = path.read_bytes()
    chance = random.Random(1)
    refused = 0
    tracemalloc.start()
    for _ in range(200):
        path.write_bytes(damaged(whole, chance))
        for mask in (root / "voc_format").rglob("*.*"):
            mask.unlink()
        try:
            write_masks(root, "train")
            open_dataset("coco14", root).labels("COCO_train2014_000000000001")
        except DataError as error:
            refused += 1
            assert "instances_train2014.json" in str(error) or "categories" in str(error) or "image" in str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 80 < refused < 200 and peak < 300e6
