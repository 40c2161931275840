"""A run as one HTML page that needs no network: what came out, how sure it is, what it cost, and the stages."""

from pathlib import Path
from typing import Any, NamedTuple

from ..evaluation.intervals import LEVEL, RESAMPLES
from ..files import run_folder as find_run
from ..files import short, stage_folders
from ..progress import clock
from . import presets
from .executed import Figures, chapter
from .finished import FinishedStages, finished_stages
from .headlines import Headline, headlines
from .keys import WITHOUT_EFFECT
from .page import TEMPLATES, Picture, Table, table_of, write_page
from .parameters import catalogue, check_parameters
from .text import results_rows

LEADS = (  # what a page opens with: the first of these figures that the run has
    (
        "05_evaluation",
        "chain",
        "Images of the training list on their way from names to masks: the strongest class activation map of their "
        "names, the seed, the CAM label after the CRF, the mask of the segmenter, the mask after the CRF, and the "
        "truth, which none of them saw.",
    ),
    (
        "03_pseudo_labels",
        "seed_to_label",
        "Images with their seeds and CAM labels; the segmenter has not been trained yet.",
    ),
    (
        "02_cam_generation",
        "cam_stages",
        "Images with their class activation maps, from the coarse CAM to the fine one.",
    ),
    ("01_cam_training", "samples", "Images of the training list and their truth, which no training sees."),
)
HOW_SURE = (
    f"An interval holds {100 * LEVEL:.0f} % of the values of {RESAMPLES:,} lists whose images were drawn again, with "
    "repetition: it says how far other images of the same kind would move the number. One run cannot say how far "
    "another random seed would; on the embedded data that is a standard deviation of 1 to 3 points. No true mask chose "
    "a setting, unless a number is marked as oracle."
)


def report(run_folder: str | Path) -> Path:
    """Write a run's story as report.html into its folder.

    The page opens with pictures and the four numbers that sum the run up; then what differs from its preset, what it
    cost, and its executed notebooks. Stages that are not finished are named.

    Args:
        run_folder: As for `finished_stages`.

    Returns:
        The page's path.
    """
    stages = finished_stages(run_folder)
    chapters = [chapter(folder) for folder in stages.folders]
    return write_page(
        stages.run / "report.html",
        TEMPLATES / "run.html",
        title=f"weaktr · {stages.name}",
        heading=f"Run {stages.name}",
        summary=_summary(stages),
        notices=[*_unfinished(find_run(run_folder)), *filter(None, [stages.left_out])],
        lead=_lead(stages),
        headlines=headlines(stages),
        sure=how_sure,
        how_sure=HOW_SURE,
        differences=differences(stages),
        machine=_machine(stages),
        cost=cost(stages),
        chapters=chapters,
        numbers=_all_numbers(stages),
    )


# ── How it opens ──────────────────────────────────────────────────────────────────────────────────────────────────
def _summary(stages: FinishedStages) -> str:
    """What the run is, from its last stage's manifest."""
    manifest = stages.manifests[stages.folders[-1].name]
    name = manifest.get("preset") or ""
    parts = [f"Run in {short(stages.run.resolve())}."]
    if name:
        what = f": {presets.PRESETS[name].summary}" if name in presets.PRESETS else ""
        parts.append(f"Preset {name}{what}.")
    parts.append(f"Random seed {manifest.get('seed')}, finished {_when(manifest)}, {_code(manifest)}.")
    return " ".join(parts)


def _when(manifest: dict[str, Any]) -> str:
    return str(manifest.get("end", "–"))[:16].replace("T", " ") + " UTC"


def _code(manifest: dict[str, Any]) -> str:
    """Version and commit of the code that made a stage."""
    git = manifest.get("git") or {}
    version = f"weaktr {manifest.get('versions', {}).get('weaktr', '–')}"
    if not git.get("commit"):
        return version
    return f"{version}, commit {git['commit'][:7]}" + (" with changes that are not committed" if git["dirty"] else "")


def _unfinished(run: Path) -> list[str]:
    """A sentence on each stage that is not finished, and one on those that were not begun."""
    declared = catalogue()
    made = stage_folders(run)
    notices = []
    for stage in made:
        if not (stage / "metrics.json").is_file():
            notices.append(f"{stage.name} is not finished{_error(stage)}.")
    expected = {stage for stage, own in declared.items() if "sweeps" not in own}
    names = {stage.name for stage in made}
    missing = sorted(expected - names)
    if missing and names <= declared.keys():  # else these are other notebooks, and what they lack is not known
        notices.append(f"Not begun: {', '.join(missing)}.")
    return notices


def _error(stage: Path) -> str:
    """Why a stage stopped, where its notebook says so."""
    for part in chapter(stage).parts:
        if part.kind == "error":
            return f"; it stopped with {part.content.rstrip('.')}"
    return ""


