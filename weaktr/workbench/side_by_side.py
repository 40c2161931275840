"""Finished runs on one page: numbers with their differences, and the same images below one another."""

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from ..data import open_dataset
from ..data.images import VOID, read_label
from ..errors import UserError
from ..evaluation.intervals import LEVEL, Estimate
from ..progress import clock
from .comparison import by_name, side_by_side
from .executed import Figures
from .finished import FinishedStages
from .headlines import Headline, difference, headlines
from .page import TEMPLATES, Picture, Table, drawn, table_of, write_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = 4  # that are shown of every run
COLUMNS = {  # of the images: stage, folder of the masks
    "CAM label": ("03_pseudo_labels", "labels"),
    "mask": ("05_evaluation", "pseudo_masks/multi"),
    "mask + CRF": ("05_evaluation", "pseudo_masks/multi_crf"),
}
LONGEST = 120  # characters of the page's name
Runs = Mapping[str, FinishedStages]


class SameFigure(NamedTuple):
    """One figure of a stage as each run has it."""

    place: str
    title: str
    pictures: list[Picture]


def report_side_by_side(run_folders: Iterable[str | Path]) -> Path:
    """Write a page that sets runs side by side, beside the folder of the first: report_<run>_<run>.html.

    Args:
        run_folders: As for `finished_stages`; differences are from the first.

    Returns:
        The page's path.

    Raises:
        UserError: For a run that is given twice, and as `finished_stages` does.
    """
    runs = by_name(run_folders)
    first = next(iter(runs))
    found = side_by_side(runs)
    numbers = {name: headlines(stages) for name, stages in runs.items()}
    images, no_images = _same_images(runs)
    folders = [stages.name for stages in runs.values()]
    joined = "_".join(folders)
    if len(joined) > LONGEST:
        joined = f"{folders[0]}_and_{len(folders) - 1}_more"
    return write_page(
        runs[first].run.parent / f"report_{joined}.html",
        TEMPLATES / "runs.html",
        title=f"weaktr · {', '.join(runs)}",
        heading=f"{len(runs)} runs side by side",
        summary=f"{', '.join(runs)}. Differences are from {first}, the first.",
        notices=found.left_out,
        first=first,
        headlines=_headline_table(numbers),
        meanings=numbers[first],
        how_sure=_how_sure(runs),
        parameters=table_of(["parameter", *runs], [[str(name), *row] for name, *row in found.parameters.itertuples()]),
        images=images,
        no_images=no_images,
        stages=list(_same_figures(runs)),
        cost=_cost(runs),
        numbers=_all_numbers(found.metrics),
    )


# ── Numbers ───────────────────────────────────────────────────────────────────────────────────────────────────────
def _headline_table(numbers: Mapping[str, list[Headline]]) -> Table:
    """The headlines of every run, those of the others with their difference from the first run's."""
    first = next(iter(numbers))
    rows = []
    for i, headline in enumerate(numbers[first]):
        row = [f"{headline.name} (%)"]
        for name, own in numbers.items():
            row.append(_value(own[i]))
            if name != first:
                row.append(_difference(difference(own[i], headline)))
        rows.append(row)
    heads = ["", first]
    for name in list(numbers)[1:]:
        heads += [name, f"difference from {first}"]
    table = table_of(heads, rows)
    return table._replace(numbers=frozenset(range(1, len(heads))))


def _value(headline: Headline) -> str:
    if headline.value is None:
        return "–"
    if headline.interval is None:
        return f"{headline.value:.1f}"
    return f"{headline.value:.1f} ({headline.interval.low:.1f} to {headline.interval.high:.1f})"


def _difference(found: Estimate | float | None) -> str:
    if found is None:
        return "–"
    if not isinstance(found, Estimate):
        return _signed(found, 1)
    return f"{_signed(found.value, 1)} ({_signed(found.low, 1)} to {_signed(found.high, 1)})"


