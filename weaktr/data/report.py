"""What `weaktr data check` prints: is this data what one thinks it is?"""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..errors import DataError, counted, named
from ..processes import cores
from .dataset import Dataset
from .inspection import Finding, Inspection, inspect
from .spelling import listed

SHOWN = 10  # faults of a kind that are named


def check(dataset: Dataset, lists: Sequence[str]) -> tuple[str, int]:
    """Read every file of the lists.

    Returns:
        The report as text, and the number of faults. The report gives counts per class and list, image sizes, which
        classes share images, and what `inspect` finds: by name, what is wrong first.
    """
    members: dict[str, list[str]] = {}
    unread = []
    for name in lists:
        try:
            members[name] = dataset.ids(name)
        except DataError as error:
            unread.append(str(error))
    report = Report(dataset, members, inspect(dataset, members, workers=cores(), digests=True))
    if unread:
        report.findings.insert(0, Finding("lists that cannot be read", unread))
    faults = [finding for finding in report.findings if finding.fault or finding.refused]
    return report.text(), sum(len(finding.where) for finding in faults)


class Report:
    """What was found in the files of a data set, as text.

    Args:
        dataset: The data set.
        members: The ids of each list.
        inspection: Of them.
    """

    def __init__(self, dataset: Dataset, members: dict[str, list[str]], inspection: Inspection) -> None:
        self.dataset = dataset
        self.members = members
        self.findings = list(inspection.findings)
        self.remarks: list[str] = []  # what is known of the lists, and as it should be
        images = [seen for seen in inspection.images if not seen.error]
        self.sizes = [(seen.height, seen.width) for seen in images]
        shown = np.zeros((len(images), len(dataset.classes)), int)  # which image shows which class
        for row, seen in enumerate(images):
            shown[row, [value - 1 for value in seen.labels]] = 1
        self.together = shown.T @ shown  # images that show both classes
        rows = {seen.image_id: row for row, seen in enumerate(images)}
        self.counts = {}  # images per class of each list
        for name, ids in members.items():
            own = [rows[image_id] for image_id in ids if image_id in rows]
            self.counts[name] = shown[own].sum(0)
        self._compare_released()

    def _compare_released(self) -> None:
        """Note what is known of the lists as published numbers are of them."""
        faults: dict[str, list[str]] = {}
        for name, ids in self.members.items():
            for remark in self.dataset.compare_released(name, ids, self.counts[name]):
                if remark.fault:
                    faults.setdefault(remark.fault, []).append(remark.text)
                else:
                    self.remarks.append(remark.text)
        self.findings += [Finding(kind, where) for kind, where in faults.items()]

    # ── As text ───────────────────────────────────────────────────────────────────────────────────────────────────
    def text(self) -> str:
        """The whole report."""
        lines = [*self._summary(), "", *self._classes(), *self._sizes()]
        if self.remarks:
            lines += ["", *self.remarks]
        for finding in self.findings:
            lines += ["", f"{counted(len(finding.where), finding.kind)}:{named(finding.where, SHOWN)}"]
        if not any(finding.fault or finding.refused for finding in self.findings):
            lines += ["", "no fault found"]
        return "\n".join(lines)

    def _summary(self) -> list[str]:
        """How many classes and images there are."""
        lists = ", ".join(f"{name} ({len(ids)})" for name, ids in self.members.items())
        lines = [f"{self.dataset.name}: {counted(len(self.dataset.classes), 'classes')}; lists {lists}"]
        if not self.dataset.has_masks:
            lines.append("no masks: nothing can be measured")
        for one, other in itertools.combinations(self.members, 2):
            shared = set(self.members[one]) & set(self.members[other])
            if shared:
                lines.append(f"{one} and {other} share {counted(len(shared), 'images')}")
        return lines

    def _classes(self) -> list[str]:
        """Images per class and list, and the class that each is most often seen with."""
        if not self.sizes:
            return ["no image could be read, so nothing was counted"]
        classes = self.dataset.classes
        table = pd.DataFrame(self.counts, index=classes).rename_axis("images with")
        occurs = (table > 0).any(axis=1)
        if not occurs.any():
            return [f"no image shows a class; the classes are {listed(classes)}"]
        pairs = self.together - np.diag(np.diag(self.together))
        table["most often with"] = [f"{classes[row.argmax()]} ({row.max()})" if row.any() else "–" for row in pairs]
        return [table[occurs].to_string()]

    def _sizes(self) -> list[str]:
        """The smallest, largest and middle size."""
        if not self.sizes:
            return []
        height, width = np.median(self.sizes, axis=0).astype(int)
        low = np.min(self.sizes, axis=0)
        high = np.max(self.sizes, axis=0)
        return ["", f"sizes: {low[1]}×{low[0]} to {high[1]}×{high[0]} pixels, median {width}×{height}"]
