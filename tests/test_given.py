"""What a run is given instead of making it: trained networks, another fusion for one, labels of another method."""

import json
import shutil

import naive
import numpy as np
import pytest
import torch
from PIL import Image
from test_runs import PARAMETERS, write_notebook

from weaktr.data import open_dataset
from weaktr.data.folder import Folder
from weaktr.data.images import VOID, write_label_png
from weaktr.data.label_folder import check_labels, label_file, label_or_void, read_given_label
from weaktr.data.transforms import CamSamples
from weaktr.errors import DataError, ParameterError, UserError
from weaktr.evaluation.agreement import numbered_otherwise, placed_otherwise, score_labels, without_an_error
from weaktr.method.cam_generation import look
from weaktr.method.cam_training import CamTrainingOptions, train_cam
from weaktr.models import create_cam_model, create_segmenter, load_model, load_trained_cam, load_trained_segmenter
from weaktr.models.checkpoints import save_model
from weaktr.models.released import import_released_cam, import_released_segmenter
from weaktr.progress import Progress
from weaktr.sweeps import file, plan
from weaktr.workbench import keys, open_stage, presets, runner
from weaktr.workbench.checks import check_run
from weaktr.workbench.given import steps_to_train
from weaktr.workbench.parameters import catalogue, check_parameters
from weaktr.workbench.published import as_published

TINY = "weaktr_tiny_patch8_96"
VIT = "vit_tiny_patch16_224"  # 12 blocks of 3 heads, width 192
DEFAULTS = check_parameters(presets.get("smoke").parameters, catalogue())
NAMES = ("cat", "dog", "cow")


# ── Keys and stages ───────────────────────────────────────────────────────────────────────────────────────────────
def test_what_is_not_given_leaves_keys_as_they_were():
    """Runs of before there were these parameters stay finished."""
    old = {"seed": 1, "cam_lr": 0.1}
    new = old | {"trained_cam": "", "trained_segmenter": "", "label_folder": "", "cam_balanced": False}
    new |= {"seg_start": "pretrained"}
    assert keys.stage_key(new, "data", []) == keys.stage_key(old, "data", [])
    assert keys.stage_key(new | {"cam_balanced": True}, "data", []) != keys.stage_key(old, "data", [])


def test_what_is_given_enters_the_key_by_content(tmp_path):
    (tmp_path / "a").mkdir()
    network, label = tmp_path / "net.pth", tmp_path / "a" / "one.png"
    network.write_bytes(b"one")
    label.write_bytes(b"one")
    given = {"trained_cam": str(network)}
    made = {keys.stage_key(given, "", [])}
    assert made == {keys.stage_key({"trained_cam": str(network.rename(tmp_path / "moved.pth"))}, "", [])}
    (tmp_path / "moved.pth").write_bytes(b"other")
    made.add(keys.stage_key({"trained_cam": str(tmp_path / "moved.pth")}, "", []))
    labels = {"label_folder": str(tmp_path / "a")}
    made.add(keys.stage_key(labels, "", []))
    (tmp_path / "a" / "notes.txt").write_text("no label")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert keys.stage_key({"label_folder": str(tmp_path / "b")}, "", []) in made
    label.write_bytes(b"two")
    made.add(keys.stage_key(labels, "", []))
    label.rename(tmp_path / "a" / "two.png")
    made.add(keys.stage_key(labels, "", []))
    assert len(made) == 5


GIVEN_LINES = 'label_folder: str = ""  # labels\ntrained_segmenter: str = ""  # network\n'


