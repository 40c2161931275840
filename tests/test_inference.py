"""Multi-scale CAMs and sliding windows against one view, one window at a time, and against the released code."""

import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from weaktr.data.images import image_size, read_image, read_label_png
from weaktr.data.transforms import normalise
from weaktr.device import pick_device
from weaktr.errors import DataError
from weaktr.method import cam_generation, segmentation
from weaktr.method.cam_generation import class_attention, generate_cams, generate_list, head_correlation, look, rescale
from weaktr.method.cams import load_cams, save_cams
from weaktr.method.crf import refine_probabilities
from weaktr.method.segmentation import predict_probabilities, segment, segment_list
from weaktr.models.cam import create_cam_model
from weaktr.models.released import import_released_cam, import_released_segmenter
from weaktr.models.segmenter import create_segmenter

PROPERTY = settings(deadline=None, derandomize=True, max_examples=25)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class PixelModel(nn.Module):
    """Logits that depend on the pixel alone, so that any cover of windows gives one and the same answer."""

    def __init__(self, seed=0, window=None):
        super().__init__()
        torch.manual_seed(seed)
        self.convolution, self.window = nn.Conv2d(3, 4, 1), window
        self.mean, self.std = naive.IMAGENET_MEAN, naive.IMAGENET_STD

    def forward(self, x):
        if self.window:
            assert x.shape[-2:] == (self.window, self.window)
        return self.convolution(x)


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# ---------------------------------------------------------------- step 1


@pytest.mark.parametrize("kind", ["fused", "patchcam", "attn"])
@pytest.mark.parametrize("refined", [True, False])
def test_cams_agree_with_one_view_at_a_time(kind, refined):
    state = naive.random_cam_checkpoint(seed=2, classes=4)
    reference = {name: tensor.double() for name, tensor in state.items()}
    image, labels = random_image(33, 46), np.array([1, 0, 0, 1], np.float32)

    def one_view(view):
        out = naive.cam_network(reference, view.double(), 3)
        cam = out[{"fused": "fused_cam", "patchcam": "patchcam", "attn": "cross_attention"}[kind]]
        return (naive.refine(cam, out["patch_attention"]) if refined else cam)[0]

    cams = generate_cams(
        import_released_cam(state, num_heads=3), image, labels, [1.0, 0.8, 1.3], kind=kind, refined=refined
    )
    expected = naive.generate_cams(one_view, image, labels, [1.0, 0.8, 1.3])
    assert set(cams) == set(expected) == {0, 3}
    for c, cam in cams.items():
        assert cam.dtype == np.float32 and cam.min() == 0 and cam.max() == pytest.approx(1, abs=1e-4)
        assert np.abs(cam - expected[c]).max() < 5e-5


@pytest.mark.parametrize("keep_maps", [True, False], ids=["kept", "remade"])
def test_cams_agree_with_released_code(shared, keep_maps):
    golden = np.load(shared / "goldens" / "cam_generation.npz")
    state = {key[3:]: torch.tensor(golden[key]) for key in golden.files if key.startswith("sd/")}
    model = import_released_cam(state, num_heads=int(golden["cfg/num_heads"]), pool=str(golden["cfg/pool"]))
    model.encoder.keep_maps = keep_maps
    scales = golden["cfg/scales"].tolist()
    found = {}
    for name in ("im0", "im1"):
        cams = generate_cams(model, golden[f"image/{name}"], golden[f"labels/{name}"], scales)
        found |= {f"cam/{name}/{c}": cam for c, cam in cams.items()}
    assert set(found) == {key for key in golden.files if key.startswith("cam/")}
    for key, cam in found.items():
        assert np.abs(cam - golden[key]).max() < 2e-5, key


def test_mirroring_the_image_mirrors_the_cams():
    model = import_released_cam(naive.random_cam_checkpoint(seed=4), num_heads=3)
    image, labels = random_image(24, 32), np.ones(3, np.float32)
    cams = generate_cams(model, image, labels, [1.0])
    mirrored = generate_cams(model, np.ascontiguousarray(image[:, ::-1]), labels, [1.0])
    for c in range(3):
        assert np.abs(cams[c] - mirrored[c][:, ::-1]).max() < 1e-4


