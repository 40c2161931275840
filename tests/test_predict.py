"""Pictures of one's own with a finished run: one by `weaktr.predict`, many by the command."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import weaktr
from weaktr.__main__ import main
from weaktr.data.images import read_image, read_label_png, read_note, write_label_png
from weaktr.data.transforms import seed_everything
from weaktr.errors import DataError, UserError
from weaktr.method import segmentation
from weaktr.method.segmentation import segment
from weaktr.models.cam import create_cam_model
from weaktr.models.checkpoints import load_model, save_model
from weaktr.models.segmenter import create_segmenter
from weaktr.workbench import pictures

BACKBONE = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
INFERENCE = {"scales": [1.0, 1.5], "mirror": True, "base_size": 40, "window": 32, "stride": 24}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run whose step 2 is a random network of four classes."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "04_online_retraining").mkdir()
    seed_everything(0)
    model = create_segmenter(BACKBONE, 5, pretrained=False, image_size=32)
    classes = ["bear", "cat", "owl", "pig"]
    save_model(
        model, folder / "04_online_retraining" / "model.safetensors", classes=classes, inference=INFERENCE, seed=0
    )
    return folder


@pytest.fixture
def photograph(tmp_path):
    """A picture with smooth colours, 45×70 pixels."""
    rows, columns = np.mgrid[0:45, 0:70]
    pixels = np.stack([rows * 5, columns * 3, 255 - rows - columns], 2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "holiday.png")
    return tmp_path / "holiday.png"


def test_mask_has_the_photographs_size_and_names(run_folder, photograph):
    mask, names = weaktr.predict(run_folder, photograph)
    assert mask.shape == (45, 70) and mask.dtype == np.uint8
    assert names == ["background", "bear", "cat", "owl", "pig"] and mask.max() < len(names)


@pytest.mark.parametrize("crf", ["", "voc"])
def test_prediction_is_segment_with_what_the_run_recorded(run_folder, photograph, crf):
    model = load_model(run_folder / "04_online_retraining" / "model.safetensors")
    expected = segment(model, read_image(photograph), crf=crf, **INFERENCE).argmax(0)
    mask, _ = weaktr.predict(str(run_folder), str(photograph), crf=crf)
    assert (mask == expected).all() and len(np.unique(mask)) > 1
    with pytest.raises(AssertionError):  # the views matter, so the test would notice others
        assert (mask == segment(model, read_image(photograph), **INFERENCE | {"scales": [2.0]}).argmax(0)).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_any_kind_of_picture(run_folder, tmp_path, photograph, mode):
    Image.open(photograph).convert(mode).save(tmp_path / "other.png")
    assert weaktr.predict(run_folder, tmp_path / "other.png")[0].shape == (45, 70)


def test_a_turned_photograph_is_segmented_upright(run_folder, tmp_path, photograph):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photograph).save(tmp_path / "turned.png", exif=exif)
    assert weaktr.predict(run_folder, tmp_path / "turned.png")[0].shape == (70, 45)


def test_a_run_that_is_not_there(tmp_path, photograph):
    with pytest.raises(UserError, match="nowhere does not exist; give a run's folder, such as papermill_runs/demo, or"):
        weaktr.predict(tmp_path / "nowhere", photograph)
    (tmp_path / "01_cam_training").mkdir()
    with pytest.raises(UserError, match=r"has no 04_online_retraining/model\.safetensors; run its stage 04, or give"):
        weaktr.predict(tmp_path, photograph)


def test_a_truncated_model_and_one_of_step_one(run_folder, tmp_path, photograph):
    (tmp_path / "04_online_retraining").mkdir()
    path = tmp_path / "04_online_retraining" / "model.safetensors"
    path.write_bytes((run_folder / "04_online_retraining" / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(UserError, match="truncated"):
        weaktr.predict(tmp_path, photograph)
    save_model(create_cam_model(BACKBONE, 4, pretrained=False, image_size=32, reduction=2), path, classes=[])
    with pytest.raises(UserError, match="has step 'cam', but 'segmenter' is needed"):
        weaktr.predict(tmp_path, photograph)


def test_masks_of_a_data_set_are_no_pictures(folder, capsys):
    (folder / "masks").mkdir()
    write_label_png(folder / "masks/three.png", np.zeros((20, 32), np.uint8))
    found = pictures.find_pictures([folder], folder / "out")
    assert sorted(picture.name for picture in found) == ["a b/two", "a b/Ünder", "three"]
    assert "masks/ left out, which beside labels.csv holds masks; give it by itself" in capsys.readouterr().out
    assert [picture.name for picture in pictures.find_pictures([folder / "masks"], folder / "out")] == ["three"]
    (folder / "labels.csv").unlink()
    assert len(pictures.find_pictures([folder], folder / "out")) == 4


@pytest.mark.parametrize(
    ("content", "fragment"),
    [(None, "does not exist"), (b"", "cannot be read"), (b"a letter", "cannot be read"), ("half", "truncated")],
)
def test_a_photograph_that_cannot_be_read(run_folder, tmp_path, photograph, content, fragment):
    path = tmp_path / "mine.png"
    if content == "half":
        content = photograph.read_bytes()[: photograph.stat().st_size // 2]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=fragment) as caught:
        weaktr.predict(run_folder, path)
    assert str(path) in str(caught.value)


def test_a_folder_in_place_of_a_photograph(run_folder, tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        weaktr.predict(run_folder, tmp_path)


def test_crf_settings_that_do_not_exist(run_folder, photograph):
    with pytest.raises(UserError, match="'pascal' are unknown; one of voc, coco"):
        weaktr.predict(run_folder, photograph, crf="pascal")


def test_a_device_that_is_not_there(run_folder, photograph):
    with pytest.raises(UserError, match="device 'gpu' is not there; give one of auto, cpu"):
        weaktr.predict(run_folder, photograph, device="gpu")


# ── The command ───────────────────────────────────────────────────────────────────────────────────────────────────
MODEL = "04_online_retraining/model.safetensors"


def draw(path, seed=0, size=(40, 50)):
    """A picture with some structure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    """A folder with three pictures, one of them in a folder of its own, and a text file."""
    folder = tmp_path / "photos"
    for seed, name in enumerate(("one.png", "two.jpg", "more/three.JPEG")):
        draw(folder / name, seed, (40 + seed, 50))
    (folder / "notes.heic").write_text("no picture")
    return folder


