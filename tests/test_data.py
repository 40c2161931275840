"""Reading VOC's layout: what must work, and how everything that cannot is refused before work starts."""

import pickle
import re
import shutil

import numpy as np
import pytest
from conftest import check_list
from PIL import Image

from weaktr import data
from weaktr.data import open_dataset, released
from weaktr.data.images import palette, read_image, read_label_png, write_label_png
from weaktr.data.lists import read_list
from weaktr.data.report import check
from weaktr.data.synthetic import CLASSES
from weaktr.data.voc import VOC, VOC_CLASSES
from weaktr.errors import DataError
from weaktr.workbench import checks, keys, runner
from weaktr.workbench.parameters import catalogue, check_parameters

FIRST, LAST = "scene_000000", "scene_000007"  # of the list train


def folder_of(root):
    return root / "VOCdevkit" / "VOC2012"


def write_list(root, content, name="train"):
    path = folder_of(root) / "ImageSets" / "Segmentation" / f"{name}.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def image_file(root, image_id=LAST):
    return folder_of(root) / "JPEGImages" / f"{image_id}.jpg"


def mask_file(root, image_id=LAST):
    return folder_of(root) / "SegmentationClass" / f"{image_id}.png"


def xml_file(root, image_id=LAST):
    return folder_of(root) / "Annotations" / f"{image_id}.xml"


def rename_class(root, new, image_id=LAST):
    path = xml_file(root, image_id)
    path.write_text(re.sub(r"(<object>\s*)<name>\w+</name>", rf"\1{new}", path.read_text(), count=1))


# ---------------------------------------------------------------- lists


def test_order_of_a_list_is_kept(voc_copy):
    write_list(voc_copy, "scene_000003\nscene_000001\nscene_000002\n")
    assert VOC(voc_copy, CLASSES).ids("train") == ["scene_000003", "scene_000001", "scene_000002"]


def test_part_of_a_list_is_spread_evenly(tiny_voc):
    dataset = VOC(tiny_voc, CLASSES)
    ids = dataset.ids("train")
    assert dataset.ids("train:4") == ids[::2] and dataset.ids("train:8") == ids and dataset.ids("train:1") == ids[:1]
    for count in ("0", "9", "half", ""):
        with pytest.raises(DataError, match=rf"list train:{count}: '{count}' is not a number from 1 to 8"):
            dataset.ids(f"train:{count}")


def test_the_released_name_of_train_aug_is_read(voc_copy):
    dataset = VOC(voc_copy, CLASSES)
    with pytest.raises(DataError, match=r"train_aug\.txt does not exist"):
        dataset.ids("train_aug")
    ids = [f"scene_{i:06d}" for i in (4, 2, 6, 0)]
    write_list(voc_copy, "\n".join(ids), name="trainaug")
    assert dataset.ids("train_aug") == dataset.ids("trainaug") == ids
    assert dataset.ids("train_aug:2") == ids[::2]
    write_list(voc_copy, "scene_000001", name="train_aug")
    assert dataset.ids("train_aug") == ["scene_000001"], "a list of the name that is asked for comes first"


def test_masks_of_a_list_that_is_not_evaluated_need_not_be_there(voc_copy):
    shutil.rmtree(folder_of(voc_copy) / "SegmentationClass")
    check_list(VOC(voc_copy, CLASSES), "train", masks=False)


# ---------------------------------------------------------------- opening


def test_root_may_start_at_home(tiny_voc, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny_voc.parent))
    assert data.open_dataset("voc12", f"~/{tiny_voc.name}").root == tiny_voc


def test_root_may_be_the_devkit_its_folder_or_the_parent(tiny_voc):
    for root in (tiny_voc, tiny_voc / "VOCdevkit", folder_of(tiny_voc)):
        assert VOC(root, CLASSES).ids("val") == [f"scene_{i:06d}" for i in range(8, 12)]


