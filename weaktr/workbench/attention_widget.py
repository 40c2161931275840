"""Attention that can be touched: the kernel computes small maps, the browser lays them over the photograph.

`attention_widget.js` is the browser's half. What goes to it is one photograph as a JPEG for each image, and for each
touch five maps of a byte for each patch; the network's output stays here.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import matplotlib as mpl
import numpy as np
import traitlets
from PIL import Image

from ..method import attention_view
from ..models.cam import CamOutput
from ..plots import place_titles
from ..plots.parts import HEAT, OPACITY, stretched

Choice = tuple[str, int]  # id of an image, and a class from 0


class AttentionWidget(anywidget.AnyWidget):
    """One image and class, the maps seen from a patch of it, and a switch for each head."""

    _esm = Path(__file__).with_name("attention_widget.js")
    _css = Path(__file__).with_name("attention_widget.css")

    # What the kernel tells the browser.
    choices = traitlets.List(traitlets.Unicode()).tag(sync=True)  # labels
    colours = traitlets.Bytes().tag(sync=True)  # red, green and blue of the values 0…255
    opacity = traitlets.Float(OPACITY).tag(sync=True)
    scene = traitlets.Dict().tag(sync=True)  # of an image and class: photo, weights, titles
    view = traitlets.Dict().tag(sync=True)  # of a touch: grid, place, maps, text

    # What the browser tells the kernel.
    choice = traitlets.Int(0).tag(sync=True)
    place = traitlets.List(traitlets.Int()).tag(sync=True)
    shown = traitlets.List(traitlets.Int()).tag(sync=True)  # [], [layer] or [layer, head]: whose map is looked at
    on = traitlets.List(traitlets.Bool()).tag(sync=True)  # heads, those of a layer side by side

    def __init__(
        self,
        look: Callable[[np.ndarray], CamOutput],
        read: Callable[[str], np.ndarray],
        choices: Mapping[str, Choice],
        class_names: Sequence[str],
    ) -> None:
        """Show the first choice, from the patch where its fine CAM is highest.

        Args:
            look: the network's output for an image.
            read: the image of an id.
            choices: {label: (id, class from 0)}.
            class_names: of the C foreground classes.
        """
        table = mpl.colormaps[HEAT](np.arange(256), bytes=True)[:, :3]
        super().__init__(choices=list(choices), colours=table.tobytes())
        self._look = look
        self._read = read
        self._choices = list(choices.values())
        self._class_names = class_names
        self._choose()
        self.place = list(attention_view.brightest(self._output, self._class))
        self.on = [True] * self._weights.size
        self._see()
        self.observe(self._answer, ["choice", "place", "shown", "on"])

    def _answer(self, change: Any) -> None:
        with self.hold_sync():  # a new photograph and its maps arrive together
            if change.name == "choice":
                self._choose()
            self._see()

    def _choose(self) -> None:
        """Look at the chosen image."""
        image_id, self._class = self._choices[self.choice]
        image = self._read(image_id)
        self._output = self._look(image)
        self._weights = attention_view.head_weights(self._output)
        self.scene = {
            "photo": _jpeg(image),
            "weights": self._weights.tolist(),
            "titles": place_titles(self._class_names[self._class]),
        }

    def _see(self) -> None:
        """Make the maps that the browser's choices ask for."""
        rows, columns = self._output.coarse_cam.shape[2:]
        place = min(self.place[0], rows - 1), min(self.place[1], columns - 1)  # an image may have fewer than another
        on_LH = np.reshape(self.on, self._weights.shape)
        weights_LH = np.where(on_LH, self._weights, 0).astype(np.float32)
        maps = attention_view.seen_from(self._output, self._class, place, weights_LH, *self.shown)
        bytes_of = [np.uint8(np.rint(255 * stretched(values))).tobytes() for values in maps.values()]
        text = (
            f"Row {place[0] + 1} of {rows}, column {place[1] + 1} of {columns}: "
            f"coarse CAM {maps['coarse'][place]:.3g}, "
            f"fused {maps['fused'][place]:.3g}, fine {maps['fine'][place]:.3g}. "
            f"{sum(self.on)} of {len(self.on)} heads are on."
        )
        self.view = {"grid": [rows, columns], "place": list(place), "maps": b"".join(bytes_of), "text": text}


def _jpeg(image: np.ndarray) -> bytes:
    """An image (H, W, 3) in grey, over which maps are laid."""
    buffer = io.BytesIO()
    Image.fromarray(image).convert("L").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
