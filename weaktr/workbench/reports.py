"""Finished runs side by side, a run as one HTML page that needs no network, and the figures of a run in one folder.

Stages whose inputs have changed since are left out, and named.
"""

import html
import shutil
from pathlib import Path

import pandas as pd

from ..errors import UserError
from ..files import atomic, read_json, resolve, short
from .keys import stale
from .text import results_rows

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body {{ font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }}
h1, h2, h3 {{ line-height: 1.2 }} img {{ max-width: 100% }} a {{ color: #0072b2 }}
pre {{ background: #f5f6f8; padding: .6rem .8rem; overflow-x: auto; font-size: .82rem; line-height: 1.4 }}
table {{ border-collapse: collapse; font-size: .88rem }} td, th {{ padding: .15rem .6rem; text-align: right }}
thead {{ border-bottom: 1px solid #888 }} .results td, table.results thead th {{ text-align: left }}
nav a {{ margin-right: 1rem }} .prompt, .anchor-link {{ display: none }}
section {{ border-top: 3px solid #0072b2; margin-top: 3rem }}
</style></head><body><h1>{title}</h1><nav>{links}</nav><h2>Results</h2>{results}<p>{left_out}</p>
{sections}</body></html>
"""


def finished_stages(run_folder):
    """The finished stages' folders of a run, in order, and a sentence on those left out, which are stale.

    Raises UserError where there is none left.
    """
    folder = Path(run_folder) if Path(run_folder).exists() else resolve(run_folder)
    found = sorted(path.parent for path in folder.glob("[0-9][0-9]_*/metrics.json"))
    old = [stage for stage in found if stale(stage)]
    names = ", ".join(stage.name for stage in old)
    left_out = f"{run_folder}: {names} left out, made before an earlier stage or the weights changed" if old else ""
    if len(old) == len(found):
        nothing = f"{run_folder}: no finished stage here; give a run's folder, such as papermill_runs/demo"
        raise UserError(left_out or nothing)
    return [stage for stage in found if stage not in old], left_out


def report(run_folder):
    """Write report.html into a run's folder: its results (06 has those of other runs), then every notebook → path."""
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    stages, left_out = finished_stages(run_folder)
    exporter = HTMLExporter(template_name="basic")
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)  # lines of progress in one block
    records = [record for stage in stages if stage.name < "06" for record in read_json(stage / "metrics.json")]
    head, *rows = results_rows(records)
    with pd.option_context("display.max_colwidth", None):
        results = pd.DataFrame(rows, columns=head).to_html(index=False, border=0, classes="results")
    sections = [
        f'<section id="{stage.name}">{exporter.from_filename(str(stage / "notebook.ipynb"))[0]}</section>'
        for stage in stages
        if (stage / "notebook.ipynb").is_file()
    ]
    folder = stages[0].parent
    with atomic(folder / "report.html") as aside:
        page = PAGE.format(
            title=html.escape(f"weaktr · {folder.name}"),
            links="".join(f'<a href="#{stage.name}">{stage.name}</a>' for stage in stages),
            results=results,
            left_out=html.escape(left_out),
            sections="".join(sections),
        )
        aside.write_text(page, encoding="utf-8")
    return folder / "report.html"


def compare(run_folders):
    """What differs between runs: parameters, then metrics → two DataFrames with a column per run, and what is left out
    of them, a sentence for each run with stale stages.
    """
    parameters, metrics, notes = {}, {}, []
    for run_folder in run_folders:
        own, values = {}, {}
        stages, left_out = finished_stages(run_folder)
        notes += [left_out] if left_out else []
        for stage in stages:
            own |= read_json(stage / "params.json")
            for r in read_json(stage / "metrics.json"):
                crf = {None: "", True: ", CRF", False: ""}[r["crf"]]
                oracle = ", oracle" if r["oracle"] else ""
                what = f"{stage.name[:2]} {r['metric']}, {r['list']} ({r['list_size']}){crf}{oracle}"
                values[what if what not in values else f"{what}, {r['threshold_from'] or r.get('counts')}"] = r["value"]
        name = str(run_folder).rstrip("/").removeprefix("papermill_runs/")
        parameters[name] = {key: repr(value) for key, value in own.items() if key != "run_folder"}
        metrics[name] = values
    table = pd.DataFrame(parameters).fillna("–")
    return table[table.nunique(axis=1) > 1], pd.DataFrame(metrics), notes


def collect_figures(run_folder, target):
    """Copy what the stages of a run drew into the folder `target`, as <NN>_<name>, with sources.csv → its DataFrame.

    Figures are PDF, PNG and the CSV behind each, tables CSV, LaTeX and Markdown. sources.csv says which stage made a
    file: run, stage, key, commit and seed are those of its manifest. Raises UserError where a stage is stale.
    """
    stages, left_out = finished_stages(run_folder)
    if left_out:
        raise UserError(f"{left_out}; make them again first")
    rows, target = [], resolve(target)
    for stage in stages:
        manifest = read_json(stage / "manifest.json")
        facts = {"run": short(stage.parent), "stage": stage.name, "key": manifest["key"]}
        facts |= {"commit": manifest["git"]["commit"], "seed": manifest["seed"]}
        for path in sorted(path for kind in ("figures/*", "*.csv", "*.tex", "*.md") for path in stage.glob(kind)):
            name = f"{stage.name[:2]}_{path.name}"
            with atomic(target / name) as aside:
                shutil.copyfile(path, aside)
            rows.append({"file": name, **facts})
    sources = pd.DataFrame(rows)
    if (target / "sources.csv").is_file():  # a clone has the PDFs of the reference run there, and not in the run
        before = pd.read_csv(target / "sources.csv")
        there = before["file"].map(lambda name: (target / name).is_file()) & before["key"].isin(sources["key"])
        sources = pd.concat([sources, before[there]]).drop_duplicates("file").sort_values("file")
    with atomic(target / "sources.csv") as aside:
        sources.to_csv(aside, index=False)
    return sources