@pytest.fixture
def notebooks(tmp_path):
    """01, 04 and 05, which do nothing; the last two may be given labels or a network."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in ("01_cam_training", "04_online_retraining", "05_evaluation"):
        given = "" if name.startswith("01") else GIVEN_LINES
        write_notebook(folder, name, PARAMETERS + given, "stage.finish([])")
    return folder


def test_with_labels_or_a_segmenter_a_run_begins_with_step_2(notebooks, tmp_path):
    declared = catalogue(notebooks)
    for name in ("label_folder", "trained_segmenter"):
        values = check_parameters({name: "theirs"}, declared)
        this = runner.RunFolder(values, tmp_path / "run", declared, None)
        assert this.stages == ["04_online_retraining", "05_evaluation"]
        assert this.inputs("05_evaluation") == ["04_online_retraining"] and not this.inputs("04_online_retraining")
    values = check_parameters({}, declared)
    this = runner.RunFolder(values, tmp_path / "run", declared, None)
    assert this.inputs("05_evaluation") == ["01_cam_training", "04_online_retraining"]


def test_such_a_run_needs_nothing_of_what_comes_before(notebooks, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("weaktr.workbench.stage.NOTEBOOKS", notebooks)
    run, given = tmp_path / "run", {"trained_segmenter": "theirs.pth"}
    for name in ("04_online_retraining", "05_evaluation"):
        values = check_parameters(given | {"run_folder": str(run)}, catalogue(notebooks))
        open_stage(name, values).finish([])
        assert not keys.stale(run / name)
    runner.run(given, run, notebooks=notebooks)
    assert capfd.readouterr().out.count("up to date, skipped") == 2
    (run / "01_cam_training").mkdir()  # of another run in the same folder
    (run / "01_cam_training/metrics.json").write_text("[]")
    runner.run(given, run, notebooks=notebooks)
    assert capfd.readouterr().out.count("up to date, skipped") == 2 and not keys.stale(run / "05_evaluation")
    with pytest.raises(ParameterError, match="01_cam_training: with label_folder or trained_segmenter a run begins"):
        runner.run(given, run, stages=["01", "04"], notebooks=notebooks)


def test_by_hand_it_is_the_same(notebooks, tmp_path, monkeypatch):
    monkeypatch.setattr("weaktr.workbench.stage.NOTEBOOKS", notebooks)
    cell = {"run_folder": str(tmp_path / "run"), "seed": 504, "workers": 2, "label_folder": "", "trained_segmenter": ""}
    stage = open_stage("04_online_retraining", cell | {"trained_segmenter": "a.pth"})
    stage.finish([])
    declared = catalogue(notebooks)
    values = check_parameters({"trained_segmenter": "a.pth"}, declared)
    this = runner.RunFolder(values, tmp_path / "run", declared, None)
    assert this.up_to_date("04_online_retraining")
    with pytest.raises(UserError, match=r"holds a finished stage \(trained_segmenter 'a.pth' → 'b.pth'\)"):
        open_stage("04_online_retraining", cell | {"trained_segmenter": "b.pth"})
    with pytest.raises(ParameterError, match="trained_segmenter and label_folder: a run uses one of them"):
        open_stage("04_online_retraining", cell | {"trained_segmenter": "b.pth", "label_folder": "labels"})


def test_a_sweep_may_compare_labels_of_ours_with_those_of_others(notebooks, tmp_path):
    measure = {"label": "mask", "stage": "05_evaluation", "metric": "mIoU"}
    source = {"variants": {"ours": {}, "theirs": {"label_folder": "labels"}}, "measure": [measure]}
    sweep = file.read_sweep(source, "labels", root=tmp_path / "runs", notebooks=notebooks)
    ours, theirs = plan.plan([sweep], notebooks=notebooks, check=False)
    assert [stage[:2] for stage in ours.stages] == ["01", "04", "05"]
    assert [stage[:2] for stage in theirs.stages] == ["04", "05"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"trained_cam": "a.pth", "label_folder": "b"}, "trained_cam and label_folder: a run uses one of them"),
        ({"label_folder": "b", "oracle_noise": 0.5}, "label_folder: with oracle_noise 0.5 step 2 learns from masks"),
        ({"label_folder": "b", "seg_start": "cam"}, "label_folder: with seg_start=cam step 2 starts from the network"),
        ({"seg_weights": "b", "seg_start": "cam"}, "seg_weights: with seg_start=cam step 2 starts from the network"),
        ({"trained_cam": "nowhere/a.pth"}, "parameter trained_cam: nowhere/a.pth does not exist or is not a file"),
        (
            {"trained_cam": "papermill_runs/none/01_cam_training/a.pth"},
            "; run stage 01 of papermill_runs/none, or give",
        ),
        ({"trained_segmenter": "weaktr"}, "parameter trained_segmenter: weaktr does not exist or is not a file"),
        ({"label_folder": "nowhere/b"}, "parameter label_folder: .*nowhere/b does not exist or is not a folder"),
        ({"label_folder": "README.md"}, "parameter label_folder: .*README.md does not exist or is not a folder"),
        ({"label_folder": "weaktr"}, "parameter label_folder: .*weaktr: 32 of 32 labels cannot be used\n"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_starts(tmp_path, given, words):
    with pytest.raises(UserError, match=words):
        runner.run(presets.get("smoke").parameters | given, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_only_weights_of_steps_that_train_are_fetched():
    all_stages = list(catalogue())
    assert steps_to_train({}, all_stages) == [1, 2] and steps_to_train({}, all_stages[:3]) == [1]
    assert steps_to_train({"trained_cam": "a.pth"}, all_stages) == [2]
    assert steps_to_train({"trained_cam": "a.pth"}, all_stages[:3]) == []
    assert steps_to_train({"label_folder": "a"}, all_stages) == [2]
    assert steps_to_train({"trained_segmenter": "a.pth"}, all_stages) == []


def test_a_given_network_is_not_held_against_the_published_number():
    values = check_parameters(presets.get("voc12_cam").parameters, catalogue())
    assert as_published("voc12_cam", values)
    assert not as_published("voc12_cam", values | {"trained_cam": "WeakTr_CAM.pth"})


# ── Trained networks ──────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files by kind: networks of both steps, ours and in the authors' layout, and what is none."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    ours = create_cam_model(TINY, 3, pretrained=False, image_size=48)
    save_model(ours, folder / "cam.safetensors", classes=NAMES, oracle=False)
    mean = create_cam_model(TINY, 3, pretrained=False, image_size=48, fusion="mean")
    save_model(mean, folder / "mean.safetensors", classes=NAMES, oracle=False)
    segmenter = create_segmenter(TINY, 4, pretrained=False, image_size=48)
    save_model(segmenter, folder / "segmenter.safetensors", classes=NAMES, oracle=False)
    sizes = {"width": 192, "layers": 12, "heads": 3, "patch": 16}
    cam = naive.random_cam_checkpoint(**sizes, reduction=8)
    torch.save({"model": cam}, folder / "cam.pth")
    torch.save(naive.random_segmenter_checkpoint(width=192, layers=12, patch=16), folder / "segmenter.pth")
    torch.save({name: tensor for name, tensor in cam.items() if "fusion" not in name}, folder / "vit.pth")
    (folder / "text.pth").write_text("no checkpoint")
    return folder


def cam_of(file, **more):
    return load_trained_cam(file, NAMES, **({"backbone": TINY, "image_size": 48} | more))


def test_a_network_of_ours_is_read_as_it_is(files):
    model, x = cam_of(files / "cam.safetensors"), torch.randn(1, 3, 48, 48)
    assert torch.equal(model(x).fine_cam, load_model(files / "cam.safetensors")(x).fine_cam)
    assert model.details["oracle"] is False and not model.training


def test_a_released_network_is_read_as_it_is(files):
    """Its normalisation is that of the run's backbone, since the file does not tell, and masks chose its epoch."""
    model, x = cam_of(files / "cam.pth", backbone=VIT), torch.randn(1, 3, 48, 48)
    state = torch.load(files / "cam.pth", weights_only=True)
    assert torch.equal(model(x).fine_cam, import_released_cam(state, num_heads=3)(x).fine_cam)
    assert model.mean == (0.5,) * 3 and model.config["backbone"]["normalise"] == "half"
    assert model.details["oracle"]
    assert cam_of(files / "cam.pth", backbone="deit_tiny_patch16_224").mean[0] == pytest.approx(0.485)
    assert cam_of(files / "cam.pth", backbone=VIT, pool="avg").fusion.pool == "avg"


