"""CAMs as the network gives them, a small grid per scale, at image size, and in files.

A CAM is the sum of a few enlarged grids of tokens (docs/method.md, "CAM generation and seeds"). The grids are a few
hundredths of the map's size and give it back to the last bit, so they are what is stored.
"""

from pathlib import Path

import numpy as np

from ..errors import DataError
from ..files import atomic

Grids = dict[int, list[np.ndarray]]  # by class from 0: (h,w) float32, a grid for each scale


def enlarge(grids: Grids, size: tuple[int, int] | np.ndarray) -> dict[int, np.ndarray]:
    """CAMs at the size (H,W) of their image → {class from 0: (H,W) float32 in 0…1}.

    Each grid is stretched to the image bilinearly; the sum of all is stretched to 0…1.
    """
    height, width = size
    cams = {}
    for c, scales in grids.items():
        total = np.zeros((height, width), np.float32)
        for grid in scales:
            total = total + _bilinear(_bilinear(grid, 0, height), 1, width)
        low, high = total.min(), total.max()
        cams[c] = (total - low) / (high - low + np.float32(1e-8))
    return cams


def _bilinear(grid: np.ndarray, axis: int, length: int) -> np.ndarray:
    """`F.interpolate(mode="bilinear", align_corners=False)` along one axis.

    By numpy: the processes that refine labels read CAMs, and importing torch would take each of them seconds.
    """
    have = grid.shape[axis]
    place = np.maximum((np.arange(length) + 0.5) * have / length - 0.5, 0)
    before = place.astype(int)
    after = np.minimum(before + 1, have - 1)
    share = np.float32(place - before).reshape((-1, 1) if axis == 0 else (1, -1))
    return grid.take(before, axis) * (1 - share) + grid.take(after, axis) * share


def save_cams(path: Path, grids: Grids, size: tuple[int, int]) -> None:
    """Write the CAMs of one image of `size` (H,W) as grids (see `enlarge`), float32 in an npz, whole or not at all."""
    by_scale = zip(*grids.values(), strict=True)
    arrays = {"size": np.array(size, np.int32), "classes": np.array(list(grids), np.int32)}
    arrays |= {f"grid{number}": np.stack(scale) for number, scale in enumerate(by_scale)}
    with atomic(path) as aside:
        np.savez_compressed(aside, allow_pickle=False, **arrays)


def load_cams(path: Path) -> dict[int, np.ndarray]:
    """Read what `save_cams` wrote → {class from 0: (H,W) float32 in 0…1}.

    Raises:
        DataError: For a file that is missing or broken.
    """
    try:
        with np.load(path) as file:
            scales = [file[name] for name in file.files if name.startswith("grid")]
            grids = {int(c): [scale[row] for scale in scales] for row, c in enumerate(file["classes"])}
            return enlarge(grids, file["size"])
    except Exception as error:  # the readers of zip files and arrays raise many kinds about damaged ones
        raise DataError(
            f"CAM file {path} cannot be read ({error}); delete it and the metrics.json of 02_cam_generation, then "
            "run that stage again: it makes what is missing"
        ) from error


def cam_file(image_id: str, folder: Path) -> Path:
    """Where the CAMs of an image lie in a folder of them."""
    return folder / f"{image_id}.npz"


def read_cams(image_id: str, folder: Path) -> dict[int, np.ndarray]:
    """`load_cams` of an image, from its file in `folder`."""
    return load_cams(cam_file(image_id, folder))
