"""VOC's layout as people and tools write it: classes of one's own, spellings, endings, encodings, links."""

import hashlib
import os
import pickle
import random
import unicodedata

import numpy as np
import pytest
from conftest import check_list
from PIL import Image

from weaktr.__main__ import main
from weaktr.data import open_dataset, voc
from weaktr.data.images import write_label_png
from weaktr.data.lists import is_id
from weaktr.data.names import alike
from weaktr.data.report import check
from weaktr.data.voc import VOC, VOC_CLASSES
from weaktr.errors import DataError
from weaktr.workbench import checks

IDS = [f"2030_{i:06d}" for i in range(6)]


def annotation(*names, encoding="utf-8"):
    objects = "".join(f"<object><name>{name}</name></object>" for name in names)
    return f'<?xml version="1.0" encoding="{encoding}"?>\n<annotation>{objects}</annotation>'.encode(encoding)


@pytest.fixture
def make(tmp_path):
    """Function (names in turn, …) → the folder VOC2012 of six images, one object each, with masks."""

    def build(*names, ending=".jpg", masks=True, encoding="utf-8"):
        folder = tmp_path / "VOCdevkit/VOC2012"
        for place in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation"):
            (folder / place).mkdir(parents=True)
        known = [alike(name) for name in VOC_CLASSES]
        values = {name: known.index(alike(name)) + 1 for name in names if alike(name) in known}
        if len(values) < len(names):  # of one's own
            values = {name: value for value, name in enumerate(sorted(names), start=1)}
        for number, image_id in enumerate(IDS):
            Image.new("RGB", (40, 30), (number * 20, 80, 120)).save(folder / f"JPEGImages/{image_id}{ending}")
            if masks:
                mask = np.zeros((30, 40), np.uint8)
                mask[5:20, 5:25] = values[names[number % len(names)]]
                write_label_png(folder / f"SegmentationClass/{image_id}.png", mask)
            content = annotation(names[number % len(names)], encoding=encoding)
            (folder / f"Annotations/{image_id}.xml").write_bytes(content)
        for name, ids in (("train", IDS[:3]), ("val", IDS[3:])):
            (folder / f"ImageSets/Segmentation/{name}.txt").write_text("\n".join(ids))
        return folder

    return build


def shown(dataset):
    return [[dataset.classes[c] for c in np.flatnonzero(dataset.labels(image_id))] for image_id in IDS]


def read(folder):
    dataset = open_dataset("voc12", folder.parents[1])
    for name in ("train", "val"):
        check_list(dataset, name, masks=dataset.has_masks)
    return dataset


# ── Classes ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_classes_of_ones_own_are_the_names_in_the_annotations_sorted(make, capsys):
    folder = make("vest", "helmet")
    dataset = read(folder)
    assert dataset.classes == ("helmet", "vest") and shown(dataset) == 3 * [["vest"], ["helmet"]]
    text = check(dataset, ["train", "val"])[0]
    assert "2 classes; lists train (3)" in text and "sorted: helmet, vest; another order" in text
    checks.check_data({"dataset": "voc12", "data_root": str(folder), "train_list": "train", "eval_list": "val"})
    assert "classes as the annotations name them, sorted: helmet, vest" in capsys.readouterr().out


def test_classes_txt_fixes_classes_and_order(make):
    folder = make("vest", " Helmet ")
    before = read(folder).fingerprint()
    (folder / "classes.txt").write_text("__ignore__\n_background_\nvest\nhelmet\nboot\n")
    dataset = read(folder)
    assert dataset.classes == ("vest", "helmet", "boot") and shown(dataset) == 3 * [["vest"], ["helmet"]]
    assert "classes.txt, in its order: vest, helmet, boot" in dataset.noticed()[0]
    assert dataset.fingerprint() != before
    (folder / "classes.txt").write_text("vest\nboot\n")
    with pytest.raises(DataError, match=r"names 'Helmet'; correct it, the classes are vest, boot; .* in classes\.txt"):
        read(folder)


@pytest.mark.parametrize("how", [str, " {}\n ".format, str.capitalize, str.upper, "tv monitor".format])
def test_vocs_own_names_are_vocs_however_they_are_spelt(make, how):
    dataset = read(make(how("tvmonitor"), how("tvmonitor")))
    assert dataset.classes == VOC_CLASSES and shown(dataset) == 6 * [["tvmonitor"]] and not dataset.noticed()


