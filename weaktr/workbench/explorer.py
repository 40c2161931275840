"""Sliders over the figures of `weaktr.plots`, for a person at the notebook.

Under the runner no widget is made: the figure is drawn once, from the first choice of everything, and returned.
Otherwise the same call gives sliders and drop-down lists.
"""

import io
from collections.abc import Mapping
from numbers import Real

from . import stage


def interactive(function, **choices):
    """A figure that follows its controls.

    `function(**values)` returns a matplotlib Figure; `choices` gives for each of its arguments a sequence of values
    or a dict {label: value}. The first is where it starts. Numbers become a slider, in ascending order; all else
    becomes a drop-down list. Errors of `function` show where the figure would. In batch: returns the first figure as a
    picture; else an ipywidgets box. Raises ValueError for an argument without a choice.
    """
    options = {name: _options(name, values) for name, values in choices.items()}
    first = {name: pairs[0][1] for name, pairs in options.items()}
    if not stage.interactive():
        return _picture(function(**first))

    import ipywidgets as widgets
    from IPython.display import display

    controls = {}
    for name, pairs in options.items():
        keywords = {"description": name.replace("_", " "), "value": first[name]}
        if all(isinstance(value, Real) for _, value in pairs):
            pairs = sorted(set(pairs), key=lambda pair: pair[1])
            controls[name] = widgets.SelectionSlider(options=pairs, continuous_update=False, **keywords)
        else:
            controls[name] = widgets.Dropdown(options=pairs, **keywords)

    def draw(**values):
        display(_picture(function(**values)))

    output = widgets.interactive_output(draw, controls)
    return widgets.VBox([widgets.HBox(list(controls.values()), layout={"flex_flow": "row wrap"}), output])


def _options(name, values):
    """Choices as pairs (label, value)."""
    pairs = list(values.items()) if isinstance(values, Mapping) else [(str(value), value) for value in values]
    if not pairs:
        raise ValueError(f"{name}: nothing to choose from; give at least one value")
    return pairs


def _picture(figure):
    """The figure as a PNG to display, whatever matplotlib's backend; the figure is closed."""
    from IPython.display import Image
    from matplotlib import pyplot

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=2 * 100)
    pyplot.close(figure)
    return Image(buffer.getvalue(), format="png", width=int(100 * figure.get_figwidth()))
