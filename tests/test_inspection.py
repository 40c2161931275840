"""Data read in another sense than it was meant: noticed by `weaktr data check` and before a run, refused or named.

`KINDS` is the table: kind → how a folder of photographs is made, the words that are said, and what comes of a run.
"""

import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from weaktr.data import inspection, open_dataset, report
from weaktr.data.images import palette, pixels_by_value, read_image, read_label_png, read_picture, write_label_png
from weaktr.data.spelling import Files, plain, several
from weaktr.errors import DataError, UserError
from weaktr.workbench import checks, needs, presets
from weaktr.workbench.parameters import catalogue, check_parameters

SIZE = (40, 32)  # width and height
BOX = (8, 6, 30, 24)


def picture(seed, deep=0):
    """A noisy RGB picture; a grey one of 16 bits that uses `deep` of them."""
    rng = np.random.default_rng(seed)
    if deep:
        return Image.fromarray(rng.integers(0, 2**deep, SIZE[::-1]).astype(np.uint16))
    return Image.fromarray(rng.integers(60, 200, (*SIZE[::-1], 3)).astype(np.uint8))


def drawn(value):
    """A mask (H,W) with an ellipse of a value."""
    mask = Image.new("L", SIZE)
    ImageDraw.Draw(mask).ellipse(BOX, fill=value)
    return np.array(mask)


def own(labels, classes=("cat", "dog")):
    """The mask that fits the first of an image's labels."""
    return drawn(classes.index(labels[0]) + 1 if labels else 0)


def grey(path, mask):
    Image.fromarray(mask).save(path)


def folder(root, cells, mask=None, save=grey, name="a{:02}.png", **how):
    """A folder of photographs: one for each cell of labels, the last third of them val.

    mask: function of an image's labels → (H,W), None for none. save: how it is written.
    """
    rows = ["image,labels,split"]
    for number, cell in enumerate(cells):
        path = root / name.format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, **how).save(path)
        rows.append(f'{path.relative_to(root)},"{cell}",{"val" if 3 * number >= 2 * len(cells) else "train"}')
        if mask:
            place = (root / "masks" / path.relative_to(root)).with_suffix(".png")
            place.parent.mkdir(parents=True, exist_ok=True)
            save(place, mask([label for label in cell.split(";") if label]))
    (root / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


BOTH = ["cat", "dog", "cat", "dog", "", "cat", "dog", "cat", "dog"]
CATS = ["cat", "", "cat", "", "cat", "cat", "", "cat", ""]


def of_cats(labels):
    return drawn(int(bool(labels)))


# ── Ways in which masks, pictures and tables are brought ──────────────────────────────────────────────────────────
def one_bit(path, mask):
    Image.fromarray(mask > 0).save(path)


def four_bits(path, mask):
    """A grey PNG of four bits, which PIL cannot write."""
    write_png(path, mask, bits=4)


def write_png(path, values, bits, colour=0):
    """A PNG of `bits` bits a channel: colour 0 grey, 2 RGB."""
    import struct
    import zlib

    values = np.asarray(values)
    height, width = values.shape[:2]
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in values]
    else:
        each = 8 // bits
        padded = np.pad(values, ((0, 0), (0, -width % each)))
        shifts = [8 - bits * (place + 1) for place in range(each)]
        packed = sum(padded[:, place::each].astype(int) << shift for place, shift in enumerate(shifts))
        lines = [row.astype(np.uint8).tobytes() for row in packed]

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + line for line in lines))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", content) + chunk(b"IEND", b""))


def sixteen_bits(path, mask):
    write_png(path, mask, bits=16)


def rgb_grey(path, mask):
    Image.fromarray(np.repeat(mask[..., None], 3, 2)).save(path)


def optimised(path, mask):
    """With VOC's colours and values of the colours' own order, as a program writes them."""
    colours = np.reshape(palette(), (256, 3))[mask]
    used, places = np.unique(colours.reshape(-1, 3), axis=0, return_inverse=True)
    image = Image.fromarray(places.reshape(mask.shape).astype(np.uint8)[:, :])
    image = Image.fromarray(len(used) - 1 - np.asarray(image))
    image.putpalette(used[::-1].astype(np.uint8).ravel().tolist())
    image.save(path)


