"""Figures: tables and pictures in, a matplotlib Figure out.

One file a notebook: training (01, and 04's history), cams (02), labels (pictures of 03 and 04), evaluation (05) and
sweeps (06); style.py says how they look, parts.py holds what they share and captions.py puts numbers in words.

The room knows no run, no stage and no sweep folder: it reads no file but its style, and writes none. Every figure is a
new `matplotlib.figure.Figure` that pyplot does not know, so there is nothing to close.

Everywhere, unless a figure says otherwise:

* an image is uint8 (H, W, 3);
* a mask is uint8 (H, W): 0 background, c + 1 for class c, 255 void;
* a map is float (h, w), of any size, and is stretched over its image;
* `class_names` are the names of the C foreground classes;
* `on` says in words which list and how many images the numbers are from, such as "val (200 images)";
* mIoU, IoU, AP and mAP are in percent; shares, precision and recall in 0…1.
"""

from ..evaluation.scores import clipping_scores  # the numbers under `clipped_pixels`
from .cams import (
    attention_gallery,
    attention_of_place,
    cam_stages,
    curves,
    head_correlation,
    head_weight_histogram,
    head_weights,
    place_titles,
    score_histogram,
    seed_view,
    threshold_curve,
)
from .evaluation import best_typical_worst, confusion, qualitative_grid, size_against_iou, stage_bars
from .labels import clipped_pixels, crf_gain, iou_comparison, label_grid
from .parts import colour_mask, heat, mask_over
from .style import COLUMN, WIDTH, use_style
from .sweeps import main_rows, published, sweep
from .training import (
    clipping_history,
    co_occurrence,
    head_weight_history,
    per_class_bars,
    sample_sheet,
    training_history,
)

__all__ = [
    "COLUMN",
    "WIDTH",
    "attention_gallery",
    "attention_of_place",
    "best_typical_worst",
    "cam_stages",
    "clipped_pixels",
    "clipping_history",
    "clipping_scores",
    "co_occurrence",
    "colour_mask",
    "confusion",
    "crf_gain",
    "curves",
    "head_correlation",
    "head_weight_histogram",
    "head_weight_history",
    "head_weights",
    "heat",
    "iou_comparison",
    "label_grid",
    "main_rows",
    "mask_over",
    "per_class_bars",
    "place_titles",
    "published",
    "qualitative_grid",
    "sample_sheet",
    "score_histogram",
    "seed_view",
    "size_against_iou",
    "stage_bars",
    "sweep",
    "threshold_curve",
    "training_history",
    "use_style",
]