@pytest.fixture
def no_network(monkeypatch):
    """Whoever shows an image to the network fails."""

    def fail(*_):
        raise AssertionError("an image went through the network")

    monkeypatch.setattr(segmentation, "segment_on_device", fail)


def another_run(tmp_path, run_folder, **changed):
    """A copy of the run whose checkpoint says something else of itself."""
    copy = tmp_path / "another"
    shutil.copytree(run_folder, copy)
    model = load_model(copy / MODEL)
    save_model(model, copy / MODEL, **model.details | changed)
    return copy


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_keeps_its_folders_and_masks_are_those_of_predict(run_folder, photos, tmp_path, capsys):
    out = tmp_path / "masks"
    assert main(["predict", str(run_folder), str(photos), "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert files(out) == ["more/three.png", "one.png", "two.png"]
    assert (
        "3 pictures, 0 with their masks already, on " in printed
        and "photos: notes.heic left out, pictures end in" in printed
    )
    assert "3 masks made, 0 were there. Their values: 0 background, 1 bear, 2 cat, 3 owl, 4 pig" in printed
    for picture, mask in (("one.png", "one.png"), ("more/three.JPEG", "more/three.png")):
        assert (read_label_png(out / mask) == weaktr.predict(run_folder, photos / picture)[0]).all()
    with Image.open(out / "two.png") as image:
        assert image.mode == "P" and image.getpalette()[3:6] == [128, 0, 0]


def test_a_checkpoint_and_the_crf(run_folder, photos, tmp_path):
    arguments = [str(run_folder / MODEL), str(photos / "one.png"), "--crf", "voc"]
    assert main(["predict", *arguments, "--output", str(tmp_path / "masks")]) == 0
    expected = weaktr.predict(run_folder, photos / "one.png", crf="voc")[0]
    assert (read_label_png(tmp_path / "masks/one.png") == expected).all()
    assert (expected != weaktr.predict(run_folder, photos / "one.png")[0]).any(), "the test would notice no CRF"


def test_what_is_there_stays_and_the_rest_is_made(run_folder, photos, tmp_path, capsys, monkeypatch):
    out = tmp_path / "masks"
    command = ["predict", str(run_folder), str(photos), "--output", str(out)]
    main(command)
    (out / "one.png").unlink()
    before = (out / "two.png").stat().st_mtime_ns
    assert main(command) == 0
    assert "1 mask made, 2 were there" in capsys.readouterr().out
    assert (out / "two.png").stat().st_mtime_ns == before and len(files(out)) == 3


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("network", "was made with another network"),
        ("names", "another network and another class names"),
        ("crf", "was made with another CRF"),
        ("picture", "was made with another picture"),
        ("foreign", "`weaktr predict` did not make it, or it is damaged"),
        ("damaged", "`weaktr predict` did not make it, or it is damaged"),
    ],
)
def test_masks_of_something_else_are_not_taken(
    run_folder, photos, tmp_path, capsys, no_network, monkeypatch, case, words
):
    out, more = tmp_path / "masks", []
    with monkeypatch.context() as real:
        real.setattr(segmentation, "segment_on_device", lambda model, image, *_: torch.rand(5, *image.shape[:2]))
        main(["predict", str(run_folder), str(photos / "one.png"), "--output", str(out)])
    if case == "network":
        run_folder = another_run(tmp_path, run_folder, seed=1)
    elif case == "names":
        run_folder = another_run(tmp_path, run_folder, classes=["a", "b", "c", "d"])
    elif case == "crf":
        more = ["--crf", "voc"]
    elif case == "picture":
        draw(photos / "one.png", seed=7)
    elif case == "foreign":
        write_label_png(out / "one.png", np.zeros((50, 40)))
    else:
        (out / "one.png").write_bytes(b"")
    before = (out / "one.png").read_bytes()
    assert main(["predict", str(run_folder), str(photos), "--output", str(out), *more]) == 2
    error = capsys.readouterr().err
    assert words in error and str(out / "one.png") in error and "--output" in error
    assert files(out) == ["one.png"] and (out / "one.png").read_bytes() == before