def own_colours(path, mask):
    """A palette of one's own, the same in each file."""
    image = Image.fromarray(mask)
    image.putpalette([10, 20, 30, 200, 100, 50, 50, 100, 200, 250, 250, 0])
    image.save(path)


def other_colours_each(path, mask):
    """A palette that differs from file to file."""
    image = Image.fromarray(mask)
    image.putpalette(np.random.default_rng(len(path.stem) + int(path.stem[1:])).integers(0, 255, 9).tolist())
    image.save(path)


def renamed(pattern):
    """Masks of other names than their images'."""

    def make(root):
        folder(root, CATS, of_cats)
        for path in sorted((root / "masks").iterdir()):
            path.rename(path.with_name(pattern.format(path.stem)))

    return make


def turned(orientation):
    """Pictures with an EXIF note, and masks drawn on the pixels as they are stored."""

    def make(root):
        folder(root, CATS, of_cats, name="a{:02}.jpg")
        for path in root.glob("*.jpg"):
            note = Image.Exif()
            note[0x0112] = orientation
            Image.open(path).save(path, exif=note)

    return make


def drawn_for(*names, cells=BOTH, **more):
    """Masks numbered by another order of the classes."""
    return lambda root: folder(root, cells, lambda labels: own(labels, names), **more)


def only_val(root):
    folder(root, CATS, of_cats)
    for number in range(6):
        (root / f"masks/a{number:02}.png").unlink()


def with_classes(text, cells=BOTH, **more):
    def make(root):
        folder(root, cells, **more)
        (root / "classes.txt").write_text(text, encoding="utf-8")

    return make


def plain_folder(*cells, mask=None, **how):
    return lambda root: folder(root, list(cells), mask, **how)


def dark_colours(root):
    folder(root, CATS)
    for number, path in enumerate(sorted(root.glob("*.png"))):
        pixels = np.random.default_rng(number).integers(0, 2**12, (*SIZE[::-1], 3))
        write_png(path, pixels, bits=16, colour=2)


