"""Tables in, figures out: every figure of the notebooks by name. It knows no run and no sweep.

Pure functions: pandas or numpy in, a new `matplotlib.figure.Figure` out. pyplot does not know the figures, so there is
nothing to close. mIoU, IoU, AP and mAP are in percent; shares, precision and recall in 0..1.
"""

from .dense import *  # noqa: F403
from .figures import *  # noqa: F403
from .paper import *  # noqa: F403
