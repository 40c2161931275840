"""Sliders over the figures of `weaktr.plots`, and attention that can be touched, for a person at the notebook.

Where nobody watches, no widget is made: under the runner, and under papermill or nbconvert alone. The figure is then
drawn once, from the first choice of everything, and returned. Otherwise the same call gives sliders and lists.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..data.dataset import Dataset
from .stage import interactive

if TYPE_CHECKING:
    from ..models.cam import CamModel

PIXELS_PER_INCH = 100  # as shown; drawn at twice as many, for screens of high resolution


def explore(function: Callable[..., Any], **choices: Sequence | Mapping[str, Any]) -> Any:
    """A figure that follows its controls.

    Args:
        function: Called with a value for each of `choices` by name; returns a matplotlib Figure. What it raises is
            shown below the figure.
        **choices: For each argument a sequence of values or a dict {label: value}; the first is where it starts.
            Numbers become a slider, in ascending order, all else a drop-down list.

    Returns:
        In batch the first figure as a picture, else an ipywidgets box.

    Raises:
        ValueError: For an argument without a choice.
    """
    options = {name: _labelled(name, values) for name, values in choices.items()}
    if not watched():
        from IPython import display

        png, width, _ = _drawn(function(**{name: pairs[0][1] for name, pairs in options.items()}))
        return display.Image(png, format="png", width=width)

    import ipywidgets as widgets

    controls = {name: _control(name, pairs) for name, pairs in options.items()}
    picture = widgets.Image(format="png", layout={"margin": "0px"})
    frame = widgets.Box([picture], layout={"overflow": "hidden", "align_items": "flex-start", "min_height": "0px"})
    error = widgets.Label()

    def draw() -> None:
        png, width, height = _drawn(function(**{name: control.value for name, control in controls.items()}))
        tallest = max(height, int(frame.layout.min_height.removesuffix("px")))
        frame.layout.min_height = f"{tallest}px"  # what stands below does not move up where a lower figure follows
        with picture.hold_sync():
            picture.set_trait("width", str(width))
            picture.set_trait("height", str(height))
            picture.value = png

    def redraw(_change: Any) -> None:
        error.value = ""
        try:
            draw()
        except Exception as raised:  # while it answers the browser, only the server's log would show it
            error.value = f"{type(raised).__name__}: {raised}"

    draw()
    for control in controls.values():
        control.observe(redraw, "value")
    return widgets.VBox([widgets.HBox(list(controls.values()), layout={"flex_flow": "row wrap"}), frame, error])


def watched() -> bool:
    """Whether a person sees what this cell shows.

    A front end with a person says with every cell that it can ask for input; nbclient, which executes the cells for
    papermill and nbconvert, says that it cannot.
    """
    from IPython import get_ipython

    shell = get_ipython()
    if not interactive() or not hasattr(shell, "kernel"):
        return False
    request = shell.kernel.get_parent("shell").get("content", {})
    return bool(request.get("allow_stdin"))


def explore_attention(
    model: "CamModel", data: Dataset, choices: Mapping[str, tuple[str, int]], scale: float = 1.0
) -> Any:
    """Attention that can be touched, see `AttentionWidget`; nothing where nobody watches.

    Args:
        model: of step 1.
        data: gives the images.
        choices: {label: (image id, class from 0)}; the first is where it starts.
        scale: factor of the images' size.
    """
    if not watched():
        return None

    from ..method.cam_generation import look
    from .attention_widget import AttentionWidget

    return AttentionWidget(partial(look, model, scale=scale), data.image, choices, data.classes)


def _labelled(name: str, values: Sequence | Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Choices as pairs (label, value)."""
    if not values:
        raise ValueError(f"{name}: nothing to choose from; give at least one value")
    if isinstance(values, Mapping):
        return list(values.items())
    return [(str(value), value) for value in values]


def _control(name: str, pairs: list[tuple[str, Any]]) -> Any:
    """A slider over numbers, or a drop-down list, that stands at the first of the pairs."""
    import ipywidgets as widgets

    description = name.replace("_", " ")
    first = pairs[0][1]
    if not all(isinstance(value, Real) for _, value in pairs):
        return widgets.Dropdown(options=pairs, value=first, description=description)
    ascending = sorted(set(pairs), key=lambda pair: pair[1])
    return widgets.SelectionSlider(options=ascending, value=first, description=description, continuous_update=False)


def _drawn(figure: Any) -> tuple[bytes, int, int]:
    """The figure as a PNG, whatever matplotlib's backend, with its width and height as shown; the figure is closed."""
    from matplotlib import pyplot

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=2 * PIXELS_PER_INCH)
    pyplot.close(figure)
    with Image.open(buffer) as picture:  # what is saved may be cut to what is drawn
        width, height = picture.size
    shown = width // 2
    return buffer.getvalue(), shown, math.ceil(shown * height / width)
