"""Numbers and names in words, for captions and verdicts."""

import re
from collections.abc import Iterable

from ..evaluation.intervals import LEVEL, Estimate

IN_PERCENT = ("mIoU", "mAP")  # the names of other metrics hold their unit
CAPTIONS = {  # what the notebooks' figures show, by the name of their files
    # 01 CAM training
    "samples": "Images of the training list with their names and, for the reader alone, their masks.",
    "class_frequencies": "How many images of the training list show each class.",
    "co_occurrence": "Of the images that show the row's class, the share that shows the column's too.",
    "training": "The terms of the loss, mean average precision on the validation list and learning rate by epoch.",
    "head_weight_history": "The fusion's weights of all heads during training, their spread, and how alike the "
    "attention of the classes is (1: still copies of each other).",
    "average_precision": "How well the network names each class, by image labels alone.",
    # 02 CAM generation
    "cam_stages": "From the coarse CAM over attention and fused CAM to the fine one; the line is the true outline.",
    "compositions": "mIoU of the seeds of each composition over the background score; rings mark the best (oracle).",
    "attention_heads": "What the class token of each head looks at; number and frame are the head's weight.",
    "head_weights": "The fusion's weights, mean over images: as a table, and by layer with their deviation.",
    "head_weight_histogram": "How many heads have which mean weight in the fusion.",
    "head_correlation": "How alike the attention of every two heads is, from −1 to 1, layer after layer.",
    "attention_of_place": "Attention of one patch, the square, and of the class token, and the CAMs that come of them.",
    "score_histogram": "The strongest map of every pixel, and the background score that its shape suggests.",
    "threshold_curve": "mIoU of the seeds and their two kinds of error over the background score.",
    # 03 pseudo labels
    "per_class": "IoU of each class.",
    "crf_gain": "What the CRF changes in each image's own mIoU.",
    "seed_to_label": "Seeds, CAM labels and what became of their pixels; where something is wrong, it is coloured.",
    # 04 online retraining
    "clipping": "Loss and clipping during training, and how many of the clipped pixels have a wrong label.",
    "clipped_pixels": "Labels, losses and clipped pixels of the watched images at the end of training.",
    "masks": "Masks of the network that was given.",
    # 05 evaluation
    "stages": "mIoU of every stage of the chain; hatched bars saw masks.",
    "chain": "The first images of the training list in every stage, and their truth.",
    "confusion": "Where the pixels of each true class go, in percent of them.",
    "best_typical_worst": "Images with the best, the median and the worst mIoU of their own.",
    "size_against_iou": "Each class of each image: the share of the image that it fills, and its IoU.",
    "photograph": "One photograph and its mask.",
    # 06 ablations
    "published_methods": "Published mIoU on VOC12 and COCO14, by kind of network.",
}


def runs_in_words(numbers: Iterable[int]) -> str:
    """How many runs each of several means rests on: "3 random seeds", or "2–3 random seeds"."""
    numbers = list(numbers)
    few = min(numbers)
    many = max(numbers)
    count = f"{few}" if few == many else f"{few}–{many}"
    return f"{count} random seeds" if many > 1 else f"{count} random seed"


def variant_in_words(variant: str) -> str:
    """The name of a variant's folder in words: "cam_scales=0.8_1.0" → "cam scales 0.8, 1.0"."""
    between_parameters = r"[ ,](?=\w+=)"
    between_numbers = r"(?<=\d)_(?=\d)"
    words = re.sub(f"{between_parameters}|{between_numbers}", ", ", variant)
    return words.replace("=", " ").replace("_", " ")


def metric_in_words(metric: str) -> str:
    """What a metrics record calls its metric, with its unit and without of what: "mIoU of mask" → "mIoU (%)"."""
    name = metric.partition(" ")[0]
    return f"{name} (%)" if name in IN_PERCENT else metric


def verdict(found: Estimate, name: str, baseline: str) -> str:
    """What the difference of a variant from its baseline says, in a sentence computed from its numbers.

    Args:
        found: the difference in points of mIoU, from `intervals.difference`.
        name: the variant, as its folder is called.
        baseline: what it is compared with, as its folder is called.
    """
    name = variant_in_words(name)
    baseline = variant_in_words(baseline)
    digits = 1 if min(abs(found.low), abs(found.high)) >= 0.05 else 2  # an edge that is not zero never reads 0.0
    interval = f"{100 * LEVEL:.0f} % interval {found.low:+.{digits}f} to {found.high:+.{digits}f}"
    seeds = f"{found.seeds} random seeds" if found.seeds > 1 else "1 random seed, so over images only"
    numbers = f"{found.value:+.1f} points ({interval}, {seeds})".replace("-", "−")
    if found.low <= 0 <= found.high:
        return f"{name} against {baseline}: {numbers}: no difference that could be told at this size."
    direction = "better" if found.value > 0 else "worse"
    return f"{name} is {direction} than {baseline}: {numbers}."
