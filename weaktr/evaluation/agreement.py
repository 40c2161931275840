"""Whether labels that another method made agree with what else is known of their images: its names and its mask.

Gross disagreement is a mistake of files and not of a method: classes numbered in another way, labels mirrored, turned
or shifted. Each function says in words what it finds.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from ..data.dataset import Dataset
from ..data.images import VOID
from .metrics import confusion_matrix, mean_iou
from .scores import ListScore, add_up

LEAST_NAMED = 0.5  # share of a class' pixels that lie in images which show it; weak labels have nearly all of them
LEAST_MIOU = 20  # percent
MARKEDLY = 10  # points of mIoU by which another view has to fit better, and in hundredths a share
NEAREST, FARTHEST = 4, 64  # pixels by which labels are moved, to see whether they are shifted

Pair = tuple[np.ndarray, np.ndarray]  # label and mask of an image (H,W)
Labels = Callable[[str], np.ndarray]  # id → label (H,W)


# ── Names ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def numbered_otherwise(counts_nV: np.ndarray, labels_nC: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Values whose pixels lie where the image labels do not show their class.

    Args:
        counts_nV: pixels of each value 0…255 in each image.
        labels_nC: 0/1, the image-level labels.
        classes: names of the C classes.

    Returns:
        A sentence for each such value, with the class that its images do show where there is one.
    """
    found = []
    for c, name in enumerate(classes):
        pixels = counts_nV[:, c + 1]
        if not pixels.any():
            continue
        shares = pixels @ labels_nC / pixels.sum()  # of its pixels, those in images that show each class
        if shares[c] >= LEAST_NAMED:
            continue
        best = int(shares.argmax())
        text = f"of value {c + 1} ({name}) {shares[c]:.0%} of the pixels are in images that show {name}"
        if shares[best] > shares[c] + MARKEDLY / 100:
            text += f", {shares[best]:.0%} in images that show {classes[best]} (value {best + 1})"
        found.append(text)
    return found


# ── Masks ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def placed_otherwise(pairs: Sequence[Pair], num_classes: int) -> str:
    """Whether labels fit the masks better when mirrored, turned or shifted, or do not fit at all.

    Args:
        pairs: labels and masks of some images.
        num_classes: K, with background.

    Returns:
        A sentence, "" where nothing is wrong.
    """
    own = _miou(pairs, num_classes)
    views = _views(pairs)
    fits = {words: _miou(moved, num_classes) for words, moved in views.items()}
    best = max(fits, key=lambda words: fits[words])
    if fits[best] > own + MARKEDLY:
        return f"they fit the masks better {best}: mIoU {fits[best]:.0f} % instead of {own:.0f} %"
    if own < LEAST_MIOU:
        return f"they hardly fit the masks: mIoU {own:.0f} %"
    return ""


def _miou(pairs: Sequence[Pair], num_classes: int) -> float:
    return mean_iou(np.sum([_confusion(label, truth, num_classes) for label, truth in pairs], 0))


def _confusion(label: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels that either leaves void are not compared."""
    return confusion_matrix(label, np.where(label == VOID, VOID, truth), num_classes)


def _views(pairs: Sequence[Pair]) -> Mapping[str, list[Pair]]:
    """The labels as a mistake may have left them, by what would mend it."""
    mended: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "mirrored left to right": np.fliplr,
        "mirrored upside down": np.flipud,
        "turned by 180°": partial(np.rot90, k=2),
    }
    if all(label.shape[0] == label.shape[1] for label, _ in pairs):
        mended |= {"turned to the left": np.rot90, "turned to the right": partial(np.rot90, k=3)}
        mended |= {"with rows and columns exchanged": np.transpose}
    down, right = _best_shift(pairs)
    if max(abs(down), abs(right)) >= NEAREST:
        sideways = f"{abs(right)} pixels to the {'right' if right > 0 else 'left'}"
        words = f"{sideways}, {abs(down)} {'down' if down > 0 else 'up'}"
        mended[f"shifted by {words}"] = partial(_shifted, down=down, right=right)
    return {words: [(mend(label), truth) for label, truth in pairs] for words, mend in mended.items()}


def _best_shift(pairs: Sequence[Pair]) -> tuple[int, int]:
    """Pixels down and to the right by which labels cover most of the masks' objects: the peak of a correlation."""
    height, width = np.max([label.shape for label, _ in pairs], 0) + FARTHEST
    total = np.zeros((height, width))
    for label, truth in pairs:
        known = (label != VOID) & (truth != VOID)
        drawn, true = ((part > 0) & known for part in (label, truth))
        spectrum = (
            np.fft.rfft2(true - true.mean(), (height, width))
            * np.fft.rfft2(drawn - drawn.mean(), (height, width)).conj()
        )
        total += np.fft.irfft2(spectrum, (height, width))
    rows, columns = (np.r_[0 : FARTHEST + 1, -FARTHEST:0] for _ in range(2))
    near = total[np.ix_(rows, columns)]
    row, column = np.unravel_index(near.argmax(), near.shape)
    return int(rows[row]), int(columns[column])


def _shifted(label: np.ndarray, *, down: int, right: int) -> np.ndarray:
    """A label moved by some pixels; void where nothing comes from."""
    moved = np.roll(label, (down, right), (0, 1))
    height, width = label.shape
    moved[: max(down, 0)] = VOID
    moved[height + min(down, 0) :] = VOID
    moved[:, : max(right, 0)] = VOID
    moved[:, width + min(right, 0) :] = VOID
    return moved


# ── How good labels are ───────────────────────────────────────────────────────────────────────────────────────────
def score_labels(dataset: Dataset, ids: Sequence[str], label: Labels, workers: int = 1) -> ListScore:
    """How the labels of a list agree with its masks; pixels that a label leaves void count for nothing.

    Args:
        dataset: has the true masks.
        ids: the list.
        label: picklable where there are several workers.
        workers: how many processes at most.
    """
    return add_up(ids, partial(_where_labelled, dataset=dataset, label=label), len(dataset.classes) + 1, workers)


def _where_labelled(image_id: str, *, dataset: Dataset, label: Labels) -> np.ndarray:
    return _confusion(label(image_id), dataset.mask(image_id), len(dataset.classes) + 1)


def without_an_error(score: ListScore) -> bool:
    """Whether labels are the masks themselves: no pixel that both have differs."""
    return bool(np.trace(score.confusion) == score.confusion.sum())