NOTHING, TOLD, REFUSED = "nothing", "told", "refused"
KINDS = {
    # masks
    "good masks": (plain_folder(*BOTH, mask=own), [], NOTHING),
    "good masks of one class": (plain_folder(*CATS, mask=of_cats), [], NOTHING),
    "good masks in VOC's palette": (plain_folder(*BOTH, mask=own, save=write_label_png), [], NOTHING),
    "0 and 255 for one class": (
        plain_folder(*CATS, mask=lambda labels: drawn(255 if labels else 0)),
        ["a00.png holds 0 and 255 alone; 255 is void", "write 1 where cat is"], REFUSED),
    "0 and 255 for two classes": (
        plain_folder(*BOTH, mask=lambda labels: drawn(255 if labels else 0)), ["write c for class c from 1"], REFUSED),
    "background alone": (plain_folder(*CATS, mask=lambda labels: drawn(0)), ["holds 0 alone; 0 is back"], REFUSED),
    "classes in another order": (
        drawn_for("dog", "cat"),
        ["4 of 4 images of cat have no pixel of value 1", "4 have 2 (dog)", "0 background, 1 cat, 2 dog"], REFUSED),
    "numbered from 0": (
        plain_folder(*BOTH, mask=lambda labels: drawn(int(labels == ["dog"]))), ["of cat have no pixel"], REFUSED),
    "a class that the label lacks": (
        plain_folder(*BOTH, mask=lambda labels: drawn(1 if labels in (["cat"], []) else 2)),
        ["1 class in the mask that the label lacks", "a04: cat"], TOLD),
    "one bit": (plain_folder(*CATS, mask=of_cats, save=one_bit), [], NOTHING),
    "four bits": (plain_folder(*BOTH, mask=own, save=four_bits), [], NOTHING),
    "sixteen bits": (plain_folder(*BOTH, mask=own, save=sixteen_bits), [], NOTHING),
    "grey in three channels": (plain_folder(*BOTH, mask=own, save=rgb_grey), [], NOTHING),
    "colours renumbered, two classes": (
        plain_folder(*BOTH, mask=own, save=optimised),
        ["masks whose colours, not their values", "a00.png: value 0 is (128, 0, 0)", "renumbered"], REFUSED),
    "colours renumbered, one class": (
        plain_folder(*CATS, mask=of_cats, save=optimised), ["a00.png: value 0 is (128, 0, 0)", "renumbered"], REFUSED),
    "another palette in each file": (
        plain_folder(*BOTH, mask=own, save=other_colours_each), ["value 0 is (", "renumbered"], REFUSED),
    "a palette of one's own": (
        plain_folder(*BOTH, mask=own, save=own_colours), ["masks whose colours are neither VOC's nor grey"], NOTHING),
    "masks with a suffix": (
        renamed("{}_mask.png"), ["a00_mask.png fits no image; for a00.png call it", "masks/a00.png"], REFUSED),
    "masks with a prefix": (renamed("mask-{}.png"), ["mask-a00.png fits no image"], REFUSED),
    "masks with the image's ending": (renamed("{}.png.png"), ["a00.png.png fits no image"], REFUSED),
    "masks that are no PNG": (renamed("{}.bmp"), ["a00.bmp fits no image", "save it as PNG"], REFUSED),
    "masks of other images": (renamed("x{}y.png"), ["without an image of labels.csv, such as"], TOLD),
    "masks in capital letters": (renamed("{}.PNG"), [], NOTHING),
    "masks for val only": (only_val, ["train: none of its images has a mask", "is not measured"], TOLD),
    "EXIF turn by a quarter": (turned(6), ["is 40×32 pixels, its image 32×40", "EXIF note"], REFUSED),
    "EXIF turn by half": (turned(3), ["images with masks that their EXIF note turns or mirrors", "a00.jpg"], TOLD),
    "EXIF mirror": (turned(2), ["EXIF note turns or mirrors"], TOLD),
    # pictures
    "twelve bits": (plain_folder(*CATS, deep=12), ["pictures of more than eight bits", "4095 is read as white"], TOLD),
    "twelve bits of colour": (dark_colours, ["has 16 bits a colour, of which 14 or fewer are used"], REFUSED),
    "a long name": (
        lambda root: folder(root, CATS, name="a" * 60 + "/" + "b" * 60 + "/" + "c" * 60 + "/" + "d" * 60 + "{}.png"),
        ["255 are the most", "shorten its name"], REFUSED),
    # labels
    "labels by spaces": (plain_folder("cat", "dog", "cat dog"), ["line 4", "'cat' and 'dog'", "by `;`"], REFUSED),
    "labels by commas": (plain_folder("cat", "dog", "cat,dog"), ["'cat,dog' is made of 'cat' and 'dog'"], REFUSED),
    "labels by strokes": (plain_folder("cat", "dog", "cat | dog"), ["made of 'cat' and 'dog'"], REFUSED),
    "labels by and": (plain_folder("cat", "dog", "cat and dog"), ["made of 'cat' and 'dog'"], REFUSED),
    "labels as a list": (plain_folder("cat", "dog", "['cat', 'dog']"), ["made of 'cat' and 'dog'"], REFUSED),
    "labels by commas alone": (
        plain_folder("cat,dog", "dog,bird", "cat,dog"), ["classes whose name looks like several", "'cat,dog'"], TOLD),
    "a class of two words": (plain_folder("hot dog", "dog", "hot dog"), [], NOTHING),
    "a class that classes.txt names": (with_classes("cat\ndog\ncat dog\n", ["cat", "dog", "cat dog"]), [], NOTHING),
    "background as a label": (plain_folder("cat", "background"), ["line 3: 'background' is no class"], REFUSED),
    "a tool's background": (plain_folder("cat", "_background_"), ["'_background_' is no class"], REFUSED),
    "unlabeled": (plain_folder("cat", "cat;Unlabeled"), ["'Unlabeled' is no class"], REFUSED),
    "background before the classes": (with_classes("__ignore__\n_background_\ncat\ndog\n", mask=own), [], NOTHING),
    "background among the classes": (with_classes("cat\nvoid\ndog\n"), ["classes.txt names 'void'"], REFUSED),
    "0 as a label": (plain_folder("1", "0", "1"), ["'0' is read as a class"], TOLD),
    "twins by case": (plain_folder("cat", "Cat", "cat"), ["both 'Cat' and 'cat', which are one class"], REFUSED),
    "twins by spaces": (plain_folder("red fox", "red  fox", "red_fox"), ["which are one class"], REFUSED),
    "twins by Unicode form": (
        plain_folder("é", unicodedata.normalize("NFD", "é")), ["which are one class"], REFUSED),
    "another case than in classes.txt": (with_classes("Cat\nDog\n", mask=own), [], NOTHING),
    "300 classes": (plain_folder(*(f"c{number}" for number in range(300))), ["300 classes", "254 at most"], REFUSED),
    # lists
    "one image in a list": (plain_folder("cat", "", "cat"), ["val: it is one image"], TOLD),
    "every image shows the class": (plain_folder("cat", "cat", "cat"), ["train: every image of it shows cat"], TOLD),
    "a class that train lacks": (plain_folder(*["cat", ""] * 3, "dog", "cat"), ["train: no image of it shows d"], TOLD),
    "a list without an object": (plain_folder("cat", "", "", ""), ["val: no image of it shows a class"], TOLD),
}  # fmt: skip