def test_no_class_gives_no_cam():
    model = import_released_cam(naive.random_cam_checkpoint(), num_heads=3)
    assert generate_cams(model, random_image(24, 24), np.zeros(3, np.float32), [1.0]) == {}


SIZES = [(24 + 3 * i, 33 - i) for i in range(5)]


class Photographs:
    """A data set of random images of several sizes."""

    def __init__(self, folder, sizes):
        self.folder, self.images = folder, [f"im{i}" for i in range(len(sizes))]
        folder.mkdir()
        for i, size in enumerate(sizes):
            Image.fromarray(random_image(*size, seed=i)).save(self.image_path(f"im{i}"))

    def image_path(self, image_id):
        return self.folder / f"{image_id}.png"

    def image(self, image_id):
        return read_image(self.image_path(image_id))

    def labels(self, image_id):
        return np.float32(np.random.default_rng(len(self.image(image_id))).random(3) < 0.5)

    def warm(self):
        """Nothing is shared by the labels."""


class Count:
    """A progress bar that only counts."""

    done = 0

    def update(self, n):
        self.done += n


def test_list_of_cams_is_each_images_cams(tmp_path):
    model, bar = import_released_cam(naive.random_cam_checkpoint(seed=2), num_heads=3), Count()
    data, tmp_path = Photographs(tmp_path / "images", SIZES), tmp_path / "cams"
    tmp_path.mkdir()
    save_cams(tmp_path / "im1.npz", {2: [np.float32([[0, 1]])]}, (4, 4))
    generate_list(model, data, data.images, [1.0, 0.8], {tmp_path: ("patchcam", False)}, bar)
    assert bar.done == 5 and sorted(path.name for path in tmp_path.iterdir()) == [f"im{i}.npz" for i in range(5)]
    assert load_cams(tmp_path / "im1.npz")[2].shape == (4, 4)  # what is there stays
    for name in ("im0", "im2", "im3", "im4"):
        found = load_cams(tmp_path / f"{name}.npz")
        expected = generate_cams(model, data.image(name), data.labels(name), [1.0, 0.8], kind="patchcam", refined=False)
        assert set(found) == set(expected) == set(np.flatnonzero(data.labels(name)))
        for c, cam in expected.items():
            assert np.array_equal(found[c], cam)


def test_images_of_one_size_share_a_forward_pass(tmp_path, monkeypatch):
    """Whatever is there already, so that a list made in two goes has the bytes of one made at once."""
    model = import_released_cam(naive.random_cam_checkpoint(seed=2), num_heads=3)
    data = Photographs(tmp_path / "images", [(24, 40) if i in (2, 5) else (32, 24) for i in range(7)])
    data.labels = dict(zip(data.images, np.eye(4, 3)[[0, 1, 2, 3, 0, 1, 2]], strict=True)).get  # im3 shows nothing
    once, twice, batches = tmp_path / "once", tmp_path / "twice", []
    monkeypatch.setattr(cam_generation, "BATCH_PIXELS", 3 * 2 * 32 * 24)
    model.register_forward_pre_hook(lambda _, given: batches.append(tuple(given[0].shape)))
    generate_list(model, data, data.images, [1.0], {once: ("fused", True)}, Count())
    assert batches == [(6, 3, 32, 24), (4, 3, 32, 24), (4, 3, 24, 40)]
    for name in data.images:
        found = load_cams(once / f"{name}.npz")
        expected = generate_cams(model, data.image(name), data.labels(name), [1.0])
        assert set(found) == set(expected) == set(np.flatnonzero(data.labels(name)))
        assert all(np.abs(found[c] - cam).max() < 1e-5 for c, cam in expected.items())
    twice.mkdir()
    for name in ("im0", "im1", "im6"):
        (twice / f"{name}.npz").write_bytes((once / f"{name}.npz").read_bytes())
    batches.clear()
    generate_list(model, data, data.images, [1.0], {twice: ("fused", True)}, bar := Count())
    assert batches == [(6, 3, 32, 24), (4, 3, 32, 24), (4, 3, 24, 40)] and bar.done == 7
    assert all((twice / path.name).read_bytes() == path.read_bytes() for path in once.iterdir())
    batches.clear()
    generate_list(model, data, data.images, [1.0], {twice: ("fused", True)}, bar := Count())
    assert not batches and bar.done == 7