def test_sbd_masks_stand_in_where_voc_has_none(voc_copy):
    augmented = folder_of(voc_copy) / "SegmentationClassAug"
    augmented.mkdir()
    mask = np.full_like(read_label_png(mask_file(voc_copy)), 3)
    Image.fromarray(mask).save(augmented / f"{LAST}.png")  # grey, as SBD's are distributed
    dataset = VOC(voc_copy, CLASSES)
    assert (dataset.mask(LAST) == read_label_png(mask_file(voc_copy))).all()  # VOC's own outlines are the measure
    mask_file(voc_copy).unlink()
    assert (dataset.mask(LAST) == 3).all()


def test_difficult_objects_count(voc_copy):
    dataset = VOC(voc_copy, CLASSES)
    before = dataset.labels(FIRST).copy()
    missing = CLASSES[int(np.argmin(before))]
    text = xml_file(voc_copy, FIRST).read_text()
    extra = f"<object><name>{missing}</name><difficult>1</difficult></object></annotation>"
    xml_file(voc_copy, FIRST).write_text(text.replace("</annotation>", extra))
    after = VOC(voc_copy, CLASSES).labels(FIRST)
    assert after.dtype == np.float32 and after.shape == (len(CLASSES),)
    assert after.sum() == before.sum() + 1 and after[CLASSES.index(missing)] == 1


def test_parts_of_objects_are_not_objects(voc_copy):
    """VOC's person layout annotations hold <part><name>head</name></part> inside an object."""
    text = xml_file(voc_copy).read_text().replace("</object>", "<part><name>head</name></part></object>")
    before = VOC(voc_copy, CLASSES).labels(LAST)
    xml_file(voc_copy).write_text(text)
    assert (VOC(voc_copy, CLASSES).labels(LAST) == before).all()


# ---------------------------------------------------------------- the contract


def test_a_missing_mask_is_void_where_one_asks_for_it(voc_copy):
    dataset = VOC(voc_copy, CLASSES)
    assert (dataset.mask_or_void(LAST) == dataset.mask(LAST)).all()
    mask_file(voc_copy).unlink()
    void = dataset.mask_or_void(LAST)
    assert void.shape == dataset.image(LAST).shape[:2] and void.dtype == np.uint8 and (void == 255).all()
    with pytest.raises(DataError, match=rf"{LAST}\.png does not exist"):
        dataset.mask(LAST)


def test_a_copy_for_another_process_keeps_what_was_read(tiny_voc):
    dataset = VOC(tiny_voc, CLASSES)
    dataset.warm()  # nothing to read here
    expected = dataset.labels(FIRST)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.labels(FIRST).tolist() == expected.tolist() and copy.fingerprint() == dataset.fingerprint()


# ---------------------------------------------------------------- what is known of the complete VOC12


def images_per_class(dataset, list_name):
    return sum(dataset.labels(image_id) for image_id in dataset.ids(list_name)).astype(int).tolist()


@pytest.fixture
def complete(voc12_copy, monkeypatch):
    """`voc12_copy` as if its lists were all of VOC12: their sizes and counts are the known ones."""
    dataset = VOC(voc12_copy)
    counts = [images_per_class(dataset, name) for name in ("train", "val", "train")]
    monkeypatch.setattr(released, "SIZES", {"train": 8, "val": 4, "train_aug": 8})
    monkeypatch.setattr(released, "COUNTS", dict(zip(VOC_CLASSES, zip(*counts))))
    return voc12_copy


def test_the_known_counts_are_of_vocs_classes_and_of_plausible_lists():
    assert tuple(released.COUNTS) == VOC_CLASSES
    columns = dict(zip(released.SIZES, zip(*released.COUNTS.values()), strict=True))
    assert columns["train"][:3] == (88, 65, 105) and columns["val"][-1] == 74 and columns["train_aug"][14] == 4155
    for name, size in released.SIZES.items():
        assert size < sum(columns[name]) < 2 * size, "an image shows one to two classes"
    assert all(all_of_them > train for train, _, all_of_them in released.COUNTS.values())


