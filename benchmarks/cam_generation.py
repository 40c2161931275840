"""What does CAM generation cost beyond the network? 500×375, scales 1.0 and 1.2, mirrored, against plain forwards.

    .venv/bin/python benchmarks/cam_generation.py

From JPEG files to CAM files. The released way, written here from docs/method.md: a view at a time, all maps stacked.
All ways run in one process, as kernels do with `processes.KEEP_FREED_MEMORY` in their environment where the shell sets
it. Random weights and images: the time of the network does not depend on them.
"""

import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import timm
import torch
from cam_step import stacked_fusion
from PIL import Image
from side_by_side import measure

from weaktr.data.images import read_image
from weaktr.device import pick_device
from weaktr.method import cam_generation
from weaktr.method.cam_generation import generate_grids, mirrored_views
from weaktr.method.cams import save_cams
from weaktr.models.cam import cam_variant, create_cam_model

BACKBONE, CLASSES, IMAGES, SIZE, SCALES = "deit_small_patch16_224", 20, 3, (375, 500), (1.0, 1.2)


class Photographs:
    """Smooth random JPEG files in a folder, of one to three classes each."""

    def __init__(self, folder, images=IMAGES, size=SIZE):
        rng, self.folder, self.names = np.random.default_rng(0), folder, [f"im{i}" for i in range(images)]
        self.present = {i: np.zeros(CLASSES, np.float32) for i in self.names}
        for image_id in self.names:
            self.present[image_id][rng.choice(CLASSES, rng.integers(1, 4), replace=False)] = 1
            coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(folder / f"{image_id}.jpg")

    def ids(self, list_name=""):
        return self.names

    def image_path(self, image_id):
        return self.folder / f"{image_id}.jpg"

    def image(self, image_id):
        return read_image(self.image_path(image_id))

    def warm(self):
        """Nothing is shared by the labels."""

    def labels(self, image_id):
        return self.present[image_id]


@torch.inference_mode()
def plain_forwards(plain, pairs):
    """The four views, resized and normalised beforehand, through a plain classifier, and nothing else."""
    for pair in pairs:
        for view in pair:
            height, width = (side // 16 * 16 for side in view.shape[1:])  # the remainder is dropped, as ours does
            plain(view[None, :, :height, :width])
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@torch.inference_mode()
def view_by_view(model, image, labels):
    """The fine CAMs of the present classes as token grids, each view by itself."""
    found = {int(c): [] for c in np.flatnonzero(labels)}
    for pair in mirrored_views(model, [image], SCALES):
        straight, mirrored = (cam_variant(model(view[None]), "fused", True)[0].float().cpu() for view in pair)
        for c, grids in found.items():
            grids.append((straight[c] + mirrored[c].flip(-1)).numpy())
    return found


def shared_passes():
    """The embedded data set's size and network, where a pair of views is too small to fill two cores."""
    model = create_cam_model("weaktr_tiny_patch8_96", CLASSES, image_size=96).to(pick_device()).eval()
    with tempfile.TemporaryDirectory() as folder:
        folder, bar = Path(folder), SimpleNamespace(update=lambda n: None)
        data = Photographs(folder, 64, (112, 112))

        def way(pixels):
            for i in data.names:
                (folder / f"{i}.npz").unlink(missing_ok=True)
            with patch.multiple(cam_generation, BATCH_PIXELS=pixels, BATCH_PIXELS_GPU=pixels):
                cam_generation.generate_list(model, data, data.names, (0.8, 1.0), {folder: ("fused", True)}, bar)

        together = partial(way, cam_generation.BATCH_PIXELS)
        ways = {"an image at a time": partial(way, 1), "images of one size together": together}
        measure(ways, rounds=5, name="cam_generation_small")


def main():
    """A short list of images each."""
    device = pick_device()
    plain = timm.create_model(BACKBONE, num_classes=CLASSES, dynamic_img_size=True).to(device).eval()
    ours, released = (
        create_cam_model(BACKBONE, CLASSES, pretrained=False, keep_maps=keep).to(device).eval() for keep in (None, True)
    )
    released.fusion.forward = lambda maps, outputs: stacked_fusion(released.fusion, maps, outputs)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        data, bar = Photographs(folder), SimpleNamespace(update=lambda n: None)
        pairs = [mirrored_views(ours, [data.image(i)], SCALES) for i in data.names]

        def in_turn(grids_of):
            for i in data.names:
                image = data.image(i)
                save_cams(folder / f"{i}.npz", grids_of(image, data.labels(i)), image.shape[:2])

        def by_pairs(image, labels):
            return generate_grids(ours, mirrored_views(ours, [image], SCALES), [labels], [("fused", True)])[0][0]

        def side_by_side(model):
            for i in data.names:
                (folder / f"{i}.npz").unlink(missing_ok=True)
            cam_generation.generate_list(model, data, data.names, SCALES, {folder: ("fused", True)}, bar)

        measure(
            {
                "four plain forwards": lambda: [plain_forwards(plain, views) for views in pairs],
                "files, one thing after the other": lambda: in_turn(by_pairs),
                "files, read and write beside the network": lambda: side_by_side(ours),
                "files, a view at a time, all maps stacked": lambda: in_turn(partial(view_by_view, released)),
            },
            rounds=3,
            name="cam_generation",
        )
    shared_passes()


if __name__ == "__main__":
    main()