def values(root, **more):
    lists = {"train_list": "train", "eval_list": "train", "val_list": "val"}
    return {"dataset": "folder", "data_root": str(root)} | lists | more


def the_report(root):
    """What `weaktr data check` prints, and the number of faults."""
    return report.check(open_dataset("folder", str(root)), ["train", "val"])


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_noticed_by_the_check_of_the_data(kind, tmp_path):
    make, words, outcome = KINDS[kind]
    make(tmp_path)
    try:
        text, faults = the_report(tmp_path)
    except DataError as error:
        text, faults = str(error), 1
    for word in words:
        assert word in text
    if outcome == REFUSED:
        assert faults
    if outcome == NOTHING:
        assert not faults and "no fault found" in text


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_refused_or_told_before_a_run(kind, tmp_path, capsys):
    make, words, outcome = KINDS[kind]
    make(tmp_path)
    if outcome == REFUSED:
        with pytest.raises(DataError) as caught:
            checks.check_data(values(tmp_path))
        assert words[-1] in str(caught.value) or words[0] in str(caught.value)
        return
    checks.check_data(values(tmp_path))
    said = capsys.readouterr().out
    if outcome == TOLD:
        line = next(line for line in said.splitlines() if line.startswith("data · "))
        assert f"`weaktr data check {tmp_path} --dataset folder --lists train val` says more" in line
    else:
        assert "EXIF" not in said and "mask" not in said and "label" not in said


def test_a_remedy_is_told_once(tmp_path):
    KINDS["0 and 255 for one class"][0](tmp_path)
    text, _ = the_report(tmp_path)
    assert text.count("255 is void") == 1 and text.count("holds 0 and 255 alone") == 5


def test_a_run_names_how_many_more_there_are(tmp_path):
    KINDS["0 and 255 for one class"][0](tmp_path)
    with pytest.raises(
        DataError, match=r"\(and 4 more masks without any class, .*; `weaktr data check .*` names them\)"
    ):
        checks.check_data(values(tmp_path))


def test_nothing_readable_is_said_in_a_sentence(tmp_path):
    folder(tmp_path, CATS)
    for path in tmp_path.glob("*.png"):
        path.write_bytes(b"")
    text, faults = the_report(tmp_path)
    assert "no image could be read, so nothing was counted" in text and "DataFrame" not in text and faults == 9


def test_no_class_in_any_list_is_said_in_a_sentence(tmp_path):
    with_classes("cat\n", ["", "", ""])(tmp_path)
    text, _ = the_report(tmp_path)
    assert "no image shows a class; the classes are cat" in text and "DataFrame" not in text


