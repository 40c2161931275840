"""COCO14's layout and folders of one's own: what must work, and what is refused."""

import json
import pickle

import numpy as np
import pytest
from conftest import FOLDER_TABLE, check_list
from PIL import Image

from weaktr.__main__ import main
from weaktr.data import open_dataset
from weaktr.data.coco import NAMES, UNUSED, USED, from_contiguous, to_contiguous, write_masks
from weaktr.data.images import read_label_png, write_label_png
from weaktr.errors import DataError

# ── COCO ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_there_are_eighty_classes_among_ninety_ids():
    assert len(NAMES) == 90 and len(USED) == 80 and len(UNUSED) == 10 and not set(USED) & set(UNUSED)
    assert (NAMES[0], NAMES[12], NAMES[89]) == ("person", "stop sign", "toothbrush")
    assert len(set(NAMES)) == 90


def test_the_id_map_is_its_own_inverse():
    ids = np.array([[0, 255, *USED]], np.uint8)
    contiguous = to_contiguous(ids)
    assert contiguous[0, 2:].tolist() == list(range(1, 81)) and contiguous[0, :2].tolist() == [0, 255]
    assert (from_contiguous(contiguous) == ids).all()
    for unused in UNUSED:
        with pytest.raises(ValueError, match=f"{unused} is not a COCO id"):
            to_contiguous(np.array([[unused]], np.uint8))
    with pytest.raises(ValueError, match="81 is not a contiguous"):
        from_contiguous(np.array([[81]], np.uint8))


def test_both_numberings(coco):
    ninety, eighty = open_dataset("coco14", str(coco)), open_dataset("coco14_80", str(coco))
    first, second = ninety.ids("train")
    for data, values in ((ninety, (18, 90)), (eighty, (17, 80))):
        for image_id, value, name in zip((first, second), values, ("dog", "toothbrush")):
            assert set(np.unique(data.mask(image_id))) == {0, value, 255}
            assert [data.classes[c] for c in np.flatnonzero(data.labels(image_id))] == [name]
        check_list(data, "train", masks=True)
    assert (len(ninety.classes), len(eighty.classes)) == (90, 80) and ninety.fingerprint() != eighty.fingerprint()


def test_images_may_lie_in_the_folders_of_their_split(coco):
    folder = coco / "images/train2014"
    folder.mkdir()
    for path in (coco / "images").glob("*.jpg"):
        path.rename(folder / path.name)
    data = open_dataset("coco14", str(coco))
    check_list(data, "train", masks=True)
    before = data.fingerprint()
    (folder / "empty").mkdir()  # the size of a folder itself depends on the file system
    assert data.fingerprint() == before


