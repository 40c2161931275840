"""What `python -m weaktr data check` prints: is this data what one thinks it is?"""

import contextlib
import hashlib
import itertools

import numpy as np
import pandas as pd

from ..errors import DataError

SHOWN = 10  # faults of a kind that are named


def check(dataset, lists):
    """Read every file of the lists → report as text, number of faults.

    Counts per class and list, image sizes, which classes share images, and by name: unreadable files, masks that do
    not fit, images without labels, images without masks, and copies of the same image.
    """
    counts, sizes, faults, copies = {}, [], {}, {}
    together = np.zeros((len(dataset.classes),) * 2, int)
    members, seen = {}, set()
    for name in lists:
        try:
            members[name] = dataset.ids(name)
        except DataError as error:
            faults.setdefault("lists that cannot be read", []).append(str(error))
    for name, ids in members.items():
        counts[name] = np.zeros(len(dataset.classes), int)
        for image_id in ids:
            if image_id in seen:
                with contextlib.suppress(DataError):  # told already
                    counts[name] += dataset.labels(image_id) > 0
                continue
            seen.add(image_id)
            try:
                image, mask = dataset.check_image(image_id)
                labels = dataset.labels(image_id) > 0
                if mask is not None:
                    drawn = set(np.unique(mask).tolist()) - {0, 255}
                    if strange := drawn - set((np.flatnonzero(labels) + 1).tolist()):
                        what = ", ".join(dataset.classes[c - 1] for c in sorted(strange))
                        faults.setdefault("classes in the mask that the label lacks", []).append(f"{image_id}: {what}")
                elif dataset.has_masks:
                    faults.setdefault("images without a mask", []).append(image_id)
            except DataError as error:
                faults.setdefault("files that cannot be used", []).append(str(error))
                continue
            counts[name] += labels
            together += np.outer(labels, labels)
            sizes.append(image.shape[:2])
            if not labels.any():
                faults.setdefault("images without a label", []).append(image_id)
            copies.setdefault(hashlib.sha256(image.tobytes()).hexdigest(), set()).add(image_id)
    for same in copies.values():
        if len(same) > 1:
            faults.setdefault("copies of one image", []).append(", ".join(sorted(same)))
    return _text(dataset, members, counts, sizes, together, faults), sum(map(len, faults.values()))


def _text(dataset, members, counts, sizes, together, faults):
    lists = ", ".join(f"{name} ({len(ids)})" for name, ids in members.items())
    lines = [f"{dataset.name}: {len(dataset.classes)} classes; lists {lists}"]
    if not dataset.has_masks:
        lines.append("no masks: nothing can be measured")
    for one, other in itertools.combinations(members, 2):
        if shared := len(set(members[one]) & set(members[other])):
            lines.append(f"{one} and {other} share {shared} images")
    lines.append("")
    table = pd.DataFrame(counts, index=dataset.classes).rename_axis("images with")
    pairs = together - np.diag(np.diag(together))
    table["most often with"] = [f"{dataset.classes[row.argmax()]} ({row.max()})" if row.any() else "–" for row in pairs]
    lines.append(table[(table[list(counts)] > 0).any(axis=1)].to_string())
    if missing := [name for name in dataset.classes if not table.loc[name, list(counts)].any()]:
        lines.append(f"no image shows {', '.join(missing)}")
    if sizes:
        height, width = np.median(sizes, axis=0).astype(int)
        low, high = np.min(sizes, axis=0), np.max(sizes, axis=0)
        lines += ["", f"sizes: {low[1]}×{low[0]} to {high[1]}×{high[0]} pixels, median {width}×{height}"]
    for kind, found in faults.items():
        lines += ["", f"{len(found)} {kind}:", *(f"  {what}" for what in found[:SHOWN])]
        if len(found) > SHOWN:
            lines.append(f"  … and {len(found) - SHOWN} more")
    if not faults:
        lines += ["", "no fault found"]
    return "\n".join(lines)