@pytest.mark.parametrize("turned", range(1, 9))
def test_sizes_from_the_head_of_a_file_are_those_of_the_image(tmp_path, turned):
    note = Image.Exif()
    note[274] = turned
    Image.fromarray(random_image(20, 30)).save(tmp_path / "a.jpg", exif=note)
    assert image_size(tmp_path / "a.jpg") == read_image(tmp_path / "a.jpg").shape[:2]
    (tmp_path / "b.jpg").write_bytes(b"no image")
    for name, words in (("b", "cannot be read as an image"), ("c", "does not exist")):
        with pytest.raises(DataError, match=rf"{name}\.jpg {words}"):
            image_size(tmp_path / f"{name}.jpg")


def test_unreadable_image_stops_the_list_and_what_was_made_stays(tmp_path):
    model = import_released_cam(naive.random_cam_checkpoint(seed=2), num_heads=3)
    data = Photographs(tmp_path / "images", SIZES[:2])
    with pytest.raises(DataError, match=r"absent\.png"):
        generate_list(model, data, ["im0", "im1", "absent"], [1.0], {tmp_path: ("fused", True)}, Count())
    assert "im0.npz" in [path.name for path in tmp_path.iterdir()]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("keep_maps", [True, False], ids=["kept", "remade"])
def test_list_of_cams_on_the_gpu_is_the_cpus(tmp_path, keep_maps):
    model = import_released_cam(naive.random_cam_checkpoint(seed=2), num_heads=3)
    data = Photographs(tmp_path / "images", SIZES[:3])
    model.encoder.keep_maps = keep_maps
    for device in ("cpu", "cuda"):
        variants = {tmp_path / device: ("fused", True)}
        generate_list(model.to(pick_device(device)), data, data.images, [1.0, 1.2], variants, Count())
    for name in data.images:
        found, expected = (load_cams(tmp_path / device / f"{name}.npz") for device in ("cuda", "cpu"))
        assert set(found) == set(expected)
        for c, cam in expected.items():
            assert np.abs(found[c] - cam).max() < 5e-3


# ---------------------------------------------------------------- step 2


@pytest.mark.parametrize("kind", ["vit", "dinov2", "eva02"])
def test_probabilities_agree_with_one_window_at_a_time(kind):
    state = naive.random_segmenter_checkpoint(kind, seed=3)
    reference = {name: tensor.double() for name, tensor in state.items()}
    torch.manual_seed(0)
    views = [torch.randn(1, 3, 20, 29), torch.randn(1, 3, 40, 58), torch.randn(3, 50, 73)]  # the first is too small
    flips = [False, True, False]
    found = predict_probabilities(
        import_released_segmenter(state, num_heads=3, decoder_heads=3), views, flips, (40, 58), 32, 20
    )
    doubles = [view.reshape(1, *view.shape[-3:]).double() for view in views]
    expected = naive.predict_probabilities(
        lambda x: naive.segmenter(reference, x, 3, 3), doubles, flips, (40, 58), 32, 20
    )
    assert found.shape == (4, 40, 58) and found.dtype == torch.float32
    assert naive.error(found, expected) < 2e-5