@pytest.mark.parametrize(
    ("kind", "backbone", "width", "mean"),
    [
        ("vit", VIT, 192, 0.5),
        ("vit", "deit_tiny_patch16_224", 192, 0.485),
        ("dinov2", "vit_small_patch14_dinov2", 384, 0.485),
        ("eva02", "eva02_tiny_patch14_224", 192, 0.481),
    ],
)
def test_released_segmenters_of_every_family_are_read_as_they_are(tmp_path, kind, backbone, width, mean):
    state = naive.random_segmenter_checkpoint(kind, width=width, layers=12, patch=16)
    torch.save(state, tmp_path / "released.pth")
    options = {"backbone": backbone, "image_size": 64, "patch_size": 16}
    model = load_trained_segmenter(tmp_path / "released.pth", NAMES, **options)
    assert model.mean[0] == pytest.approx(mean, abs=1e-3) and model.details["oracle"]
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x), import_released_segmenter(state, num_heads=width // 64)(x))
    with pytest.raises(UserError, match=r"released\.pth"):
        load_trained_segmenter(tmp_path / "released.pth", NAMES, **options | {"backbone": "vit_base_patch16_224"})


@pytest.mark.parametrize(("kind", "backbone"), [("cam.safetensors", TINY), ("cam.pth", VIT)])
@pytest.mark.parametrize("fusion", ["mean", "random", "last-k"])
def test_another_fusion_leaves_all_else_as_it_was(files, tmp_path, kind, backbone, fusion):
    x = torch.randn(2, 3, 48, 48)
    own = cam_of(files / kind, backbone=backbone)
    other = cam_of(files / kind, backbone=backbone, fusion=fusion, last_k=2)
    before, after = own(x), other(x)
    assert torch.equal(before.coarse_cam, after.coarse_cam) and torch.equal(before.cls_logits, after.cls_logits)
    assert not torch.allclose(before.fine_cam, after.fine_cam)
    weights = after.head_weights
    if fusion == "mean":
        assert (weights == 1).all()
    if fusion == "last-k":
        assert (weights[:, :-2] == 0).all() and (weights[:, -2:] == own.fusion.depth / 2).all()
    save_model(other, tmp_path / "other.safetensors")
    assert torch.equal(load_model(tmp_path / "other.safetensors")(x).fine_cam, after.fine_cam), "as 02 reads it"


REFUSED = {
    "another step": ("segmenter.safetensors", {}, "is a network of step 2, not 1; give it as trained_segmenter"),
    "another step, released": ("segmenter.pth", {"backbone": VIT}, "is a network of step 2, not 1"),
    "more classes": ("cam.safetensors", {"classes": ("cat", "dog")}, "knows 3 classes, the data set has 2"),
    "another order": ("cam.safetensors", {"classes": ("dog", "cat", "cow")}, "class 1 as 'cat', the data set as 'dog'"),
    "another backbone": ("cam.safetensors", {"backbone": VIT},
                         f"has width 128.*, the run's backbone {VIT} width 192.*give backbone {TINY}"),
    "another backbone, released": ("cam.pth", {}, f"has width 192.*backbone {TINY} width 128.*that it was trained"),
    "another normalisation": ("half.safetensors", {}, "has normalisation .*0.5, 0.5, 0.5.*run's backbone"),
    "another size": ("cam.safetensors", {"image_size": 96}, "trained at 48 pixels, the run has image_size 96; give"),
    "a fusion to be trained": ("mean.safetensors", {}, "its fusion is 'mean', and 'adaptive' would have to be trained"),
    "learned weights": ("cam.safetensors", {"fusion": "learned"}, "fusion=adaptive, or .*: mean, random, last-k"),
    "another pooling": ("cam.safetensors", {"pool": "avg"}, "its fusion has pool 'max', not 'avg'"),
    "weights alone": ("vit.pth", {"backbone": VIT}, "vit.pth.*lacks.*pretrained weights alone are given as weights"),
    "no checkpoint": ("text.pth", {}, "text.pth.*not a checkpoint"),
    "no file": ("none.pth", {}, "none.pth does not exist or is not a file; give a checkpoint of step 1"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_another_network_than_the_runs_is_refused(files, kind):
    name, given, words = REFUSED[kind]
    given = {"classes": NAMES, "backbone": TINY, "image_size": 48} | given
    if name == "half.safetensors":
        model = load_model(files / "cam.safetensors")
        model.mean = model.std = (0.5,) * 3
        save_model(model, files / name)
    with pytest.raises(UserError, match=words):
        load_trained_cam(files / name, given.pop("classes"), **given)


def test_another_segmenter_is_refused(files):
    given = {"backbone": TINY, "image_size": 48}
    load_trained_segmenter(files / "segmenter.safetensors", NAMES, **given)
    for change, words in (
        ({"image_size": 96}, "trained at 48 pixels, the run has crop_size 96"),
        ({"patch_size": 16}, "has patch 8, .* patch 16; give seg_patch=8"),
    ):
        with pytest.raises(UserError, match=words):
            load_trained_segmenter(files / "segmenter.safetensors", NAMES, **given | change)
    with pytest.raises(UserError, match="is a network of step 1, not 2; give it as trained_cam"):
        load_trained_segmenter(files / "cam.safetensors", NAMES, **given)


# ── Labels ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def theirs(tiny_dataset, tmp_path):
    """Labels of another method for the list train: the masks, called as their images are."""
    for image_id in tiny_dataset.ids("train"):
        write_label_png(tmp_path / "theirs" / f"{image_id}.png", tiny_dataset.mask(image_id))
    return tmp_path / "theirs"


def given_labels(dataset, folder, **more):
    lists = {"train_list": "train", "eval_list": "train", "val_list": "val"}
    return {"label_folder": str(folder), "dataset": "voc12", "data_root": str(dataset.root)} | lists | more


def drawn_again(folder, change):
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            label = np.array(image)
        write_label_png(path, change(label))


LAST = "scene_000007.png"
FAULTS = {
    "a wrong value": (lambda f, i: write_label_png(f / LAST, np.full(i, 77)), "holds the value 77"),
    "another size": (lambda f, i: write_label_png(f / LAST, np.zeros((9, 8))), "8×9 pixels, its image .*export"),
    "turned by a quarter": (lambda f, i: write_label_png(f / LAST, np.zeros(i[::-1])), "turned by a quarter.*EXIF"),
    "one missing": (lambda f, i: (f / LAST).unlink(), f"has no label {LAST}; add it"),
    "an .npy": (lambda f, i: (f / LAST).rename(f / LAST.replace("png", "npy")), "but scene_000007.npy; save it as"),
    "a colour image": (
        lambda f, i: Image.new("RGB", i[::-1], "red").save(f / LAST),
        "is a RGB image; masks are palette",
    ),
    "a broken file": (lambda f, i: (f / LAST).write_bytes(b"PNG"), f"{LAST} cannot be read"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_labels_that_cannot_be_used_are_named(tiny_dataset, theirs, kind):
    ids = tiny_dataset.ids("train")
    assert check_labels(theirs, tiny_dataset, ids).shape == (8, 256)
    damage, words = FAULTS[kind]
    damage(theirs, tiny_dataset.image("scene_000007").shape[:2])
    with pytest.raises(DataError, match=f"theirs: 1 of 8 labels cannot be used\n.*{words}"):
        check_labels(theirs, tiny_dataset, ids)


def test_several_faults_are_named_at_once(tiny_dataset, theirs):
    ids = tiny_dataset.ids("train")
    for path in sorted(theirs.glob("*.png"))[1:]:
        path.unlink()
    with pytest.raises(DataError) as caught:
        check_labels(theirs, tiny_dataset, ids)
    assert "7 of 8 labels" in str(caught.value) and str(caught.value).count("has no label") == 5
    assert str(caught.value).endswith("… and 2 more")


def test_labels_without_a_class_are_refused(tiny_dataset, theirs):
    """The commonest other mask, 0 and 255: all would be void."""
    drawn_again(theirs, lambda label: np.where(label > 0, 255, 0))
    with pytest.raises(DataError, match=r"theirs: no label holds a class, 0 \(background\) and 255 \(void\) only"):
        check_labels(theirs, tiny_dataset, tiny_dataset.ids("train"))


def test_labels_lie_by_id_by_path_or_by_stem(folder):
    dataset = Folder(folder)
    image_id = "a b__two"
    for place in ("two.png", "a b/two.png", "a b__two.png"):  # the later ones are nearer to what is meant
        write_label_png(folder / "labels" / place, np.zeros((20, 31)))
        assert label_file(image_id, folder=folder / "labels", dataset=dataset) == folder / "labels" / place
    assert (label_or_void("three", folder=folder / "labels", dataset=dataset) == VOID).all()
    assert (label_or_void(image_id, folder=folder / "labels", dataset=dataset) == 0).all()
    (folder / "c").mkdir()
    shutil.copy(folder / "a b/two.jpg", folder / "c/two.jpg")
    (folder / "labels.csv").write_text("image,labels\na b/two.jpg,dog\nc/two.jpg,cat\n")
    write_label_png(folder / "flat/two.png", np.ones((20, 31)))
    with pytest.raises(
        DataError, match=r"two\.png would serve both a b__two and c__two; call the labels a b__two\.png"
    ):
        check_labels(folder / "flat", Folder(folder), ["a b__two", "c__two"])


# ── Gross disagreement ────────────────────────────────────────────────────────────────────────────────────────────
def test_another_numbering_is_said():
    labels = np.eye(3)[[0, 1, 2] * 4]  # twelve images of one class each
    right = np.zeros((12, 256), int)
    right[np.arange(12), 1 + labels.argmax(1)] = 100
    assert not numbered_otherwise(right, labels, NAMES)
    noisy = right.copy()
    noisy[:, 1] += 30  # a third of a class is elsewhere
    assert not numbered_otherwise(noisy, labels, NAMES)
    swapped = right[:, [0, 2, 1, *range(3, 256)]]
    cat, dog = numbered_otherwise(swapped, labels, NAMES)
    assert (
        cat == "of value 1 (cat) 0% of the pixels are in images that show cat, 100% in images that show dog (value 2)"
    )
    assert dog.startswith("of value 2 (dog) 0%")
    one_lower = np.roll(right, -1, 1)  # class 0 in place of 1
    assert len(numbered_otherwise(one_lower, labels, NAMES)) == 2


def pairs_of(change, n=6):
    """Masks of n images and what `change` makes of them: an animal in the upper left part, each at its own place."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(n):
        truth = np.zeros((60, 80), np.uint8)
        top, left = rng.integers(2, 20, 2)
        truth[top : top + 20, left : left + 25] = rng.integers(1, 4)
        truth[top + 5 : top + 9, left + 25 : left + 30] = VOID
        pairs.append((change(truth), truth))
    return pairs


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (np.fliplr, "better mirrored left to right: mIoU 100 % instead of"),
        (np.flipud, "better mirrored upside down: mIoU 100 %"),
        (lambda truth: np.rot90(truth, 2), "better turned by 180°: mIoU 100 %"),
        (lambda truth: np.roll(truth, (14, -2), (0, 1)), "better shifted by 2 pixels to the right, 14 up: mIoU 100"),
        (lambda truth: (7 * truth + truth.max() // 2) % 3 + 1, "they hardly fit the masks: mIoU"),
        (lambda truth: truth, ""),
        (lambda truth: np.roll(truth, (2, 1), (0, 1)), ""),
        (lambda truth: np.where(truth == VOID, 0, truth), ""),
    ],
)
def test_labels_at_another_place_are_said(change, words):
    found = placed_otherwise(pairs_of(change), 4)
    assert words in found and bool(words) == bool(found)


def test_turned_squares_are_said():
    square = [(np.rot90(truth[:, :60]), truth[:, :60]) for _, truth in pairs_of(lambda truth: truth)]
    assert "better turned to the right: mIoU 100 %" in placed_otherwise(square, 4)


def test_void_in_labels_counts_for_nothing(tiny_dataset, theirs):
    ids = tiny_dataset.ids("train")

    def read(image_id):
        return read_given_label(image_id, folder=theirs, dataset=tiny_dataset)

    perfect = score_labels(tiny_dataset, ids, read)
    assert perfect.miou == 100 and without_an_error(perfect)
    drawn_again(theirs, lambda label: np.where(np.arange(label.shape[1]) < 30, VOID, label))
    assert without_an_error(score_labels(tiny_dataset, ids, read))
    drawn_again(theirs, lambda label: np.where(label == label[label < VOID].max(), 0, label))
    score = score_labels(tiny_dataset, ids, read)
    assert score.miou < 80 and not without_an_error(score)
    K = len(tiny_dataset.classes) + 1
    expected = np.zeros((K, K), int)
    for image_id in ids:
        for label, truth in zip(read(image_id).ravel(), tiny_dataset.mask(image_id).ravel()):
            if VOID not in (label, truth):
                expected[truth, label] += 1
    assert np.array_equal(score.confusion, expected)


def test_disagreement_is_said_before_a_run_and_by_hand(voc12_copy, tmp_path, capsys, monkeypatch):
    """The labels are those of the right images, mirrored."""
    dataset = open_dataset("voc12", str(voc12_copy))
    for image_id in dataset.ids("train"):
        write_label_png(tmp_path / "theirs" / f"{image_id}.png", np.fliplr(dataset.mask(image_id)))
    given = given_labels(dataset, tmp_path / "theirs", seg_batch_size=2)
    values = check_parameters(given | {"run_folder": str(tmp_path / "run")}, catalogue())
    check_run(values)
    said = f"label_folder {tmp_path / 'theirs'}: they fit the masks better mirrored left to right"
    assert said in capsys.readouterr().out
    declared = catalogue()["04_online_retraining"]
    open_stage("04_online_retraining", {name: values[name] for name in declared})
    assert said in capsys.readouterr().out
    (tmp_path / "theirs" / LAST).unlink()
    shutil.rmtree(tmp_path / "run")
    for refused in (lambda: check_run(values), lambda: open_stage("04_online_retraining", values)):
        with pytest.raises(DataError, match=f"parameter label_folder: .*\n.*has no label {LAST}"):
            refused()
    assert not (tmp_path / "run/04_online_retraining/manifest.json").exists()


# ── Whole runs ────────────────────────────────────────────────────────────────────────────────────────────────────
SMALL = {"train_list": "train", "eval_list": "train", "val_list": "val", "workers": 1, "variant_images": 4}
SMALL |= {"seg_epochs": 1, "seg_scales": [1.0], "train_ceiling": False, "cam_scales": [1.0], "dataset": "voc12"}


def records_of(run, stage):
    return {record["metric"]: record for record in json.loads((run / stage / "metrics.json").read_text())}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_step_2_learns_from_labels_of_others_and_its_network_is_handed_on(voc12_copy, tmp_path):
    """Labels without one class, then the segmenter that learned from them as the network of another run."""
    dataset = open_dataset("voc12", str(voc12_copy))
    for image_id in dataset.ids("train"):
        mask = dataset.mask(image_id)
        mask[mask == mask[mask < VOID].max()] = 0
        write_label_png(tmp_path / "theirs" / f"{image_id}.png", mask)
    given = SMALL | {"data_root": str(voc12_copy), "label_folder": str(tmp_path / "theirs")}
    runner.run(given, tmp_path / "first")
    first = tmp_path / "first"
    assert sorted(path.name[:2] for path in first.glob("0*")) == ["04", "05"]
    label = records_of(first, "04_online_retraining")["mIoU of label"]
    assert 0 < label["value"] < 100 and not label["oracle"] and (label["list"], label["list_size"]) == ("train", 8)
    assert records_of(first, "04_online_retraining")["wrong labels (%)"]["value"] > 0
    stages = (first / "05_evaluation/figures/stages.csv").read_text()
    assert "\nlabel," in stages and "CAM" not in stages
    trained = first / "04_online_retraining/model.safetensors"
    given = given | {"label_folder": "", "trained_segmenter": str(trained)}
    runner.run(given, tmp_path / "second")
    second = tmp_path / "second"
    for name, tensor in load_model(trained).state_dict().items():
        assert torch.equal(tensor, load_model(second / "04_online_retraining/model.safetensors").state_dict()[name])
    assert not (second / "04_online_retraining/history.csv").exists()
    masks = sorted(path.relative_to(first) for path in first.rglob("multi_crf/*.png"))
    assert len(masks) == 12
    assert all((first / path).read_bytes() == (second / path).read_bytes() for path in masks)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_released_network_goes_on_to_02_with_the_fusion_that_is_asked_for(voc12_copy, tmp_path):
    sizes = {"width": 192, "layers": 12, "heads": 3, "patch": 16}
    torch.save({"model": naive.random_cam_checkpoint(classes=20, **sizes, reduction=8)}, tmp_path / "released.pth")
    given = SMALL | {"data_root": str(voc12_copy), "trained_cam": str(tmp_path / "released.pth"), "fusion": "mean"}
    given |= {"backbone": VIT, "image_size": 48, "crop_size": 96, "cam_batch_size": 64}  # of no training
    runner.run(given, tmp_path / "run", stages=["01", "02"])
    measured = records_of(tmp_path / "run", "01_cam_training")
    assert measured["spread of the head weights"]["value"] == 0
    assert {"mAP (image labels)", "correlation of the classes' attention"} < measured.keys()
    assert not (tmp_path / "run/01_cam_training/history.csv").exists()
    assert all(record["oracle"] for record in records_of(tmp_path / "run", "02_cam_generation").values())
    histogram = (tmp_path / "run/02_cam_generation/figures/head_weight_histogram.csv").read_text().splitlines()
    assert len(histogram) == 1 + 36 and all(",1.0,0.0" in line for line in histogram[1:])


@pytest.mark.slow
def test_a_network_of_real_photographs_is_given_another_fusion(shared, tmp_path):
    """Trained a little, so that its head weights differ; the rest of the network is the same with the mean."""
    root = shared / "data" / "voc_animals"
    weights = shared / "weights" / "vit_tiny_patch16_224.safetensors"
    if not root.is_dir() or not weights.is_file():
        pytest.skip("the photographs or the weights are not there")
    dataset = open_dataset("folder", str(root))
    model = create_cam_model(VIT, len(dataset.classes), weights=weights, image_size=96)
    view = {"mean": model.mean, "std": model.std, "augmentation": "", "min_crop": 0.4}
    samples = CamSamples(dataset, "train:16", 96, **view, seed=1)
    options = CamTrainingOptions(epochs=2, batch_size=8, lr=0.05, warmup=0, workers=1)
    quiet = {
        "measure": lambda model: {},
        "folder": tmp_path,
        "progress": lambda total, **_: Progress("", total, "images"),
    }
    train_cam(model, samples, options, **quiet)
    save_model(model, tmp_path / "cam.safetensors", classes=dataset.classes, oracle=False)
    given = {"classes": dataset.classes, "backbone": VIT, "image_size": 96}
    own, mean = (load_trained_cam(tmp_path / "cam.safetensors", **given, fusion=name) for name in ("adaptive", "mean"))
    image = dataset.image(dataset.ids("val")[0])
    before, after = look(own, image), look(mean, image)
    assert torch.equal(before.coarse_cam, after.coarse_cam) and (after.head_weights == 1).all()
    assert before.head_weights.std() > 0 and not torch.equal(before.fine_cam, after.fine_cam)
