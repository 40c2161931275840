"""CAMs as the network gives them, a small grid per scale, at image size, and in files.

A CAM is the sum of a few enlarged grids of tokens (METHOD, "CAM generation and seeds"). The grids are a few hundredths
of the map's size and give it back to the last bit, so they are what is stored.
"""

import zipfile
import zlib

import numpy as np

from ..errors import DataError
from ..files import atomic


def enlarge(grids, size):
    """{class from 0: [(h,w) float32, a grid for each scale]} → CAMs {class: (H,W) float32 in 0..1}; size: (H,W).

    Each grid is stretched to the image bilinearly; the sum of all is stretched to 0…1.
    """
    cams = {}
    for c, scales in grids.items():
        total = sum(_bilinear(_bilinear(grid, 0, size[0]), 1, size[1]) for grid in scales)
        low, high = total.min(), total.max()
        cams[c] = (total - low) / (high - low + np.float32(1e-8))
    return cams


def _bilinear(grid, axis, length):
    """F.interpolate(mode="bilinear", align_corners=False) along one axis."""
    have = grid.shape[axis]
    place = np.maximum((np.arange(length) + 0.5) * have / length - 0.5, 0)
    before = place.astype(int)
    after = np.minimum(before + 1, have - 1)
    share = np.float32(place - before).reshape((-1, 1) if axis == 0 else (1, -1))
    return grid.take(before, axis) * (1 - share) + grid.take(after, axis) * share


def save_cams(path, grids, size):
    """Write the CAMs of one image of `size` (H,W) as grids (see `enlarge`), float32 in an npz, whole or not at all."""
    scales = {f"grid{k}": np.stack(scale) for k, scale in enumerate(zip(*grids.values(), strict=True))}
    with atomic(path) as aside:
        np.savez_compressed(aside, size=np.int32(size), classes=np.array(list(grids), np.int32), **scales)


def load_cams(path):
    """Read what save_cams wrote → {class from 0: (H,W) float32 in 0..1}. Raises DataError when missing or broken."""
    try:
        with np.load(path) as file:
            scales = [file[name] for name in file.files if name.startswith("grid")]
            grids = {int(c): [scale[row] for scale in scales] for row, c in enumerate(file["classes"])}
            return enlarge(grids, file["size"])
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"CAM file {path} cannot be read ({error}); delete it and the metrics.json of 02_cam_generation, then "
            "run that stage again: it makes what is missing"
        ) from error


def read_cams(image_id, folder):
    """`load_cams` of an image, from its file in `folder`."""
    return load_cams(folder / f"{image_id}.npz")