@pytest.mark.parametrize("name", ["seg_vit", "seg_vit_multiscale", "seg_dinov2", "seg_eva02"])
def test_probabilities_agree_with_released_code(shared, name):
    golden = np.load(shared / "goldens" / f"{name}.npz")
    state = {key[3:]: torch.tensor(golden[key]) for key in golden.files if key.startswith("sd/")}
    model = import_released_segmenter(
        state, num_heads=int(golden["cfg/heads"]), decoder_heads=int(golden["cfg/decoder_heads"])
    )
    window, stride = int(golden["cfg/window"]), int(golden["cfg/stride"])
    image = torch.tensor(golden["image"])
    single = predict_probabilities(model, [image], [False], image.shape[-2:], window, stride)
    assert naive.error(single, golden["probs_single"]) < 5e-6
    count = sum(key.startswith("ms/") for key in golden.files)
    views = [torch.tensor(golden[f"ms/{i}"]) for i in range(count)]
    flips = [bool(golden[f"ms_flip/{i}"]) for i in range(count)]
    multi = predict_probabilities(model, views, flips, image.shape[-2:], window, stride)
    assert naive.error(multi, golden["probs_multi"]) < 5e-6


# ---------------------------------------------------------------- masks after the decoder's first block


def random_views():
    torch.manual_seed(0)
    return [torch.randn(1, 3, 20, 29), torch.randn(1, 3, 40, 58)], [True, False], (40, 58), 32, 20


@pytest.mark.parametrize("weight", [0.8, 2.5])
def test_early_masks_agree_with_one_window_at_a_time(weight):
    state = naive.random_segmenter_checkpoint("vit", seed=3)
    reference = {name: tensor.double() for name, tensor in state.items()}
    views, *rest = random_views()
    model = import_released_segmenter(state, num_heads=3, decoder_heads=3)
    found = predict_probabilities(model, views, *rest, weight)
    expected = naive.two_mask_scores(
        lambda x: naive.segmenter(reference, x, 3, 3, blocks=1),
        lambda x: naive.segmenter(reference, x, 3, 3),
        weight,
        [view.double() for view in views],
        *rest,
    )
    assert found.shape == (4, 40, 58) and found.dtype == torch.float32
    assert naive.error(found, expected) < 2e-5
    assert (found.sum(0) - (1 + weight)).abs().max() < 1e-5


def test_early_masks_agree_with_released_code(shared):
    golden = np.load(shared / "goldens" / "seg_vit_two_masks.npz")
    state = {key[3:]: torch.tensor(golden[key]) for key in golden.files if key.startswith("sd/")}
    model = import_released_segmenter(
        state, num_heads=int(golden["cfg/heads"]), decoder_heads=int(golden["cfg/decoder_heads"])
    )
    count = sum(key.startswith("ms/") for key in golden.files)
    views = [torch.tensor(golden[f"ms/{i}"]) for i in range(count)]
    flips = [bool(golden[f"ms_flip/{i}"]) for i in range(count)]
    size, weight = golden["image"].shape[-2:], float(golden["weight"])
    windows = int(golden["cfg/window"]), int(golden["cfg/stride"])
    last = predict_probabilities(model, views, flips, size, *windows)
    assert naive.error(last, golden["probs_second"]) < 5e-6
    scores = predict_probabilities(model, views, flips, size, *windows, weight)
    assert naive.error(scores, golden["scores"]) < 5e-6
    assert naive.error((scores - last) / weight, golden["probs_first"]) < 5e-6
    assert np.array_equal(scores.argmax(0).numpy(), golden["mask"])


def test_an_early_weight_of_zero_changes_and_computes_nothing(monkeypatch):
    model = import_released_segmenter(naive.random_segmenter_checkpoint(seed=3), num_heads=3, decoder_heads=3)
    monkeypatch.setattr(type(model), "masks_of_every_block", lambda *_: pytest.fail("early masks were computed"))
    views = random_views()
    assert torch.equal(predict_probabilities(model, *views, 0.0), predict_probabilities(model, *views))


def test_the_first_block_of_a_decoder_with_one_is_its_last():
    torch.manual_seed(0)
    backbone = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
    model = create_segmenter(backbone, 4, pretrained=False, image_size=32, decoder_depth=1).eval()
    views = random_views()
    found, plain = predict_probabilities(model, *views, 0.8), predict_probabilities(model, *views)
    assert torch.allclose(found, 1.8 * plain, rtol=1e-5, atol=1e-7)


