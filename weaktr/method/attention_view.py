"""What is seen from one place of an image, and what becomes of its CAM where heads are weighed otherwise.

Everything is formed by the functions that the network itself uses: `fuse` and `compose`.
"""

import numpy as np
import torch
from torch import Tensor

from ..models.cam import CamOutput, Composition, compose
from ..models.fusion import fuse

Place = tuple[int, int]  # row and column of a patch, from 0


def head_weights(output: CamOutput) -> np.ndarray:
    """The weights that the fusion gave the heads; CamOutput of one image → (L,H) float32."""
    return output.head_weights[0].float().cpu().numpy()


def of_map(weights_LH: np.ndarray, layer: int | None = None, head: int | None = None) -> np.ndarray:
    """The weights (L,H) with which the fusion adds up a part of the maps.

    Args:
        weights_LH: of all heads.
        layer: from 0, whose heads alone count as they are weighed; None for all layers.
        head: from 0, which alone counts in that layer, whatever its weight is, so that it can be looked at.
    """
    if layer is None:
        return weights_LH
    part_LH = np.zeros_like(weights_LH)
    if head is None:
        part_LH[layer] = weights_LH[layer]
    else:
        part_LH[layer, head] = 1
    return part_LH


@torch.inference_mode()
def compose_weighed(output: CamOutput, weights_LH: np.ndarray) -> Composition:
    """What the network would make of one image, were these the weights (L,H) of its heads."""
    weights_1LH = torch.from_numpy(weights_LH[None]).to(output.head_weights)
    return compose(output.coarse_cam, fuse(output.attentions, weights_1LH))


def brightest(output: CamOutput, c: int) -> Place:
    """The patch at which the fine CAM of a class, from 0, is highest; CamOutput of one image."""
    fine_hw = _numpy(output.fine_cam[0, c])
    row, column = np.unravel_index(fine_hw.argmax(), fine_hw.shape)
    return int(row), int(column)


def seen_from(
    output: CamOutput,
    c: int,
    place: Place,
    weights_LH: np.ndarray,
    layer: int | None = None,
    head: int | None = None,
) -> dict[str, np.ndarray]:
    """The maps of one image and class in the order in which one becomes the next.

    The fine CAM at the place is the sum of the fused CAM over all patches, weighed by the attention of the place in the
    fused map.

    Args:
        output: of one image.
        c: the class, from 0.
        place: the patch whose attention is shown.
        weights_LH: of the heads, 0 for those that are switched off.
        layer: see `of_map`; it and `head` choose the map of which "patch" and "class token" are rows.
        head: see `of_map`.

    Returns:
        {"patch": its attention to all patches, "class token": that of the class, "coarse": the CAM before its ReLU,
        "fused", "fine"}, each (h,w) float32; the last three are those of all heads together.
    """
    whole = compose_weighed(output, weights_LH)
    part = whole if layer is None else compose_weighed(output, of_map(weights_LH, layer, head))
    grid = output.coarse_cam.shape[2:]
    row, column = place
    maps = {
        "patch": part.patch_attention[0, row * grid[1] + column].unflatten(0, grid),
        "class token": part.cross_attention[0, c],
        "coarse": output.coarse_cam[0, c],
        "fused": whole.fused_cam[0, c],
        "fine": whole.fine_cam[0, c],
    }
    return {name: _numpy(values) for name, values in maps.items()}


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