def _signed(value: float, digits: int) -> str:
    """A number with its sign, and a true minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def _how_sure(runs: Runs) -> str:
    seeds = {stages.parameters.get("seed") for stages in runs.values()}
    text = (
        f"In brackets {100 * LEVEL:.0f} % intervals, over images that were drawn again; those of differences are "
        "paired: of the same images. A difference whose interval holds 0 cannot be told from chance; one without is "
        "not of the same images, or that of the share. "
    )
    if len(seeds) > 1:
        return text + "These runs have different random seeds: part of every difference is theirs."
    return text + "One random seed is no proof: what a sweep over several shows is surer."


def _all_numbers(metrics: pd.DataFrame) -> Table:
    """Every metric of every run, and the difference from the first run."""
    first, *others = metrics.columns
    heads = ["metric", first]
    for name in others:
        heads += [name, f"{name} − {first}"]
    rows = []
    for metric, values in metrics.iterrows():
        row = [str(metric), _plain(values[first])]
        for name in others:
            row += [_plain(values[name]), _plain(values[name] - values[first], sign=True)]
        rows.append(row)
    return table_of(heads, rows, file="numbers.csv")


def _plain(value: float, *, sign: bool = False) -> str:
    if math.isnan(value):
        return "–"
    return _signed(value, 2) if sign else f"{value:.2f}"


def _cost(runs: Runs) -> Table:
    """The time of each stage in every run, and the most memory that one of its stages needed."""
    names = sorted({stage for stages in runs.values() for stage in stages.manifests})
    rows = [[name] for name in [*names, "all", "peak memory"]]
    for stages in runs.values():
        manifests = stages.manifests
        seconds = [manifests[name].get("seconds") if name in manifests else None for name in names]
        times = [clock(one) if one is not None else "–" for one in seconds]
        peak = max(manifest.get("peak_memory_mb", 0) for manifest in manifests.values())
        for row, cell in zip(rows, [*times, clock(sum(filter(None, seconds))), f"{peak:,} MB"]):
            row.append(cell)
    return table_of(["stage", *runs], rows)


# ── Pictures ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _same_figures(runs: Runs) -> Iterator[tuple[str, list[SameFigure]]]:
    """Of each stage the figures that several runs have, each below that of the run before."""
    folders = {name: {folder.name: folder for folder in stages.folders} for name, stages in runs.items()}
    for stage in sorted({stage for own in folders.values() for stage in own}):
        figures = {name: Figures(own[stage]) for name, own in folders.items() if stage in own}
        drawn = sorted({figure for own in figures.values() for figure in own.names.values()})
        shared = []
        for figure in drawn:
            pictures = _of_runs(figure, {name: own for name, own in figures.items() if figure in own.names.values()})
            if pictures:
                words = figure.replace("_", " ")
                shared.append(SameFigure(f"{stage}-{figure}", words[:1].upper() + words[1:], pictures))
        if shared:
            yield stage, shared


def _of_runs(figure: str, drawn: Mapping[str, Figures]) -> list[Picture]:
    """A figure as each run has it, once for those in which it is the same; none where a single run has it."""
    if len(drawn) < 2:
        return []
    runs_of: dict[bytes, list[str]] = {}
    for run, figures in drawn.items():
        runs_of.setdefault((figures.folder / f"{figure}.png").read_bytes(), []).append(run)
    made = []
    for png, runs in runs_of.items():
        caption = runs[0] if len(runs) == 1 else f"{', '.join(runs)}: the same"
        told = {"alt": f"{figure.replace('_', ' ')} of {', '.join(runs)}"}
        own = drawn[runs[0]].picture(figure, png, told, "")
        made.append(Picture(png, own.alt, caption, own.csv, f"{runs[0].replace('/', '_')}_{own.file}"))
    return made


def _same_images(runs: Runs) -> tuple[Picture | None, str]:
    """The first images of the training list, with what each run made of them; else None and why."""
    made = {name: stages for name, stages in runs.items() if "03_pseudo_labels" in stages.manifests}
    of_data = {_data_of(stages) for stages in made.values()}
    if len(made) < 2 or len(of_data) > 1:
        return None, "The runs share no list of images with labels."
    try:
        figure, count = _draw_images(made)
    except (UserError, OSError) as error:
        return None, f"The images or masks are not here any more ({error})."
    eval_list = next(iter(made.values())).parameters["eval_list"]
    caption = f"The first {count} images of {eval_list}, a line per run: " + ", ".join(made)
    alt = f"A grid of pictures. {caption}; columns: {', '.join(COLUMNS)}, truth."
    return Picture(drawn(figure), alt, caption), ""


def _data_of(stages: FinishedStages) -> tuple[str, str]:
    """The fingerprint of a run's data set and the list that its masks are measured on."""
    fingerprint = stages.manifests["03_pseudo_labels"].get("data_fingerprint", "")
    return fingerprint.partition("-")[0], stages.parameters.get("eval_list", "")


def _draw_images(runs: Runs) -> tuple["Figure", int]:
    from .. import plots  # not above: the command line must not wait for matplotlib

    parameters = next(iter(runs.values())).parameters
    data = open_dataset(parameters["dataset"], parameters["data_root"])
    shown = data.ids(parameters["eval_list"])[:IMAGES]
    rows, names = [], []
    for image_id in shown:
        image, truth = data.image(image_id), data.mask_or_void(image_id)
        for run, stages in runs.items():
            masks = {
                title: _mask(stages.run / stage / place, image_id, truth.shape)
                for title, (stage, place) in COLUMNS.items()
            }
            rows.append({"image": image} | masks | {"truth": truth})
            names.append(run)
    return plots.qualitative_grid(rows, data.classes, names), len(shown)


def _mask(folder: Path, image_id: str, shape: tuple[int, int]) -> np.ndarray:
    """A mask that a run made; all void where it made none."""
    read = partial(read_label, folder)
    return read(image_id) if folder.is_dir() else np.full(shape, VOID, np.uint8)