def test_a_broken_picture_is_named_and_the_others_go_on(run_folder, photos, tmp_path, capsys):
    out, broken = tmp_path / "masks", photos / "one.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    command = ["predict", str(run_folder), str(photos), "--output", str(out)]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert f"left out: {broken} cannot be read as an image" in printed.out and "2 masks made" in printed.out
    assert "1 of 3 pictures were left out, named above" in printed.err and files(out) == ["more/three.png", "two.png"]
    broken.write_bytes(whole)
    assert main(command) == 0 and "1 mask made, 2 were there" in capsys.readouterr().out


def test_two_pictures_of_one_name(run_folder, tmp_path, capsys, no_network):
    first, second = draw(tmp_path / "p/a/x.png"), draw(tmp_path / "p/b/x.jpg", seed=1)
    command = ["predict", str(run_folder), "--output", str(tmp_path / "masks")]
    assert main([*command[:2], str(first), str(second), *command[2:]]) == 2
    error = capsys.readouterr().err
    assert f"{first} and {second} would both have the mask" in error and not (tmp_path / "masks").exists()
    found = pictures.find_pictures([tmp_path / "p", first], tmp_path / "masks")
    assert [picture.name for picture in found] == ["a/x", "b/x"], "and a picture that is named twice is one"


def test_overlays_lie_apart_and_can_be_made_later(run_folder, photos, tmp_path, monkeypatch):
    out = tmp_path / "masks"
    command = ["predict", str(run_folder), str(photos), "--output", str(out)]
    main(command)
    monkeypatch.setattr(pictures, "segment_to_files", None)
    assert main([*command, "--overlays"]) == 0
    drawn = [f"overlays/{name}.jpg" for name in ("more/three", "one", "two")]
    assert files(out) == ["more/three.png", "one.png", *drawn, "two.png"]
    image, mask = read_image(photos / "one.png"), read_label_png(out / "one.png")
    difference = np.abs(read_image(out / "overlays/one.jpg").astype(int) - image).mean(2)
    assert difference[mask == 0].sum() <= 8 * (mask == 0).sum() and difference[mask > 0].mean() > 8


