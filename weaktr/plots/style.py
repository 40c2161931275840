"""How figures look: the style file, and widths, colours, dashes and markers by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.style

STYLE = Path(__file__).with_name("paper.mplstyle")

# Widths in inches: two columns of a paper, and one.
WIDTH = 7.2
COLUMN = 3.5

# The colours of Okabe and Ito can be distinguished with every common colour blindness.
BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
ORANGE = "#E69F00"
SKY = "#56B4E9"
BLACK = "#000000"
YELLOW = "#F0E442"
OKABE_ITO = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW)
GREY = "0.45"

# Every series has a second mark, so that it can be recognised in grey too.
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
HATCHES = ("", "///", "...", "xxx")


@contextmanager
def style() -> Iterator[None]:
    """Context manager, and decorator, under which matplotlib draws in `paper.mplstyle`."""
    with matplotlib.style.context(STYLE):
        yield


def use_style() -> None:
    """Make `paper.mplstyle` the style of everything drawn and saved from here on (fonts stay text in PDFs)."""
    matplotlib.style.use(STYLE)