def test_an_image_without_an_object_is_no_fault(tmp_path):
    folder(tmp_path, CATS, of_cats)
    text, faults = the_report(tmp_path)
    assert "4 images without a label:\n  a01" in text and faults == 0


def test_a_few_pixels_of_a_class_are_a_remark(tmp_path):
    def with_a_rest(labels):
        mask = own(labels)
        mask[0, :3] = 2 if labels == ["cat"] else mask[0, :3]
        return mask

    folder(tmp_path, BOTH, with_a_rest)
    text, faults = the_report(tmp_path)
    assert "4 classes of a few pixels in the mask that the label lacks:\n  a00: dog" in text and faults == 0


def test_unannotated_masks_are_no_evidence(tmp_path):
    """Masks that are void all over, as a tool writes them for images that nobody has drawn."""
    folder(tmp_path, CATS, lambda labels: np.full(SIZE[::-1], 255, np.uint8))
    assert the_report(tmp_path)[1] == 0


# ── Values as they are stored ─────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_masks_are_read_by_their_stored_values(bits, tmp_path):
    mask = np.random.default_rng(bits).integers(0, min(2**bits, 12), (20, 31))
    write_png(tmp_path / "mask.png", mask, bits)
    found = read_label_png(tmp_path / "mask.png", 12)
    assert found.dtype == np.uint8 and (found == mask).all()


def test_a_mask_of_sixteen_bits_may_not_hold_more_than_eight(tmp_path):
    write_png(tmp_path / "mask.png", np.full((20, 20), 300), 16)
    with pytest.raises(DataError, match="holds the value 300"):
        read_label_png(tmp_path / "mask.png")


def test_values_are_counted_as_numpy_counts_them():
    mask = np.random.default_rng(0).choice(np.array([0, 3, 255], np.uint8), (40, 50))
    found, counts = np.unique(mask, return_counts=True)
    assert pixels_by_value(mask) == dict(zip(found.tolist(), counts.tolist()))
    assert pixels_by_value(np.full((2, 3), 7, np.uint8)) == {7: 6}


# ── Bits of pictures ──────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("bits", "white"), [(8, 255), (10, 1023), (12, 4095), (14, 16383), (16, 65535)])
def test_one_white_for_all_pictures_of_a_folder(bits, white, tmp_path):
    """A dark picture stays dark beside bright ones."""
    folder(tmp_path, CATS, deep=bits)
    dark = (np.arange(np.prod(SIZE)).reshape(SIZE[::-1]) % 200).astype(np.uint16)
    Image.fromarray(dark).save(tmp_path / "a00.png")
    data = open_dataset("folder", str(tmp_path))
    assert (data.image("a00")[..., 0] == (dark / (white / 255)).astype(np.uint8)).all()
    bright = np.asarray(Image.open(tmp_path / "a01.png"))
    assert (data.image("a01")[..., 1] == (bright / (white / 255)).astype(np.uint8)).all()


def test_a_picture_brighter_than_the_others_is_named(tmp_path, monkeypatch):
    folder(tmp_path, CATS, deep=12)
    monkeypatch.setattr("weaktr.data.dataset.DEEP_SAMPLE", 3)
    Image.fromarray(np.full(SIZE[::-1], 9000, np.uint16)).save(tmp_path / "a01.png")
    text, faults = the_report(tmp_path)
    assert "1 picture brighter than white:" in text and "a01.png holds 9000" in text and faults == 1


def test_fractions_are_scaled(tmp_path):
    grey = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    Image.fromarray(grey).save(tmp_path / "a.tif")
    assert (read_image(tmp_path / "a.tif")[..., 0] == (grey.astype(float) * 255).astype(np.uint8)).all()