def test_masks_never_become_pictures(run_folder, photos, tmp_path, capsys):
    """Neither those of a call before, in the folder that is read, nor in place of a picture."""
    command = ["predict", str(run_folder), str(photos)]
    inside = [*command, "--output", str(photos / "masks")]
    assert main(inside) == 0 and main(inside) == 0
    assert files(photos / "masks") == ["more/three.png", "one.png", "two.png"]
    before = files(photos)
    for given in (photos, photos / "more"):
        assert main(["predict", str(run_folder), str(given), "--output", str(photos)]) == 2
        assert "is to be read, and lies in --output" in capsys.readouterr().err
    assert main(["predict", str(run_folder), str(photos / "one.png"), "--output", str(photos)]) == 2
    assert "would replace the picture" in capsys.readouterr().err and files(photos) == before


def test_a_list_of_pictures(run_folder, photos, tmp_path, monkeypatch):
    """Paths start where the person stands, or at the list; blank lines and the mark of UTF-8 are nothing."""
    (photos / "list.txt").write_text("\ufeffone.png\n\n  photos/more/three.JPEG \n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(run_folder), "photos/list.txt", "--output", "masks"]) == 0
    assert files(tmp_path / "masks") == ["one.png", "three.png"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("one.png\n2008_000001\n", "line 2: no file '2008_000001', seen from here or from the list's folder; write"),
        ("twice.png\n", "Write the whole path"),
        ("\n", "is empty"),
        ("öne.png".encode("latin-1"), "cannot be read"),
        ("more", "no file 'more'"),
    ],
)
def test_a_list_that_cannot_be_used(run_folder, photos, tmp_path, monkeypatch, capsys, no_network, content, words):
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "twice.png"), draw(photos / "twice.png", seed=1)
    path = photos / "list.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["predict", str(run_folder), str(path), "--output", "masks"]) == 2
    error = capsys.readouterr().err
    assert words in error and str(path) in error and not (tmp_path / "masks").exists()