def _lead(stages: FinishedStages) -> Picture | None:
    """The picture that a page opens with."""
    folders = {folder.name: folder for folder in stages.folders}
    for stage, name, caption in LEADS:
        path = folders[stage] / "figures" / f"{name}.png" if stage in folders else Path()
        if path.is_file():
            picture = Figures(folders[stage]).picture(name, path.read_bytes(), {"alt": caption}, "")
            return Picture(picture.png, alt=f"A grid of pictures. {caption}", caption=caption)
    return None


def how_sure(headline: Headline) -> str:
    """The interval of a headline and the images that it is from."""
    on = f"{headline.images} images of {headline.on}"
    if headline.interval is None:
        return on
    low, high = headline.interval.low, headline.interval.high
    return f"{100 * LEVEL:.0f} % interval {low:.1f} to {high:.1f}, {on}"


# ── What differs, and what it cost ────────────────────────────────────────────────────────────────────────────────
class Differences(NamedTuple):
    """How a run's parameters differ from those of its preset."""

    text: str
    table: Table | None


def differences(stages: FinishedStages) -> Differences:
    """The parameters of a run that are others than its preset with the notebooks' defaults has.

    Where a run is and how it was computed makes no difference, nor does what no stage reads.

    Args:
        stages: Of the run, as from `finished_stages`.
    """
    name = stages.manifests[stages.folders[-1].name].get("preset", "")
    declared = catalogue()
    helps = {key: parameter.help for own in declared.values() for key, parameter in own.items()}
    own = presets.PRESETS[name].parameters if name in presets.PRESETS else {}
    expected = check_parameters(own, declared)
    rows = []
    for key, value in stages.parameters.items():
        if key in WITHOUT_EFFECT or (key in expected and expected[key] == value):
            continue
        other = repr(expected[key]) if key in expected else "–"
        rows.append((key, repr(value), other, helps.get(key, "not a parameter of this version")))
    against = f"preset {name}" if name in presets.PRESETS else "the notebooks' defaults"
    unknown = f"The preset {name} is not known to this version. " if name and name not in presets.PRESETS else ""
    if not rows:
        return Differences(f"{unknown}Nothing: all parameters are those of {against}.", None)
    verb = "parameter differs" if len(rows) == 1 else "parameters differ"
    table = table_of(("parameter", "this run", against, "what it is"), rows)
    return Differences(f"{unknown}{len(rows)} {verb} from {against}.", table._replace(numbers=frozenset()))


def cost(stages: FinishedStages) -> Table:
    """Time and memory of each finished stage, and of all together."""
    manifests = stages.manifests
    on_gpu = any("peak_gpu_mb" in manifest for manifest in manifests.values())
    heads = ["stage", "time", "peak memory", *(["peak GPU memory"] if on_gpu else []), "passes"]
    rows = [_cost_row(name, [manifest], on_gpu) for name, manifest in manifests.items()]
    rows.append(_cost_row("all", list(manifests.values()), on_gpu))
    return table_of(heads, rows)


def _cost_row(name: str, manifests: list[dict[str, Any]], on_gpu: bool) -> list[str]:
    """The row of one stage, or of several: their times add up, of memory they need the most."""
    row = [name, clock(sum(manifest.get("seconds", 0) for manifest in manifests))]
    for peak in ("peak_memory_mb", "peak_gpu_mb")[: 1 + on_gpu]:
        most = max(manifest.get(peak) or 0 for manifest in manifests)
        row.append(f"{most:,} MB" if most else "–")
    passes = sum(1 + len(manifest.get("passes", [])) for manifest in manifests)
    return [*row, str(passes)]


def _machine(stages: FinishedStages) -> str:
    """The machines on which the stages ran, in words."""
    found = []
    for manifest in stages.manifests.values():
        hardware = manifest.get("hardware", {})
        words = f"{hardware.get('cores', '–')} cores of {hardware.get('cpu', 'an unknown processor')}"
        words += f", {hardware.get('memory_gb', '–')} GB of memory"
        found.append(f"{words}, {manifest['gpu']}" if manifest.get("gpu") else words)
    computed = f"Computed on {'; '.join(dict.fromkeys(found))}."
    interrupted = any(manifest.get("passes") for manifest in stages.manifests.values())
    return f"{computed} A stage of several passes was interrupted and continued." if interrupted else computed


def _all_numbers(stages: FinishedStages) -> Table:
    """Every record, what was measured and how much first: a narrow screen shows these without scrolling."""
    head, *rows = results_rows(stages.records)
    columns = ("metric", "value", "list (size)", "CRF", "scales", "threshold (from)", "", "stage")
    order = [head.index(column) for column in columns]
    table = table_of(
        [column or "note" for column in columns],
        [[row[place] for place in order] for row in rows],
        file=f"{stages.name}_numbers.csv",
    )
    return table._replace(numbers=frozenset({columns.index("value")}))
