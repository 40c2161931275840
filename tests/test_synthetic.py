"""The embedded data set: drawn the same everywhere, in VOC's layout, with the two difficulties it is there for."""

from unittest.mock import Mock
from xml.etree import ElementTree

import numpy as np
import pretrain
import pytest
import torch
from conftest import check_list
from PIL import Image

from weaktr.data import drawing, open_dataset, synthetic
from weaktr.data.images import palette
from weaktr.data.synthetic import ANIMALS, CLASSES, STYLE, render_scene, write_scene
from weaktr.errors import DataError
from weaktr.models.cam import create_cam_model

PLACES = ("JPEGImages", "SegmentationClass", "Annotations")


def layout(folder):
    for place in PLACES:
        (folder / place).mkdir(parents=True)
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def scenes():
    """600 scenes with what went into them: background, and per object its (texture, first and second colour)."""
    drawn, backgrounds, cloths = [], [], []

    def background(rng, kind, *size):
        backgrounds.append(str(kind))
        return drawing.draw_background(rng, kind, *size)

    def texture(rng, kind, height, width, colours, periods):
        cloths.append((str(kind), *colours))
        return draw_texture(rng, kind, height, width, colours, periods)

    draw_texture = drawing.draw_texture
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "draw_background", background)
        patch.setattr(drawing, "draw_texture", texture)
        for i in range(600):
            image, instances, names = render_scene(np.random.default_rng((504, i)))
            drawn.append((image, instances, names, backgrounds[-1], cloths[-len(names) :]))
    return drawn


# ---------------------------------------------------------------- determinism


def test_same_key_same_bytes(tmp_path):
    """Twice, in another order, alone, and whatever the global generators did before."""
    first, second = layout(tmp_path / "first"), layout(tmp_path / "second")
    for i in (0, 1, 2, 3):
        write_scene(first, f"scene_{i}", (504, i))
    np.random.seed(3)  # noqa: NPY002
    for i in (3, 1):
        write_scene(second, f"scene_{i}", (504, i))
    one, two = contents(first), contents(second)
    assert len(one) == 12 and len(two) == 6
    for name, content in two.items():
        assert content == one[name], name
    pictures = [one[f"JPEGImages/scene_{i}.jpg"] for i in range(4)]
    assert len(set(pictures)) == 4


def test_another_seed_is_another_scene():
    one, two = (render_scene(np.random.default_rng((seed, 0)))[0] for seed in (504, 505))
    assert one.shape != two.shape or (one != two).any()


# ---------------------------------------------------------------- on disk


def test_files_are_as_in_voc12(tiny_dataset):
    for image_id in tiny_dataset.ids("train"):
        with (
            Image.open(tiny_dataset.image_path(image_id)) as image,
            Image.open(tiny_dataset.mask_path(image_id)) as mask,
        ):
            assert (image.format, image.mode, mask.format, mask.mode) == ("JPEG", "RGB", "PNG", "P")
            assert image.size == mask.size and 96 <= min(image.size) <= max(image.size) <= 128
            assert mask.getpalette()[: 3 * 21] == palette()[: 3 * 21]
            values = np.asarray(mask)
        assert set(np.unique(values)) <= {0, *range(1, len(CLASSES) + 1), 255}
        share = (values == 255).mean()
        assert 0.01 < share < 0.2, "no border, or nothing but border"


def test_borders_part_every_object_from_what_it_touches(tiny_dataset):
    for image_id in tiny_dataset.ids("train"):
        mask = tiny_dataset.mask(image_id).astype(int)
        for a, b in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
            assert not ((a != b) & (a != 255) & (b != 255)).any()