# ── Names ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("there", "named"),
    [
        ("IMG_1.JPG", "IMG_1.jpg"),
        ("img_1.jpg", "IMG_1.jpg"),
        (unicodedata.normalize("NFD", "été/é.jpg"), "été/é.jpg"),
        ("été/é.jpg", unicodedata.normalize("NFD", "été/é.jpg")),
    ],
)
def test_files_are_found_in_another_spelling(there, named, tmp_path):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    picture(1).save(tmp_path / there, format="JPEG")
    (tmp_path / "labels.csv").write_text(f"image,labels\n{named},cat\n", encoding="utf-8")
    data = open_dataset("folder", str(tmp_path))
    assert data.image_path(data.ids("all")[0]) == tmp_path / there
    assert data.image(data.ids("all")[0]).shape == (*SIZE[::-1], 3)


def test_two_spellings_that_are_both_there_are_left_apart(tmp_path):
    for name in ("a.png", "A.png"):
        picture(len(name)).save(tmp_path / name)
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system does not tell them apart")
    files = Files(tmp_path)
    assert files.path("A.png") == tmp_path / "A.png" and files.path("a.png") == tmp_path / "a.png"
    assert files.path("a.PNG") == tmp_path / "a.PNG", "neither is meant for certain"


def test_one_file_under_two_spellings_is_refused(tmp_path):
    picture(1).save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text("image,labels\na.png,cat\nA.PNG,cat\n")
    with pytest.raises(DataError, match=r"line 3: 'A.PNG' is the file of line 2, 'a.png', in another spelling"):
        open_dataset("folder", str(tmp_path))


def test_a_picture_of_another_ending_is_named(tmp_path):
    folder(tmp_path, CATS)
    (tmp_path / "a01.png").rename(tmp_path / "a01.webp")
    with pytest.raises(DataError, match=r"a01.png does not exist, there is a01.webp; check the path"):
        checks.check_data(values(tmp_path))


def test_paths_that_become_one_id_are_told_apart(tmp_path):
    (tmp_path / "labels.csv").write_text("image,labels\na/b.png,cat\na__b.png,cat\n")
    with pytest.raises(DataError, match=r"'a__b.png' and 'a/b.png' of line 2 both become 'a__b'; rename one"):
        open_dataset("folder", str(tmp_path))


def test_splits_that_differ_by_case_are_refused(tmp_path):
    (tmp_path / "labels.csv").write_text("image,labels,split\na.png,cat,train\nb.png,cat,Train\n")
    with pytest.raises(DataError, match="has the splits 'train' and 'Train', which are one"):
        open_dataset("folder", str(tmp_path))


def test_names_are_compared_without_what_tells_none_apart():
    assert plain("  Red_Fox\u200b") == plain("red\u00a0 fox") == "red fox" and plain("fox") != plain("fix")
    assert several(["cat", "dog", "hot dog", "cat/dog"]) == {"cat/dog": ["cat", "dog"]}


def test_a_folder_of_masks_elsewhere_is_named(tmp_path):
    folder(tmp_path, CATS, of_cats)
    (tmp_path / "masks").rename(tmp_path / "SegmentationClass")
    text, faults = the_report(tmp_path)
    assert "SegmentationClass: masks are looked for in" in text and faults == 1


def test_some_masks_of_images_that_the_table_lacks_are_a_remark(tmp_path):
    """A table may name a part of a larger collection."""
    folder(tmp_path, CATS, of_cats)
    grey(tmp_path / "masks/another.png", drawn(1))
    text, faults = the_report(tmp_path)
    assert "1 file below" in text and faults == 0


def test_linked_folders_are_read_and_in_the_fingerprint(tmp_path):
    folder(tmp_path / "real", CATS, of_cats, name="pictures/a{:02}.png")
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("labels.csv", "pictures", "masks"):
        (linked / name).symlink_to(tmp_path / "real" / name)
    one, other = (open_dataset("folder", str(tmp_path / name)).fingerprint() for name in ("real", "linked"))
    assert one == other and the_report(linked)[1] == 0
    Image.fromarray(np.ones((32, 40), np.uint8)).save(tmp_path / "real/masks/pictures/a00.png", compress_level=0)
    assert open_dataset("folder", str(linked)).fingerprint() != one


# ── What a run needs ──────────────────────────────────────────────────────────────────────────────────────────────
DEFAULTS = check_parameters(presets.get("smoke").parameters, catalogue())