def annotations(coco, things):
    (coco / "annotations").mkdir()
    images = [{"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "height": 30, "width": 40} for n in (1, 2)]
    content = {"images": images, "annotations": things}
    (coco / "annotations/instances_train2014.json").write_text(json.dumps(content))


def square(left, top, side, category, image=1, crowd=0):
    right, below = left + side, top + side
    polygon = [left, top, right, top, right, below, left, below]
    thing = {"image_id": image, "category_id": category, "iscrowd": crowd, "area": side**2, "segmentation": [polygon]}
    if crowd:
        inside = np.zeros((30, 40), np.uint8)
        inside[top:below, left:right] = 1
        runs, value, flat = [], 0, inside.flatten(order="F")
        while len(flat):
            length = int(np.argmax(flat != value)) if (flat != value).any() else len(flat)
            runs.append(length)
            flat, value = flat[length:], 1 - value
        thing["segmentation"] = {"counts": runs, "size": [30, 40]}
    return thing


def test_masks_from_annotations(coco):
    """Small objects stay visible on large ones, whatever their order; crowds are void, beneath everything."""
    for path in (coco / "voc_format/class_labels").glob("*"):
        path.unlink()
    annotations(coco, [square(4, 4, 4, 18), square(2, 2, 16, 1), square(0, 0, 28, 62, crowd=1)])
    assert write_masks(coco, "train") == 1
    assert (coco / "voc_format/train.txt").read_text() == "COCO_train2014_000000000001\n", "only images with an object"
    mask = read_label_png(coco / "voc_format/class_labels/COCO_train2014_000000000001.png")
    assert (mask[5, 5], mask[12, 12], mask[25, 25], mask[29, 35]) == (18, 1, 255, 0)
    assert abs((mask == 18).sum() - 16) <= 9 and mask.shape == (30, 40)


def test_labels_come_from_the_annotations_where_there_are_some(coco):
    annotations(coco, [square(4, 4, 4, 1), square(4, 4, 4, 3, image=2)])
    data = open_dataset("coco14", str(coco))
    found = [[data.classes[c] for c in np.flatnonzero(data.labels(i))] for i in data.ids("train")]
    assert found == [["person"], ["car"]], "not the masks' classes"


def test_annotations_are_read_once_and_go_along_to_other_processes(coco):
    annotations(coco, [square(4, 4, 4, 1), square(4, 4, 4, 3, image=2)])
    data = open_dataset("coco14", str(coco))
    data.warm()
    (coco / "annotations/instances_train2014.json").unlink()
    copy = pickle.loads(pickle.dumps(data))
    first, second = data.ids("train")
    assert [data.classes[c] for c in np.flatnonzero(data.labels(first))] == ["person"]
    assert [copy.classes[c] for c in np.flatnonzero(copy.labels(second))] == ["car"]


def test_a_missing_mask_of_coco_is_void_where_one_asks_for_it(coco):
    data = open_dataset("coco14_80", str(coco))
    first, second = data.ids("train")
    data.mask_path(first).unlink()
    assert (data.mask_or_void(first) == 255).all() and data.mask_or_void(first).shape == (30, 40)
    assert (data.mask_or_void(second) == data.mask(second)).all()


BARE, LONG = "{:012d}", "COCO_train2014_{:012d}"


def respell(folder, spelling):
    """The files of the folder get other names: of each image the same 12 digits."""
    for path in [path for path in folder.iterdir() if path.is_file()]:
        path.rename(path.with_name(spelling.format(int(path.stem[-12:])) + path.suffix))


def write_coco_list(coco, *ids):
    (coco / "voc_format/train.txt").write_text("".join(f"{image_id}\n" for image_id in ids))


@pytest.mark.parametrize("annotated", [False, True], ids=["no annotations", "COCO's annotations"])
@pytest.mark.parametrize("masks", [BARE, LONG])
@pytest.mark.parametrize("images", [BARE, LONG])
@pytest.mark.parametrize("listed", [(BARE, BARE), (LONG, LONG), (BARE, LONG)], ids=["bare", "long", "mixed"])
def test_both_spellings_of_an_image_are_read(coco, listed, images, masks, annotated):
    """The released lists, images and masks have 12 digits, COCO's images and annotations the split before them."""
    expected = ["dog", "toothbrush"]
    if annotated:
        annotations(coco, [square(4, 4, 4, 1), square(4, 4, 4, 3, image=2)])
        expected = ["person", "car"]
    pixels = [np.array(Image.open(path)) for path in sorted((coco / "images").iterdir())]
    respell(coco / "images", images)
    respell(coco / "voc_format/class_labels", masks)
    ids = [spelling.format(number) for number, spelling in enumerate(listed, start=1)]
    write_coco_list(coco, *ids)
    data = open_dataset("coco14", str(coco))
    assert data.ids("train") == ids, "as the list has them"
    check_list(data, "train", masks=True)
    assert [[data.classes[c] for c in np.flatnonzero(data.labels(i))] for i in ids] == [[name] for name in expected]
    assert all((data.image(image_id) == image).all() for image_id, image in zip(ids, pixels, strict=True))
    assert [set(np.unique(data.mask(i)).tolist()) for i in ids] == [{0, 18, 255}, {0, 90, 255}]


def test_annotations_may_name_images_by_their_digits(coco):
    annotations(coco, [square(4, 4, 4, 1), square(4, 4, 4, 3, image=2)])
    path = coco / "annotations/instances_train2014.json"
    path.write_text(path.read_text().replace("COCO_train2014_", ""))
    data = open_dataset("coco14", str(coco))
    assert [data.classes[int(data.labels(i).argmax())] for i in data.ids("train")] == ["person", "car"]


def test_bare_ids_find_images_in_the_folders_of_their_split(coco):
    (coco / "images/val2014").mkdir()
    for path in (coco / "images").glob("*.jpg"):
        path.rename(coco / "images/val2014" / path.name.replace("train", "val"))
    write_coco_list(coco, BARE.format(1), LONG.format(2))
    check_list(open_dataset("coco14", str(coco)), "train", masks=True)


def test_of_two_files_of_an_image_the_one_that_is_spelt_as_the_list_counts(coco):
    Image.new("RGB", (40, 30), "white").save(coco / "images" / f"{BARE.format(1)}.jpg")
    write_label_png(coco / "voc_format/class_labels" / f"{BARE.format(1)}.png", np.full((30, 40), 3, np.uint8))
    data = open_dataset("coco14", str(coco))
    assert data.image(BARE.format(1)).min() > 250 and (data.mask(BARE.format(1)) == 3).all()
    assert data.image(LONG.format(1)).min() < 100 and (data.mask(LONG.format(1)) != 3).all()


def test_an_image_in_both_spellings_in_one_list_is_refused(coco):
    write_coco_list(coco, BARE.format(1), BARE.format(2), LONG.format(1))
    with pytest.raises(DataError, match=rf"train\.txt holds '{BARE.format(1)}' and '{LONG.format(1)}', which are one"):
        open_dataset("coco14", str(coco)).ids("train:2")


def test_names_that_are_not_cocos_have_one_spelling(coco):
    for folder, ending in (("images", "jpg"), ("voc_format/class_labels", "png")):
        (coco / folder / f"{LONG.format(1)}.{ending}").rename(coco / folder / f"holiday-7.{ending}")
    write_coco_list(coco, "holiday-7", BARE.format(2))
    data = open_dataset("coco14", str(coco))
    check_list(data, "train", masks=True)
    assert data.mask_path("12") == coco / "voc_format/class_labels/12.png"


def test_masks_that_are_spelt_in_the_other_way_are_not_made_again(coco):
    annotations(coco, [square(4, 4, 4, 1), square(4, 4, 4, 3, image=2)])
    respell(coco / "voc_format/class_labels", BARE)
    before = {path.name: path.read_bytes() for path in (coco / "voc_format/class_labels").iterdir()}
    assert write_masks(coco, "train") == 2
    assert {path.name: path.read_bytes() for path in (coco / "voc_format/class_labels").iterdir()} == before
    check_list(open_dataset("coco14", str(coco)), "train", masks=True)


def test_real_photographs_of_coco_pass(shared):
    for name, classes in (("coco14", 90), ("coco14_80", 80)):
        data = open_dataset(name, str(shared / "data/coco_mini"))
        for list_name, size in (("train", 40), ("val", 20)):
            assert len(data.ids(list_name)) == size
            check_list(data, list_name, masks=True)
        assert len(data.classes) == classes


# ── A folder of one's own ─────────────────────────────────────────────────────────────────────────────────────────
def opened(folder, text=None):
    if text is not None:
        (folder / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_dataset("folder", str(folder))


def test_a_folder_is_read(folder):
    data = opened(folder)
    assert data.classes == ("cat", "dog") and not data.has_masks
    assert data.ids("train") == ["a b__Ünder", "a b__two"]
    assert data.ids("val") == ["three"] and len(data.ids("all")) == 3
    assert [data.labels(i).tolist() for i in data.ids("all")] == [[1, 1], [0, 1], [0, 0]]
    assert data.image("a b__two").shape == (20, 31, 3) and (data.mask("three") == 255).all()
    check_list(data, "all")


def test_without_a_split_every_list_is_everything(folder):
    data = opened(folder, "labels,image\ncat,three.png\ndog,a b/two.jpg\n")
    assert data.ids("train") == data.ids("val") == ["three", "a b__two"]
    assert data.ids("train:1") == ["three"]


def test_one_class_and_given_classes(folder):
    assert opened(folder, "image,labels\nthree.png,cat\n").classes == ("cat",)
    (folder / "classes.txt").write_text("dog\nbird\ncat\n")
    assert opened(folder, FOLDER_TABLE).classes == ("dog", "bird", "cat")
    (folder / "classes.txt").write_text("dog\ncat\ndog\n")
    with pytest.raises(DataError, match=r"classes\.txt holds 'dog' twice"):
        opened(folder, FOLDER_TABLE)


def test_masks_of_a_folder(folder):
    (folder / "masks/a b").mkdir(parents=True)
    write_label_png(folder / "masks/a b/two.png", np.full((20, 31), 2, np.uint8))
    data = opened(folder)
    assert data.has_masks and (data.mask("a b__two") == 2).all()
    assert (data.mask_or_void("a b__two") == 2).all() and (data.mask_or_void("three") == 255).all()
    assert data.mask("three").shape == data.image("three").shape[:2]


# ── The report ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_report_names_what_is_wrong(folder, capsys):
    Image.open(folder / "three.png").save(folder / "copy.png")
    (folder / "broken.png").write_bytes(b"x")
    (folder / "masks").mkdir()
    write_label_png(folder / "masks/copy.png", np.full((20, 32), 2, np.uint8))
    (folder / "labels.csv").write_text(FOLDER_TABLE + "copy.png,cat,val\nbroken.png,cat,val\n")
    assert main(["data", "check", str(folder), "--dataset", "folder", "--lists", "train", "val"]) == 1
    out = capsys.readouterr().out
    for text in (
        "2 classes; lists train (2), val (3)",
        "sizes: 30×20 to 32×20 pixels",
        "1 image without a label:\n  three",
        "1 copy of one image:\n  copy, three",
        "broken.png cannot be read",
        "copy: dog",
        "1 image without a mask:\n  three",
        "1 list without masks:\n  train: none of its images has a mask",
    ):
        assert text in out, text
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith(("cat", "dog"))}
    assert rows == {"cat": ["1", "1", "dog", "(1)"], "dog": ["2", "0", "cat", "(1)"]}


def test_report_of_a_folder_without_masks_or_split(folder, capsys):
    (folder / "labels.csv").write_text("image,labels\nthree.png,cat\na b/two.jpg,dog\n")
    assert main(["data", "check", str(folder)]) == 0, "masks are optional"
    out = capsys.readouterr().out
    assert "no masks: nothing can be measured" in out and "train and val share 2 images" in out


def test_report_goes_on_where_a_list_is_missing(folder, capsys):
    assert main(["data", "check", str(folder), "--lists", "train", "test"]) == 1
    assert "no image of split 'test'" in capsys.readouterr().out


def test_fingerprint_of_a_folder_sees_what_it_uses(folder):
    before = opened(folder).fingerprint()
    (folder / "notes.txt").write_text("a stray file")
    assert opened(folder).fingerprint() == before
    Image.new("RGB", (64, 64)).save(folder / "three.png")
    assert opened(folder).fingerprint() != before


def test_report_of_good_data(tiny_voc, tmp_path, capsys):
    (tmp_path / "x.png").parent.mkdir(exist_ok=True)
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    (tmp_path / "labels.csv").write_text("image,labels\nx.png,cat\n")
    (tmp_path / "masks").mkdir()
    write_label_png(tmp_path / "masks/x.png", np.ones((20, 20), np.uint8))
    assert main(["data", "check", str(tmp_path), "--dataset", "folder", "--lists", "all"]) == 0
    assert "no fault found" in capsys.readouterr().out


def test_masks_command(coco, capsys):
    annotations(coco, [square(4, 4, 4, 18)])
    assert main(["data", "coco-masks", str(coco), "--split", "train"]) == 0
    assert "train: 1 image with masks, all of COCO14 are 82081" in capsys.readouterr().out