def test_image_and_list_take_early_masks(tmp_path):
    """The CRF is given the raw sum, which it cuts to 1."""
    model = import_released_segmenter(naive.random_segmenter_checkpoint(seed=3), num_heads=3, decoder_heads=3)
    model.mean, model.std = naive.IMAGENET_MEAN, naive.IMAGENET_STD
    data = Photographs(tmp_path / "images", [(36, 40)])
    views = {"scales": (1.0,), "mirror": True, "base_size": 32, "window": 32, "stride": 20}
    image = data.image("im0")
    plain, scores = (segment(model, image, **views, early_weight=weight) for weight in (0.0, 0.8))
    assert scores.max() > 1 and np.allclose(scores.sum(0), 1.8, atol=1e-5)
    refined = segment(model, image, **views, crf="voc", early_weight=0.8)
    assert np.array_equal(refined, refine_probabilities(image, np.minimum(scores, 1), "voc"))
    for name, weight, expected in (("plain", 0.0, plain), ("early", 0.8, scores)):
        job = {"crf": "voc", "workers": 1, "progress": Count(), "early_weight": weight}
        segment_list(model, data, ["im0"], tmp_path / name, **job, **views)
        assert np.array_equal(read_label_png(tmp_path / name / "multi/im0.png"), expected.argmax(0))
    assert np.array_equal(read_label_png(tmp_path / "early/multi_crf/im0.png"), refined.argmax(0))


# ---------------------------------------------------------------- windows and views


@PROPERTY
@given(st.integers(0, 99), st.integers(9, 30), st.integers(9, 30), st.integers(1, 9))
def test_windows_cover_every_pixel_once_normalised(seed, height, width, stride):
    model, view = PixelModel(seed, window=9), torch.randn(3, height, width)
    found = predict_probabilities(model, [view], [False], (height, width), 9, stride)
    with torch.no_grad():
        expected = model.convolution(view[None])[0].softmax(0)
    assert (found - expected).abs().max() < 1e-6
    assert (found.sum(0) - 1).abs().max() < 1e-5


@PROPERTY
@given(st.integers(0, 99), st.integers(5, 30), st.integers(5, 30), st.integers(5, 40), st.integers(5, 40))
def test_mirroring_a_view_and_back_changes_nothing(seed, height, width, out_height, out_width):
    model, view = PixelModel(seed, window=8), torch.randn(3, height, width)
    plain = predict_probabilities(model, [view], [False], (out_height, out_width), 8, 5)
    mirrored = predict_probabilities(model, [view.flip(-1)], [True], (out_height, out_width), 8, 5)
    both = predict_probabilities(model, [view, view.flip(-1)], [False, True], (out_height, out_width), 8, 5)
    assert (plain - mirrored).abs().max() < 1e-5
    assert (plain - both).abs().max() < 1e-5


def test_windows_of_all_views_share_batches(monkeypatch):
    monkeypatch.setattr(segmentation, "WINDOW_PIXELS_AT_ONCE", 4 * 8**2 + 5)
    model, batches = PixelModel(window=8), []
    model.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    views = [torch.randn(3, 8, 20), torch.randn(3, 6, 6), torch.randn(3, 16, 16)]
    found = predict_probabilities(model, views, [False, True, False], (16, 20), 8, 8)
    assert batches == [4, 4]  # of three, one and four windows
    single = [predict_probabilities(model, [v], [f], (16, 20), 8, 8) for v, f in zip(views, [False, True, False])]
    assert (found - torch.stack(single).mean(0)).abs().max() < 1e-6


def test_probabilities_not_logits_are_averaged_over_the_views():
    model = PixelModel(1)
    views = [torch.zeros(3, 8, 8), 5 * torch.ones(3, 8, 8)]
    found = predict_probabilities(model, views, [False, False], (8, 8), 8, 8)
    with torch.no_grad():
        expected = torch.stack([model.convolution(view[None])[0].softmax(0) for view in views]).mean(0)
    assert (found - expected).abs().max() < 1e-6