@pytest.fixture
def given(tmp_path):
    """The parameters of a run of nine images, and these."""
    folder(tmp_path / "data", CATS, of_cats)
    return DEFAULTS | values(tmp_path / "data") | {"run_folder": str(tmp_path / "run")}


def test_more_images_and_classes_take_more(given):
    images = [inspection.Seen(f"a{n:02}", None, height=500, width=500, labels=frozenset({1})) for n in range(9)]
    small = needs.estimate(given, images, 8)
    assert needs.estimate(given | {"early_weight": 0.8}, images, 8).disk > small.disk
    assert needs.estimate(given | {"cam_scales": [1.0, 2.0]}, images, 8).disk > small.disk
    assert needs.estimate(given | {"cam_batch_size": 64}, images, 8).memory >= small.memory
    large = [inspection.Seen(one.image_id, None, height=5000, width=5000, labels=one.labels) for one in images]
    assert needs.estimate(given, large, 8).memory > 10 * small.memory


def test_a_disk_and_a_memory_that_are_too_small(given, monkeypatch):
    wanted = needs.Needs(disk=10**9, memory=10**9)
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * 10**9))
    monkeypatch.setattr(needs.psutil, "virtual_memory", lambda: SimpleNamespace(total=4 * 10**9))
    given |= {"device": "cpu"}
    said = needs.refuse_what_cannot_fit(wanted, given)
    assert said == "at least 1.0 GB of disk, 2.0 GB are free; at least 1.0 GB of memory, 4.0 GB are there"
    with pytest.raises(UserError, match=r"run: CAMs, masks and checkpoints will take 3.0 GB at least, 2.0 GB are free"):
        needs.refuse_what_cannot_fit(needs.Needs(3 * 10**9, 0), given)
    with pytest.raises(UserError, match=r"takes 5.0 GB of memory at least, 4.0 GB are there; lower cam_batch_size"):
        needs.refuse_what_cannot_fit(needs.Needs(0, 5 * 10**9), given)


def test_what_an_earlier_run_has_written_is_not_counted_twice(given, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/cams.npz").write_bytes(bytes(3000))
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda path: SimpleNamespace(free=500))
    needs.refuse_what_cannot_fit(needs.Needs(3400, 0), given)
    with pytest.raises(UserError, match="free there"):
        needs.refuse_what_cannot_fit(needs.Needs(3600, 0), given)


# ── Pictures of which a part is enough ────────────────────────────────────────────────────────────────────────────
def told(path, coarse):
    """What is known of a picture but its pixels, or why it cannot be read."""
    try:
        return read_picture(path, coarse=coarse)[1:]
    except DataError as error:
        return str(error)


TURN = Image.Exif()
TURN[0x0112] = 6
WAYS_TO_SAVE = {
    "plain": ("RGB", {"format": "JPEG"}),
    "turned": ("RGB", {"format": "JPEG", "exif": TURN}),
    "progressive": ("RGB", {"format": "JPEG", "progressive": True}),
    "grey": ("L", {"format": "JPEG"}),
    "print": ("CMYK", {"format": "JPEG"}),
    "png": ("RGB", {"format": "PNG"}),
}


@pytest.mark.parametrize(("mode", "options"), WAYS_TO_SAVE.values(), ids=WAYS_TO_SAVE)
def test_a_picture_is_found_damaged_from_a_part_of_its_pixels(tmp_path, mode, options):
    path = tmp_path / "picture"
    picture(1).resize((133, 61)).convert(mode).save(path, **options)
    sound, rng = path.read_bytes(), np.random.default_rng(0)
    assert told(path, coarse=True) == told(path, coarse=False) and told(path, coarse=True)[0] in ((61, 133), (133, 61))
    damaged = 0
    for _ in range(20):
        cut = rng.integers(100, len(sound))
        spoilt = bytearray(sound)
        spoilt[cut] ^= 255
        for content in (sound[:cut], bytes(spoilt)):
            path.write_bytes(content)
            assert told(path, coarse=True) == told(path, coarse=False)
            damaged += isinstance(told(path, coarse=True), str)
    assert damaged >= 20