def test_vocs_list_in_classes_txt_changes_nothing(make):
    folder = make("cat", "dog")
    before = read(folder).fingerprint()
    (folder / "classes.txt").write_text("background\n" + "\n".join(VOC_CLASSES).upper())
    assert read(folder).classes == VOC_CLASSES and read(folder).fingerprint() == before


def test_a_name_of_ones_own_among_vocs_is_a_mistake_until_classes_txt_has_it(make):
    folder = make("cat", "dog", "hamster")
    with pytest.raises(DataError, match=rf"{IDS[2]}\.xml names 'hamster'; correct it, .*stand in classes\.txt"):
        read(folder)
    (folder / "classes.txt").write_text("cat\ndog\nhamster\n")
    assert shown(read(folder)) == 2 * [["cat"], ["dog"], ["hamster"]]


def test_names_of_which_most_are_not_vocs_are_ones_own(make):
    assert read(make("person", "helmet", "vest")).classes == ("helmet", "person", "vest")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("helmet", "Helmet"), ["Annotations", "'Helmet' and 'helmet', which are one name"]),
        (("hard hat", "hardhat"), ["'hard hat' and 'hardhat'"]),
        (("helmet", "_background_"), ["'_background_' as a class", "take it out"]),
        (("helmet", "ignore"), ["'ignore' as a class", "void 255"]),
        (("helmet", "N/A"), ["'N/A' as a class"]),
    ],
)
def test_names_that_are_one_or_none_are_refused(make, names, words):
    with pytest.raises(DataError) as caught:
        read(make(*names))
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("cat\nCat\n", "classes.txt has 'cat' and 'Cat', which are one name"),
        ("cat\ncat\n", "classes.txt holds 'cat' twice"),
        ("\n", "classes.txt names no class"),
        ("cat\nvoid\n", "classes.txt has 'void' as a class"),
        ("été".encode("latin-1"), "classes.txt is not UTF-8 text"),
        ("\n".join(f"c{n}" for n in range(255)), "has 255 classes, and masks hold 254 at most"),
    ],
)
def test_a_list_of_classes_that_cannot_be_used(make, content, words):
    folder = make("cat")
    (folder / "classes.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=words.replace(".", r"\.")):
        read(folder)


def test_names_are_alike_whatever_their_case_spaces_and_form():
    assert alike(" Potted  Plant") == alike("pottedplant") == alike("potted_plant")
    assert alike("École") == alike(unicodedata.normalize("NFD", "école")) != alike("ecole")


def test_vocs_annotations_are_not_all_read_to_know_that_they_are_vocs(make, monkeypatch):
    folder = make("cat")
    (folder / "Annotations/0000.xml").write_bytes(annotation(*VOC_CLASSES))
    read_files, read_names = [], voc.read_names
    monkeypatch.setattr(voc, "read_names", lambda path: read_files.append(path.name) or read_names(path))
    assert open_dataset("voc12", folder).classes == VOC_CLASSES and read_files == ["0000.xml"]


# ── Annotations ───────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("encoding", ["gb2312", "gbk", "big5", "shift_jis", "euc-kr", "utf-16", "latin-1", "utf-8-sig"])
def test_annotations_in_any_encoding(make, encoding):
    folder = make("cat", "dog", encoding=encoding.removesuffix("-sig"))
    if encoding == "utf-8-sig":
        for path in (folder / "Annotations").iterdir():
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert shown(read(folder)) == 3 * [["cat"], ["dog"]]


def test_a_name_of_another_script_is_read(make):
    folder = make("安全帽", "反光衣", encoding="gb2312")
    assert read(folder).classes == ("反光衣", "安全帽")


@pytest.mark.parametrize(
    "content",
    [
        b'<?xml version="1.0" encoding="klingon"?><annotation/>',
        b'<?xml version="1.0" encoding="gb2312"?><annotation>\xff\xff</annotation>',
        b'<?xml version="1.0" encoding="hex"?><annotation/>',
        b'<?xml version="1.0" encoding="punycode"?><annotation/>',
        "<annotation>é</annotation>".encode("latin-1"),
        b"<a>" * 1000,
        b"\x00" * 50,
    ],
)
def test_an_annotation_that_cannot_be_read_is_named(make, content):
    folder = make("cat")
    (folder / f"Annotations/{IDS[1]}.xml").write_bytes(content)
    with pytest.raises(DataError, match=rf"{IDS[1]}\.xml is not well-formed XML \(.*\); restore the file, or save it"):
        read(folder)


def test_damaged_annotations_and_lists_are_named_or_read(make):
    """Bytes flipped, cut and put in at random: a DataError at most."""
    folder = make("cat", "dog", encoding="gb2312")
    chance = random.Random(0)
    refused = 0
    for path in [folder / f"Annotations/{IDS[0]}.xml", folder / "ImageSets/Segmentation/train.txt"]:
        whole = path.read_bytes()
        for _ in range(150):
            path.write_bytes(damaged(whole, chance))
            try:
                dataset = open_dataset("voc12", folder)
                for image_id in dataset.ids("train"):
                    dataset.labels(image_id)
            except DataError as error:
                refused += 1
                assert ".xml" in str(error) or ".txt" in str(error)
        path.write_bytes(whole)
    assert 75 < refused < 300


def damaged(content, chance):
    """The content with a byte changed, a piece cut out, or a piece doubled; up to three times."""
    content = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(content) + 1)
        end = min(len(content), start + chance.randint(1, 20))
        content[start:end] = chance.choice([b"", bytes([chance.randrange(256)]), 2 * content[start:end]])
    return bytes(content)


# ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("ending", [".JPG", ".jpeg", ".JPEG", ".png", ".PNG"])
def test_pictures_may_have_other_endings(make, ending):
    dataset = read(make("cat", ending=ending))
    assert dataset.image_path(IDS[0]).suffix == ending and dataset.image(IDS[0]).shape == (30, 40, 3)


def test_a_jpeg_counts_before_a_png(make):
    folder = make("cat")
    Image.new("RGB", (10, 10)).save(folder / f"JPEGImages/{IDS[0]}.png")
    assert read(folder).image(IDS[0]).shape == (30, 40, 3)


@pytest.mark.parametrize(("written", "listed"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")])
def test_files_are_found_in_the_other_unicode_form(make, written, listed):
    folder = make("cat")
    name = unicodedata.normalize(written, "été.2")
    for place, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png"), ("Annotations", "xml")):
        (folder / f"{place}/{IDS[0]}.{ending}").rename(folder / f"{place}/{name}.{ending}")
    entry = unicodedata.normalize(listed, "été.2")
    (folder / "ImageSets/Segmentation/train.txt").write_text(f"{entry}\n{IDS[1]}\n", encoding="utf-8")
    assert read(folder).ids("train") == [entry, IDS[1]], "as the list has it"


def test_an_image_in_both_unicode_forms_in_one_list_is_refused(make):
    folder = make("cat")
    forms = [unicodedata.normalize(form, "été") for form in ("NFC", "NFD")]
    (folder / "ImageSets/Segmentation/train.txt").write_text("\n".join(forms), encoding="utf-8")
    with pytest.raises(DataError, match="which are one image; remove one"):
        read(folder)


@pytest.mark.parametrize(
    ("text", "right"),
    [("IMG 1", True), ("img_jpg.rf.0a1b", True), ("a.b (2)", True), ("été", True), ("a.JPG", False), ("a.xml", False),
     (".a", False), ("a.", False), ("..", False), ("a/b", False), ("a\\b", False), ("2007_000027  1", False),
     ("a\tb", False), ("a\0", False), ("é" * 121, False), ("", False)],
)  # fmt: skip
def test_an_id_is_a_file_name_without_ending(text, right):
    assert is_id(text) == right


def test_a_list_in_one_line_is_told_so(make):
    folder = make("cat")
    (folder / "ImageSets/Segmentation/train.txt").write_text("2030_" * 100)
    with pytest.raises(DataError, match=r"holds '2030_.{35}'… \(id 1\), 500 bytes long; .*: write one id per line"):
        read(folder)


def test_lists_of_data_without_masks_lie_in_main(make):
    folder = make("cat", masks=False)
    (folder / "ImageSets/Segmentation").rename(folder / "ImageSets/Main")
    dataset = read(folder)
    assert dataset.ids("val") == IDS[3:] and not dataset.has_masks
    assert "no masks: nothing can be measured" in check(dataset, ["train", "val"])[0]


def test_another_devkit_is_named(make):
    folder = make("cat")
    folder.rename(folder.with_name("VOC2007"))
    with pytest.raises(DataError, match=r"no VOC data set in .*data_root; .*VOC2007 has one"):
        VOC(folder.parents[1])
    assert VOC(folder.with_name("VOC2007")).ids("val") == IDS[3:]


# ── A test list: neither annotations nor masks ────────────────────────────────────────────────────────────────────
def test_images_of_a_test_list_can_be_read_and_have_no_labels(make):
    folder = make("cat")
    (folder / "ImageSets/Segmentation/test.txt").write_text("\n".join(IDS[4:]))
    (folder / "ImageSets/Segmentation/val.txt").write_text(IDS[3])
    for image_id in IDS[4:]:
        (folder / f"Annotations/{image_id}.xml").unlink()
        (folder / f"SegmentationClass/{image_id}.png").unlink()
    dataset = read(folder)
    assert dataset.ids("test") == IDS[4:] and dataset.image(IDS[5]).shape == (30, 40, 3)
    assert (dataset.mask_or_void(IDS[5]) == 255).all()
    with pytest.raises(DataError, match=rf"{IDS[5]}\.xml does not exist; .*without labels it can be predicted"):
        dataset.labels(IDS[5])


# ── The fingerprint ───────────────────────────────────────────────────────────────────────────────────────────────
def test_linked_folders_are_in_the_fingerprint(make, tmp_path):
    folder = make("cat")
    before = open_dataset("voc12", folder).fingerprint()
    elsewhere = tmp_path / "elsewhere"
    (folder / "JPEGImages").rename(elsewhere)
    (folder / "JPEGImages").symlink_to(elsewhere)
    assert open_dataset("voc12", folder).fingerprint() == before, "the folder itself may be a link"
    more = tmp_path / "more"
    more.mkdir()
    (more / "new.jpg").write_bytes(b"1")
    (elsewhere / "more").symlink_to(more)
    (more / "back").symlink_to(elsewhere)  # a circle
    linked = open_dataset("voc12", folder).fingerprint()
    assert linked != before
    (more / "new.jpg").write_bytes(b"12")
    assert open_dataset("voc12", folder).fingerprint() not in (before, linked)


def test_the_fingerprint_is_made_as_it_always_was(make):
    """Keys of finished stages depend on it: classes, annotations, then names and sizes in the order of the paths."""
    folder = make("cat", "dog")
    (folder / "SegmentationClassAug/below").mkdir(parents=True)
    (folder / "SegmentationClassAug/below/a.png").write_bytes(b"abc")
    (folder / "SegmentationClassAug/.hidden").write_bytes(b"abc")
    expected = hashlib.sha256(repr(VOC_CLASSES).encode())
    for path in sorted((folder / "Annotations").glob("*.xml")):
        expected.update(path.name.encode() + path.read_bytes())
    for place in ("JPEGImages", "SegmentationClass", "SegmentationClassAug"):
        for path in sorted(path for path in (folder / place).rglob("[!.]*") if path.is_file()):
            expected.update(f"{place}/{path.name}:{path.stat().st_size}".encode())
    assert open_dataset("voc12", folder).fingerprint() == expected.hexdigest()[:16]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_annotation_without_permission_is_named(make):
    folder = make("cat")
    (folder / f"Annotations/{IDS[0]}.xml").chmod(0)
    with pytest.raises(DataError, match=rf"{IDS[0]}\.xml cannot be read"):
        open_dataset("voc12", folder).fingerprint()


def test_a_copy_for_another_process_has_the_classes(make):
    dataset = pickle.loads(pickle.dumps(read(make("vest", "helmet"))))
    assert dataset.classes == ("helmet", "vest") and shown(dataset)[0] == ["vest"] and dataset.has_masks


# ── What a folder is ──────────────────────────────────────────────────────────────────────────────────────────────
def test_a_folder_of_another_layout_is_told_so(make, tmp_path, capsys):
    assert main(["data", "check", str(make("cat"))]) == 2
    assert "is laid out as voc12, not as folder: give dataset=voc12, or --dataset voc12" in capsys.readouterr().err
    alone = tmp_path / "alone"
    for place, told in (("voc_format", "coco14"), ("images", "")):
        (alone / place).mkdir(parents=True)
        assert main(["data", "check", str(alone)]) == 2
        assert not told or f"--dataset {told}" in capsys.readouterr().err
    with pytest.raises(DataError, match="is laid out as coco14, not as voc12"):
        open_dataset("voc12", alone)
    (alone / "voc_format").rmdir()
    (alone / "labels.csv").write_text("image,labels\n")
    with pytest.raises(DataError, match="is laid out as folder, not as coco14"):
        open_dataset("coco14_80", alone)


@pytest.mark.parametrize("name", ["folder", "voc12", "coco14"])
def test_a_path_that_is_no_folder_is_called_that(name, tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist; give the folder of the data"):
        open_dataset(name, tmp_path / "nowhere")
    (tmp_path / "file.zip").write_bytes(b"x")
    with pytest.raises(DataError, match=r"file\.zip is a file, not a folder"):
        open_dataset(name, tmp_path / "file.zip")