def test_segment_averages_its_own_views():
    model, image = PixelModel(2, window=16), random_image(20, 31)
    scales, views, flips = (0.5, 1.0), [], []
    pixels = torch.tensor(image / 255).permute(2, 0, 1)
    pixels = (pixels - torch.tensor(naive.IMAGENET_MEAN)[:, None, None]) / torch.tensor(naive.IMAGENET_STD)[
        :, None, None
    ]
    for scale in scales:
        short = 24 * scale
        view = naive.resize(pixels, (round(short), int(31 * short / 20 + 0.5)))[None]
        views, flips = [*views, view, view.flip(-1)], [*flips, False, True]
    model.double()
    with torch.no_grad():
        expected = naive.predict_probabilities(model, views, flips, (20, 31), 16, 10)
    model.float()
    found = segment(model, image, scales=scales, mirror=True, base_size=24, window=16, stride=10)
    assert found.shape == (4, 20, 31)
    assert naive.error(found, expected) < 1e-5


def test_segment_with_crf_keeps_the_shape_and_sums_to_one():
    refined = segment(PixelModel(2), random_image(16, 18), base_size=16, window=16, stride=16, crf="voc")
    assert refined.shape == (4, 16, 18)
    assert np.allclose(refined.sum(0), 1, atol=1e-4)


# ---------------------------------------------------------------- bad input


def test_views_and_flips_of_different_counts_are_refused():
    with pytest.raises(ValueError):
        predict_probabilities(PixelModel(), [torch.zeros(3, 8, 8)], [False, True], (8, 8), 8, 8)


def test_unknown_cam_kind_is_refused_with_the_choices():
    model = import_released_cam(naive.random_cam_checkpoint(), num_heads=3)
    with pytest.raises(ValueError, match=r"'coarse'.*fused, patchcam, attn"):
        generate_cams(model, random_image(24, 24), np.ones(3), [1.0], kind="coarse")


@pytest.mark.parametrize("count", [2, 4])
def test_labels_of_another_length_than_the_classes_are_refused(count):
    model = import_released_cam(naive.random_cam_checkpoint(classes=3), num_heads=3)
    with pytest.raises(ValueError, match=rf"{count}.*3|3.*{count}"):
        generate_cams(model, random_image(24, 24), np.ones(count), [1.0])


def test_head_correlation_against_numpy():
    torch.manual_seed(0)
    backbone = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
    model = create_cam_model(backbone, 3, pretrained=False, image_size=32, reduction=2).eval()
    with torch.no_grad():
        output = model(torch.randn(1, 3, 32, 40))
    found = head_correlation(output, np.array([1, 0, 1]))
    expected = []
    for c in (0, 2):
        maps = [layer[0, head, c, -20:].numpy() for layer in output.attentions for head in range(layer.shape[1])]
        expected.append(np.corrcoef(maps))
    assert np.allclose(found, np.mean(expected, 0), atol=1e-5) and found.shape == (len(maps), len(maps))
    with pytest.raises(ValueError, match="shows no class"):
        head_correlation(output, np.zeros(3))


def test_a_look_shows_what_the_network_does_to_one_image():
    model = import_released_cam(naive.random_cam_checkpoint(seed=3), num_heads=3)
    image = random_image(40, 24)
    output = look(model, image, 0.8)
    x = normalise(rescale(image, 0.8), model.mean, model.std)[None]
    assert x.shape == (1, 3, 32, 19)
    with torch.no_grad():
        expected = model(x)
    assert torch.equal(output.fine_cam, expected.fine_cam) and torch.equal(output.head_weights, expected.head_weights)
    found = class_attention(output, 1)
    assert found.shape == (2, 3, 4, 2) and found.dtype == torch.float32
    for layer, head, row, column in np.ndindex(*found.shape):
        attention = expected.attentions[layer][0, head, 1]  # from class token 1 to three classes and eight patches
        assert found[layer, head, row, column] == attention[3 + row * 2 + column]
