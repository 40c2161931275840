"""What `weaktr data check` prints: is this data what one thinks it is?"""

import contextlib
import hashlib
import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..errors import DataError
from .dataset import Dataset
from .images import VOID

SHOWN = 10  # faults of a kind that are named


def check(dataset: Dataset, lists: Sequence[str]) -> tuple[str, int]:
    """Read every file of the lists.

    Returns:
        The report as text, and the number of faults. The report gives counts per class and list, image sizes, which
        classes share images, and by name: unreadable files, masks that do not fit, images without labels, images
        without masks, and copies of the same image.
    """
    findings = Findings(dataset)
    findings.remarks += dataset.noticed()
    for name in lists:
        findings.find_list(name)
    for name in findings.members:
        findings.read_list(name)
    findings.compare_images()
    findings.compare_released()
    return findings.text(), sum(len(found) for found in findings.faults.values())


class Findings:
    """What is found in the files of a data set, list by list."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.members: dict[str, list[str]] = {}  # ids of each list
        self.counts: dict[str, NDArray[np.int64]] = {}  # images per class of each list
        classes = len(dataset.classes)
        self.together = np.zeros((classes, classes), int)  # images that show both classes
        self.sizes: list[tuple[int, int]] = []  # height and width of each image
        self.faults: dict[str, list[str]] = {}  # kind: where
        self.remarks: list[str] = []  # what is as it should be
        self._seen: set[str] = set()
        self._same: dict[str, set[str]] = {}  # digest of the pixels: ids

    def fault(self, kind: str, where: str) -> None:
        """Note a fault."""
        self.faults.setdefault(kind, []).append(where)

    def find_list(self, name: str) -> None:
        """Read the ids of a list."""
        try:
            self.members[name] = self.dataset.ids(name)
        except DataError as error:
            self.fault("lists that cannot be read", str(error))

    def read_list(self, name: str) -> None:
        """Read every file of a list, and count its images per class."""
        self.counts[name] = np.zeros(len(self.dataset.classes), int)
        for image_id in self.members[name]:
            if image_id in self._seen:
                with contextlib.suppress(DataError):  # noted already
                    self.counts[name] += self.dataset.labels(image_id) > 0
                continue
            self._seen.add(image_id)
            try:
                self.counts[name] += self._read_image(image_id)
            except DataError as error:
                self.fault("files that cannot be used", str(error))

    def _read_image(self, image_id: str) -> NDArray[np.bool_]:
        """Read the files of an image, note what is wrong with them; which classes its label names (C,)."""
        image, mask = self.dataset.check_image(image_id)
        shown = self.dataset.labels(image_id) > 0
        if mask is not None:
            self._compare_classes(image_id, mask, shown)
        elif self.dataset.has_masks:
            self.fault("images without a mask", image_id)
        if not shown.any():
            self.fault("images without a label", image_id)
        self.together += np.outer(shown, shown)
        height, width = image.shape[:2]
        self.sizes.append((height, width))
        self._same.setdefault(hashlib.sha256(image.tobytes()).hexdigest(), set()).add(image_id)
        return shown

    def _compare_classes(self, image_id: str, mask: NDArray[np.uint8], shown: NDArray[np.bool_]) -> None:
        """The classes of the mask (H,W) have to be among those that the label shows (C,)."""
        drawn = set(np.unique(mask).tolist()) - {0, VOID}
        labelled = set((np.flatnonzero(shown) + 1).tolist())
        strange = [self.dataset.classes[value - 1] for value in sorted(drawn - labelled)]
        if strange:
            self.fault("classes in the mask that the label lacks", f"{image_id}: {', '.join(strange)}")

    def compare_images(self) -> None:
        """Note images with the same pixels."""
        for ids in self._same.values():
            if len(ids) > 1:
                self.fault("copies of one image", ", ".join(sorted(ids)))

    def compare_released(self) -> None:
        """Note what is known of the lists as published numbers are of them."""
        for name, ids in self.members.items():
            for remark in self.dataset.compare_released(name, ids, self.counts[name]):
                if remark.fault:
                    self.fault(remark.fault, remark.text)
                else:
                    self.remarks.append(remark.text)

    # ── As text ───────────────────────────────────────────────────────────────────────────────────────────────────
    def text(self) -> str:
        """The whole report."""
        lines = [*self._summary(), "", *self._classes(), *self._sizes()]
        if self.remarks:
            lines += ["", *self.remarks]
        for kind, found in self.faults.items():
            lines += ["", f"{len(found)} {kind}:"]
            lines += [f"  {where}" for where in found[:SHOWN]]
            if len(found) > SHOWN:
                lines.append(f"  … and {len(found) - SHOWN} more")
        if not self.faults:
            lines += ["", "no fault found"]
        return "\n".join(lines)

    def _summary(self) -> list[str]:
        """How many classes and images there are."""
        lists = ", ".join(f"{name} ({len(ids)})" for name, ids in self.members.items())
        lines = [f"{self.dataset.name}: {len(self.dataset.classes)} classes; lists {lists}"]
        if not self.dataset.has_masks:
            lines.append("no masks: nothing can be measured")
        for one, other in itertools.combinations(self.members, 2):
            shared = set(self.members[one]) & set(self.members[other])
            if shared:
                lines.append(f"{one} and {other} share {len(shared)} images")
        return lines

    def _classes(self) -> list[str]:
        """Images per class and list, and the class that each is most often seen with."""
        classes = self.dataset.classes
        table = pd.DataFrame(self.counts, index=classes).rename_axis("images with")
        occurs = (table > 0).any(axis=1)
        pairs = self.together - np.diag(np.diag(self.together))
        table["most often with"] = [f"{classes[row.argmax()]} ({row.max()})" if row.any() else "–" for row in pairs]
        lines = [table[occurs].to_string()]
        missing = [name for name in classes if not occurs[name]]
        if missing:
            lines.append(f"no image shows {', '.join(missing)}")
        return lines

    def _sizes(self) -> list[str]:
        """The smallest, largest and middle size."""
        if not self.sizes:
            return []
        height, width = np.median(self.sizes, axis=0).astype(int)
        low = np.min(self.sizes, axis=0)
        high = np.max(self.sizes, axis=0)
        return ["", f"sizes: {low[1]}×{low[0]} to {high[1]}×{high[0]} pixels, median {width}×{height}"]