def test_complete_data_as_released_is_said_to_be_so(complete):
    shutil.copytree(folder_of(complete) / "SegmentationClass", folder_of(complete) / "SegmentationClassAug")
    text, faults = check(VOC(complete), ["train", "val"])
    assert faults == 0 and "no fault found" in text
    for name, size in (("train", 8), ("val", 4)):
        assert f"{name}: the images per class are those of the released labels" in text
        assert f"{name}: {size} masks in SegmentationClassAug are those in SegmentationClass" in text


def test_another_number_of_images_per_class_is_named(complete, monkeypatch):
    known = dict(released.COUNTS)
    train, val, train_aug = known["bird"]
    monkeypatch.setattr(released, "COUNTS", known | {"bird": (train, val + 3, train_aug + 1)})
    text, faults = check(VOC(complete), ["train", "val"])
    assert f"val: {val} images show bird, {val + 3} by the released labels" in text and faults == 1
    assert "1 class whose number of images is not that of the released labels" in text
    assert "train: the images per class are those of the released labels" in text
    write_list(complete, "".join(f"scene_{i:06d}\n" for i in range(8)), name="trainaug")
    for name in ("train_aug", "trainaug"):
        text, faults = check(VOC(complete), [name])
        assert f"{name}: {train} images show bird, {train + 1} by the released labels" in text and faults == 1


def test_masks_that_differ_between_the_two_folders_are_described(complete):
    """One has no outlines, one calls some pixels another class, one is void where VOC's own is not."""
    augmented = folder_of(complete) / "SegmentationClassAug"
    shutil.copytree(folder_of(complete) / "SegmentationClass", augmented)
    ids = VOC(complete).ids("train")
    masks = [read_label_png(augmented / f"{image_id}.png") for image_id in ids]
    outline = int((masks[0] == 255).sum())
    write_label_png(augmented / f"{ids[0]}.png", np.where(masks[0] == 255, 0, masks[0]))
    for mask, value, pixels in ((masks[3], 20, 11), (masks[7], 255, 5)):
        rows, columns = np.nonzero(mask != 255)
        mask[rows[:pixels], columns[:pixels]] = value
    for number in (3, 7):
        write_label_png(augmented / f"{ids[number]}.png", masks[number])
    text, faults = check(VOC(complete), ["train", "val"])
    share = 100 * (outline + 11 + 5) / sum(mask.size for mask in masks)
    assert faults == 1 and "1 list whose masks in SegmentationClass and SegmentationClassAug differ" in text
    assert f"train: 3 of 8 masks ({ids[0]}, {ids[3]}, {ids[7]}) in {share:.2f} % of all pixels" in text
    assert f"{outline} are void in SegmentationClass alone, 5 in SegmentationClassAug alone, 11 have another" in text
    assert "val: 4 masks in SegmentationClassAug are those in SegmentationClass" in text


def test_masks_of_one_folder_only_are_not_compared(complete):
    text, faults = check(VOC(complete), ["train"])
    assert faults == 0 and "train: 8 of 8 masks are not in both" in text
    augmented = folder_of(complete) / "SegmentationClassAug"
    augmented.mkdir()
    (augmented / f"{FIRST}.png").write_bytes(b"not a mask")
    write_label_png(augmented / f"{LAST}.png", np.zeros((9, 9), np.uint8))
    text, faults = check(VOC(complete), ["train"])
    assert faults == 2 and "1 mask that cannot be compared" in text and f"{FIRST}.png cannot be read" in text
    assert f"1 of 1 masks ({LAST}) in 100.00 % of all pixels" in text and "train: 6 of 8 masks are not in both" in text