def test_annotations_name_what_the_mask_shows(tiny_dataset):
    for image_id in tiny_dataset.ids("train") + tiny_dataset.ids("val"):
        mask = tiny_dataset.mask(image_id)
        root = ElementTree.parse(tiny_dataset.folder / "Annotations" / f"{image_id}.xml").getroot()
        assert root.findtext("filename") == f"{image_id}.jpg"
        assert [int(root.findtext(f"size/{side}")) for side in ("height", "width")] == list(mask.shape)
        objects = root.findall("object")
        assert 1 <= len(objects) <= 3
        named = {CLASSES.index(thing.findtext("name")) + 1 for thing in objects}
        assert named == set(np.unique(mask)) - {0, 255}
        assert set(np.flatnonzero(tiny_dataset.labels(image_id)) + 1) == named
        for thing in objects:
            x0, y0, x1, y1 = (int(thing.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
            rows, columns = np.nonzero(mask == CLASSES.index(thing.findtext("name")) + 1)
            assert 1 <= x0 <= columns.min() + 1 <= columns.max() + 1 <= x1 <= mask.shape[1]
            assert 1 <= y0 <= rows.min() + 1 <= rows.max() + 1 <= y1 <= mask.shape[0]
            # the border takes a pixel or two; a neighbour in front may take more, but rarely half
            assert (columns.max() - columns.min() + 1) / (x1 - x0 + 1) > 0.4
            assert (rows.max() - rows.min() + 1) / (y1 - y0 + 1) > 0.4


# ---------------------------------------------------------------- what the scenes are like


def test_one_to_three_different_objects_all_well_visible(scenes):
    counts = np.bincount([len(names) for _, _, names, _, _ in scenes], minlength=4)
    assert counts[0] == 0 and len(counts) == 4
    assert np.abs(counts[1:] / len(scenes) - (0.6, 0.3, 0.1)).max() < 0.1
    for image, instances, names, _, _ in scenes:
        assert image.dtype == np.uint8 and image.shape == (*instances.shape, 3)
        assert len(set(names)) == len(names)
        areas = np.bincount(instances.ravel(), minlength=len(names) + 1)
        assert len(areas) == len(names) + 1 and areas[1:].min() > 200, "an object is hidden or was not drawn"


def test_every_class_and_background_occurs(scenes):
    seen = [name for _, _, names, _, _ in scenes for name in names]
    assert set(seen) == set(CLASSES) and len(CLASSES) == 8
    assert min(seen.count(name) for name in CLASSES) > 30
    backgrounds = [background for *_, background, _ in scenes]
    assert set(backgrounds) == set(drawing.BACKGROUNDS)


def test_four_classes_stand_on_their_own_background(scenes):
    """The first object of a scene decides; the rest of the draws may hit the background by chance too."""
    expected = STYLE.co_occurrence + (1 - STYLE.co_occurrence) / len(drawing.BACKGROUNDS)
    bound = {name: background for name, (_, background, *_) in ANIMALS.items() if background}
    assert set(bound) == {"bear", "lion", "parrot", "pig"} and len(set(bound.values())) == 4
    hits = []
    for name, own in bound.items():
        first = [background == own for _, _, names, background, _ in scenes if names[0] == name]
        assert len(first) > 20 and abs(np.mean(first) - expected) < 0.2, name
        hits += first
    assert abs(np.mean(hits) - expected) < 0.07
    free = [background for _, _, names, background, _ in scenes if names[0] not in bound]
    shares = [free.count(background) / len(free) for background in drawing.BACKGROUNDS]
    assert max(shares) < 0.3 and min(shares) > 0.05


def test_fur_hints_at_the_class_but_is_not_certain(scenes):
    """The favourite fur is worn in the share STYLE.favourite, and by chance besides; everyone has others too."""
    hits = []
    for name, (_, _, texture, colours) in ANIMALS.items():
        owned = [
            cloth[0] == texture and any((cloth[1] == colour).all() for colour in drawing.CLOTHES[colours])
            for _, _, names, _, cloths in scenes
            for other, cloth in zip(names, cloths)
            if other == name
        ]
        assert 0.4 < np.mean(owned) < 0.95, name
        hits += owned
    assert abs(np.mean(hits) - STYLE.favourite) < 0.06


def test_the_two_colours_of_a_fur_are_near_each_other(scenes):
    whole = {tuple(pair[i]): np.abs(pair[0] - pair[1]).sum() for pair in drawing.CLOTHES for i in (0, 1)}
    for *_, cloths in scenes:
        for _, first, second in cloths:
            assert np.abs(first - second).sum() == pytest.approx(STYLE.contrast * whole[tuple(first)])


def test_no_face_is_far_from_its_fur_in_colour():
    """A patch that is like no other attends to itself alone, and no refinement spreads its CAM."""
    grey = np.full(3, 128.0)
    for name in CLASSES:
        brush = Mock()
        drawing.draw_head(brush, name, 0.0, 0.0, 1.0, grey)
        fills = np.array([call.args[4] for call in brush.ellipse.call_args_list])
        assert 30 < np.abs(fills - grey).max() <= drawing.FACE_CONTRAST * 128, name


def test_every_body_shape_is_worn_by_at_least_two_classes():
    shapes = [shape for shape, *_ in ANIMALS.values()]
    assert all(shapes.count(shape) >= 2 for shape in shapes)


# ---------------------------------------------------------------- writing the whole


@pytest.fixture
def few(monkeypatch):
    """The lists cut to a handful."""
    monkeypatch.setattr(synthetic, "LIST_SIZES", {"train": 2, "val": 2, "train_aug": 4, "smoke": 1, "smoke_val": 1})


class BreakingPool:
    """Draws in this process and breaks down at the fourth scene."""

    def __init__(self, *_, **__):
        self.left = 3

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def map(self, function, *columns, **_):
        for row in zip(*columns):
            if not self.left:
                raise OSError("No space left on device")
            self.left -= 1
            yield function(*row)


class SerialPool(BreakingPool):
    """Draws in this process."""

    def __init__(self, *_, **__):
        self.left = 10**6


def test_the_whole_is_written_once(few, tmp_path, monkeypatch, capsys):
    root = tmp_path / "made" / "synthetic"
    monkeypatch.setattr(synthetic.os, "cpu_count", lambda: 1)  # one process of its own
    dataset = open_dataset("synthetic", str(root))
    assert dataset.name == "synthetic" and dataset.classes == CLASSES
    assert "drawing the synthetic data set" in capsys.readouterr().out
    lists = {name: dataset.ids(name) for name in synthetic.LIST_SIZES}
    assert {name: len(ids) for name, ids in lists.items()} == synthetic.LIST_SIZES
    assert set(lists["smoke"]) <= set(lists["train"]) <= set(lists["train_aug"])
    assert set(lists["smoke_val"]) <= set(lists["val"]) and not set(lists["val"]) & set(lists["train_aug"])
    for name in lists:
        check_list(dataset, name, masks=True)
    assert [path.name for path in root.parent.iterdir()] == ["synthetic"]

    alone = layout(tmp_path / "alone")
    write_scene(alone, "scene_000001", (synthetic.SEED, 1))
    for name, content in contents(alone).items():
        assert (dataset.folder / name).read_bytes() == content, "a scene depends on how it was drawn"

    monkeypatch.setattr(synthetic, "write_dataset", lambda _: pytest.fail("drawn again"))
    assert open_dataset("synthetic", str(root)).fingerprint() == dataset.fingerprint()
    assert capsys.readouterr().out == ""


def test_another_version_is_drawn_again(few, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "spawned", SerialPool)
    root = tmp_path / "synthetic"
    open_dataset("synthetic", str(root))
    monkeypatch.setattr(synthetic, "LIST_SIZES", synthetic.LIST_SIZES | {"train_aug": 5})
    assert len(open_dataset("synthetic", str(root)).ids("train_aug")) == 5


def test_a_failure_in_the_middle_leaves_no_data_set(few, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "spawned", BreakingPool)
    with pytest.raises(OSError, match="No space left"):
        open_dataset("synthetic", str(tmp_path / "synthetic"))
    assert not (tmp_path / "synthetic").exists()


def test_a_failure_keeps_the_data_set_of_before(few, tmp_path, monkeypatch):
    root = tmp_path / "synthetic"
    monkeypatch.setattr(synthetic, "spawned", SerialPool)
    before = contents(open_dataset("synthetic", str(root)).folder)
    monkeypatch.setattr(synthetic, "spawned", BreakingPool)
    monkeypatch.setattr(synthetic, "VERSION", synthetic.VERSION + 1)
    with pytest.raises(OSError, match="No space left"):
        open_dataset("synthetic", str(root))
    assert contents(root / "VOCdevkit" / "VOC2012") == before


def test_after_a_failure_nothing_lies_about_and_the_next_try_works(few, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "spawned", BreakingPool)
    with pytest.raises(OSError, match="No space left"):
        open_dataset("synthetic", str(tmp_path / "synthetic"))
    left = list(tmp_path.iterdir())
    monkeypatch.setattr(synthetic, "spawned", SerialPool)
    check_list(open_dataset("synthetic", str(tmp_path / "synthetic")), "train", masks=True)
    assert left == []


def test_a_foreign_folder_is_never_overwritten(few, tmp_path):
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(DataError) as caught:
        open_dataset("synthetic", str(tmp_path))
    assert str(tmp_path) in str(caught.value) and "data_root" in str(caught.value)
    assert contents(tmp_path) == {"thesis.txt": b"three years of work"}


def test_a_file_in_place_of_the_folder_is_refused(few, tmp_path):
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(DataError, match=r"thesis\.txt"):
        open_dataset("synthetic", str(tmp_path / "thesis.txt"))


def test_an_unknown_list_is_refused_before_a_run(few, tmp_path, monkeypatch):
    from weaktr.workbench.checks import check_data as check_parameters

    monkeypatch.setattr(synthetic, "spawned", SerialPool)
    given = {"dataset": "synthetic", "data_root": str(tmp_path / "s"), "train_list": "train", "eval_list": "trian"}
    check_parameters(given | {"eval_list": "train"})
    with pytest.raises(DataError, match=r"trian\.txt"):
        check_parameters(given)


# ---------------------------------------------------------------- pretraining pictures


def test_pretraining_scenes_are_deterministic_and_labelled():
    drawn = [pretrain.render_invented(i) for i in range(12)]
    for i in (11, 0):
        pixels, target = pretrain.render_invented(i)
        assert (pixels == drawn[i][0]).all()
        assert (target == drawn[i][1]).all()
    assert len({pixels.tobytes() for pixels, _ in drawn}) == 12
    for pixels, target in drawn:
        assert min(pixels.shape[:2]) >= pretrain.CROP
        assert target.shape == (pretrain.SPECIES,)
        assert 1 <= (target > 0).sum() <= 3
        assert target.sum() == pytest.approx(1)


def test_pretraining_shows_no_head_of_the_demo(monkeypatch):
    """What tells the demo's classes apart must not have been learned beforehand."""
    monkeypatch.setattr(drawing, "draw_head", lambda *_: pytest.fail("a demo class was drawn"))
    monkeypatch.setattr(synthetic, "draw_head", lambda *_: pytest.fail("a demo class was drawn"))
    invented, seen = pretrain.draw_invented_head, []
    monkeypatch.setattr(pretrain, "draw_invented_head", lambda *a: (seen.append(a[1]), invented(*a)))
    targets = [pretrain.render_invented(i)[1] for i in range(8)]
    assert set(seen) == {int(species) for target in targets for species in np.flatnonzero(target)}
    assert not set(pretrain.invent_animals()) & set(CLASSES)


def test_pretraining_hides_whole_squares():
    hidden = pretrain.draw_hidden(64, 12, torch.Generator().manual_seed(0)).view(64, 6, 2, 6, 2)
    assert (hidden == hidden[:, :, :1, :, :1]).all()
    share = hidden.float().mean((1, 2, 3, 4))
    assert share.min() < 0.1
    assert 0.6 < share.max() < 0.95


def test_pretraining_starts_from_patches_that_attend_to_their_likes():
    torch.manual_seed(0)
    model = create_cam_model("weaktr_tiny_patch8_96", 2, pretrained=False, image_size=96).eval()
    usual, alike = model.encoder.vit.blocks, pretrain.create_vit().blocks
    halves = torch.zeros(1, 144, 128).index_fill(1, torch.arange(72), 1.0) + 0.1 * torch.randn(1, 144, 128)
    halves = torch.nn.functional.layer_norm(halves * torch.randn(128), (128,))
    share = []
    for blocks in (usual, alike):
        q, k, _ = blocks[0].attn.qkv(halves)[0].view(144, 3, 4, 32).permute(1, 2, 0, 3)
        share.append(((q @ k.transpose(1, 2)) / 32**0.5).softmax(2)[:, :72, :72].sum(2).mean().item())
    assert share[0] < 0.6  # half of the tokens are of the same kind
    assert share[1] > 0.9


def test_pretraining_learns_and_writes_what_the_package_loads(tmp_path, capsys):
    scenes = [pretrain.render_invented(i) for i in range(4)]
    targets = torch.from_numpy(np.stack([target for _, target in scenes]))
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    for output in (first, second):
        pretrain.pretrain([pixels for pixels, _ in scenes], targets, samples=16, output=output, batch=4)
    assert "4/4 · reconstruction" in capsys.readouterr().out
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name, second.name]
    torch.manual_seed(pretrain.SEED)
    start = pretrain.create_vit().blocks[0].attn.qkv.weight
    trained = (
        create_cam_model(pretrain.NAME, 3, weights=str(first), image_size=96).encoder.vit.blocks[0].attn.qkv.weight
    )
    assert 1e-5 < (trained - start).abs().max() < 0.1