def bad_input(run_folder, photos, tmp_path):
    """{case: (arguments before --output, words)}."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/readme.md").write_text("none")
    cam = tmp_path / "cam.safetensors"
    save_model(create_cam_model(BACKBONE, 4, pretrained=False, image_size=32, reduction=2), cam, classes=[])
    silent = tmp_path / "silent.safetensors"
    save_model(load_model(run_folder / MODEL), silent, classes=["a", "b", "c", "d"])
    released = tmp_path / "WeakTr.pth"
    torch.save({"a": torch.zeros(2)}, released)
    long_name = draw(tmp_path / f"{'n' * 240}.png")
    return {
        "missing picture": ([run_folder, photos, tmp_path / "none.jpg"], "none.jpg does not exist"),
        "empty folder": ([run_folder, tmp_path / "empty"], "empty holds no picture; pictures in a folder end in .bmp"),
        "no pictures": ([run_folder, tmp_path / "texts"], "texts holds no picture, but readme.md"),
        "step 1": ([cam, photos], "has step 'cam', but 'segmenter' is needed"),
        "no inference": ([silent, photos], "silent.safetensors does not say at which size"),
        "released": ([released, photos], "WeakTr.pth was not written by weaktr; `weaktr import`"),
        "no run": ([tmp_path / "nowhere", photos], "nowhere does not exist; give a run's folder"),
        "no checkpoint": ([tmp_path / "none.safetensors", photos], "none.safetensors does not exist"),
        "nothing": ([run_folder], "give pictures, folders and .txt files, or --dataset and --list"),
        "both": ([run_folder, photos, "--list", "val"], "in place of them"),
        "no list": ([run_folder, "--dataset", "folder"], "in place of them"),
        "long name": ([run_folder, long_name], "is longer than 230 bytes"),
        "device": ([run_folder, photos, "--device", "gpu"], "device 'gpu' is not there"),
    }


def test_bad_input_of_the_command(run_folder, photos, tmp_path, capsys, no_network):
    for case, (arguments, words) in bad_input(run_folder, photos, tmp_path).items():
        assert main(["predict", *map(str, arguments), "--output", str(tmp_path / "masks")]) == 2, case
        assert words in capsys.readouterr().err, case
        assert not (tmp_path / "masks").exists() or not files(tmp_path / "masks"), case


def test_a_file_in_place_of_the_output(run_folder, photos, tmp_path, capsys, no_network):
    (tmp_path / "masks").write_text("mine")
    assert main(["predict", str(run_folder), str(photos), "--output", str(tmp_path / "masks")]) == 2
    assert f"{tmp_path / 'masks'} cannot be written" in capsys.readouterr().err
    assert (tmp_path / "masks").read_text() == "mine"


def test_a_full_disk_loses_nothing(run_folder, photos, tmp_path, capsys, monkeypatch):
    out, made = tmp_path / "masks", []
    command = ["predict", str(run_folder), str(photos), "--output", str(out)]

    def write(path, *rest):
        if made:
            raise OSError(28, "No space left on device")
        made.append(path)
        write_label_png(path, *rest)

    with monkeypatch.context() as full:
        full.setattr(segmentation, "write_label_png", write)
        assert main(command) == 2
    error = capsys.readouterr().err
    assert f"{out} cannot be written" in error and "No space left" in error and "make room" in error
    assert len(files(out)) == 1
    assert main(command) == 0 and "2 masks made, 1 were there" in capsys.readouterr().out


def test_a_picture_that_no_memory_takes(run_folder, photos, tmp_path, capsys, monkeypatch):
    free = 4 * 4 * 5 * 50 * 41  # bytes for five classes of the smaller pictures
    monkeypatch.setattr(pictures.psutil, "virtual_memory", lambda: type("Memory", (), {"available": free}))
    assert main(["predict", str(run_folder), str(photos), "--output", str(tmp_path / "masks"), "--device", "cpu"]) == 1
    assert "three.JPEG is 42×50 pixels: its scores of 5 classes take" in capsys.readouterr().out
    assert files(tmp_path / "masks") == ["one.png", "two.png"]


def test_a_list_without_annotations_and_masks(run_folder, voc_copy, tmp_path):
    """VOC's test list: nothing but pictures."""
    folder = voc_copy / "VOCdevkit/VOC2012"
    shutil.rmtree(folder / "Annotations"), shutil.rmtree(folder / "SegmentationClass")
    ids = (
        (folder / "ImageSets/Segmentation/val.txt")
        .rename(folder / "ImageSets/Segmentation/test.txt")
        .read_text()
        .split()
    )
    of_list = ["--dataset", "voc12", "--data-root", str(voc_copy), "--list", "test"]
    assert main(["predict", str(run_folder), *of_list, "--output", str(tmp_path / "masks")]) == 0
    assert files(tmp_path / "masks") == sorted(f"{image_id}.png" for image_id in ids)
    note = read_note(tmp_path / "masks" / f"{ids[0]}.png")
    assert note["classes"] == ["background", "bear", "cat", "owl", "pig"] and note["inference"] == INFERENCE


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_used_where_there_is_one(run_folder, photos, tmp_path, capsys):
    assert main(["predict", str(run_folder), str(photos), "--output", str(tmp_path / "masks")]) == 0
    assert "on cuda" in capsys.readouterr().out