def test_of_incomplete_lists_and_other_classes_nothing_is_known(complete, tiny_voc):
    for dataset, lists in ((VOC(complete), ["train:7", "val:2"]), (VOC(tiny_voc, CLASSES), ["train", "val"])):
        text, faults = check(dataset, lists)
        assert faults == 0 and "released" not in text and "SegmentationClassAug" not in text


# ---------------------------------------------------------------- images


def picture(height=24, width=30):
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 10, columns * 8, 255 - rows * 5], 2).astype(np.uint8)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_modes_become_rgb(tmp_path, mode):
    image = Image.fromarray(picture()).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    pixels = read_image(path)
    assert pixels.dtype == np.uint8 and pixels.shape == (24, 30, 3)
    assert (pixels == np.asarray(image.convert("RGB"))).all()
    pixels[0] = 0  # writable


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    flat = np.full((32, 32, 3), (200, 60, 30), np.uint8)
    Image.fromarray(flat).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - flat).max() < 6


def test_sixteen_bits_are_scaled_not_cut(tmp_path):
    grey = (np.arange(24 * 30, dtype=np.uint16).reshape(24, 30) * 91).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    expected = np.repeat((grey / 257)[..., None], 3, 2)
    assert np.abs(read_image(tmp_path / "a.png") - expected).max() <= 1
    Image.fromarray((grey % 256).astype(np.uint16)).save(tmp_path / "b.png")  # eight bits in a 16-bit file
    assert (read_image(tmp_path / "b.png")[..., 0] == grey % 256).all()


@pytest.mark.parametrize(("note", "turned"), [(3, lambda x: x[::-1, ::-1]), (6, lambda x: np.rot90(x, -1))])
def test_exif_turns_the_image_upright(tmp_path, note, turned):
    exif = Image.Exif()
    exif[0x0112] = note
    Image.fromarray(picture()).save(tmp_path / "a.png", exif=exif)
    assert (read_image(tmp_path / "a.png") == turned(picture())).all()


# ---------------------------------------------------------------- masks


def test_palette_and_grey_masks_hold_the_same_labels(tmp_path):
    labels = np.random.default_rng(0).choice(np.array([0, 1, 7, 20, 255], np.uint8), (20, 30))
    write_label_png(tmp_path / "palette.png", labels)
    Image.fromarray(labels).save(tmp_path / "grey.png")
    assert Image.open(tmp_path / "palette.png").mode == "P"
    for name in ("palette", "grey"):
        found = read_label_png(tmp_path / f"{name}.png", 21)
        assert found.dtype == np.uint8 and (found == labels).all()
    with pytest.raises(DataError, match="value 20"):
        read_label_png(tmp_path / "grey.png", 20)


def test_palette_is_vocs():
    colours = np.reshape(palette(), (256, 3)).tolist()
    known = {0: [0, 0, 0], 1: [128, 0, 0], 2: [0, 128, 0], 8: [64, 0, 0], 15: [192, 128, 128], 20: [0, 64, 128]}
    assert {label: colours[label] for label in known} == known
    assert colours[255] == [224, 224, 192]


def test_masks_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_label_png(tmp_path / "a.png", np.ones((20, 20), np.uint8))

    def fail(self, path, **_):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    for name in ("a", "b"):
        with pytest.raises(OSError, match="disk full"):
            write_label_png(tmp_path / f"{name}.png", np.zeros((20, 20), np.uint8))
    assert (read_label_png(tmp_path / "a.png") == 1).all()
    assert not (tmp_path / "b.png").exists()


# ---------------------------------------------------------------- fingerprint


def test_fingerprint_tells_data_apart(voc_copy):
    def fingerprint(classes=CLASSES):
        return VOC(voc_copy, classes).fingerprint()

    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    changes = [
        lambda: image_file(voc_copy, "scene_000000").unlink(),
        lambda: shutil.copy(image_file(voc_copy, "scene_000002"), image_file(voc_copy, "scene_000001")),
        lambda: mask_file(voc_copy, "scene_000003").write_bytes(b"x"),
        lambda: xml_file(voc_copy, "scene_000003").write_text("<annotation/>"),
    ]
    for change in changes:
        change()
        seen.append(fingerprint())
    seen.append(fingerprint(CLASSES[::-1]))
    assert len(set(seen)) == len(seen)


def test_a_stage_is_made_from_the_lists_that_it_names(voc_copy, tmp_path):
    """Another list beside them, or a change in one that others name, makes no finished stage anew."""
    declared = catalogue()
    given = {"dataset": "voc12", "data_root": str(voc_copy), "train_list": "train:2", "eval_list": "train"}
    values = check_parameters(given, declared)

    def fingerprints():
        return runner.RunFolder(values, tmp_path, declared, keys.data_source(values)).fingerprints

    before = fingerprints()
    write_list(voc_copy, "scene_000001\n", name="more")
    assert fingerprints() == before
    ids = read_list(folder_of(voc_copy) / "ImageSets" / "Segmentation", "val")
    write_list(voc_copy, "\n".join(ids[::-1]), name="val")
    assert {name for name, value in fingerprints().items() if value != before[name]} == {
        "01_cam_training", "05_evaluation",
    }  # fmt: skip
    values["val_list"] = "no such list"
    with pytest.raises(DataError, match=r"parameter val_list: list .*no such list.txt does not exist"):
        fingerprints()


def test_fingerprint_does_not_depend_on_the_place(tiny_voc, voc_copy):
    assert VOC(tiny_voc, CLASSES).fingerprint() == VOC(voc_copy, CLASSES).fingerprint()


def test_fingerprint_sees_a_label_corrected_in_place(voc_copy):
    """Another name of the same length leaves the file's size as it was."""
    before = VOC(voc_copy, CLASSES).fingerprint()
    text = xml_file(voc_copy, FIRST).read_text()
    old = next(name for name in CLASSES if f"<name>{name}</name>" in text)
    rename_class(voc_copy, f"<name>{old[::-1]}</name>", FIRST)
    assert xml_file(voc_copy, FIRST).stat().st_size == len(text)
    assert VOC(voc_copy, CLASSES).fingerprint() != before


# ---------------------------------------------------------------- before a run


SMALL = {"cam_batch_size": 2, "seg_batch_size": 2}


def parameters(root, **more):
    return {"dataset": "voc12", "data_root": str(root), "train_list": "train", "eval_list": "val"} | SMALL | more


def test_check_parameters_accepts_good_data(voc12_copy):
    mask_file(voc12_copy, LAST).unlink()  # of the training list: no mask is needed
    checks.check_data(parameters(voc12_copy, val_list="val"))


# ---------------------------------------------------------------- real photographs


@pytest.fixture(scope="module")
def voc_mini(shared):
    if not (shared / "data" / "voc_mini").is_dir():
        pytest.skip("shared/ holds no voc_mini")
    return open_dataset("voc12", str(shared / "data" / "voc_mini"))


def test_real_photographs_pass(voc_mini):
    assert voc_mini.classes == VOC_CLASSES
    sizes = {name: len(voc_mini.ids(name)) for name in ("train", "val")}
    assert sizes == {"train": 28, "val": 15}
    for name in sizes:
        check_list(voc_mini, name, masks=True)


def test_real_labels_agree_with_the_masks(voc_mini):
    seen = np.zeros(21, bool)
    void = 0
    for image_id in voc_mini.ids("train") + voc_mini.ids("val"):
        mask, labels = voc_mini.mask(image_id), voc_mini.labels(image_id)
        classes = np.setdiff1d(np.unique(mask), [0, 255])
        assert labels.any() and set(classes - 1) <= set(np.flatnonzero(labels)), image_id
        seen[classes] = True
        void += (mask == 255).any()
    assert seen[1:].sum() > 10 and void > 30
