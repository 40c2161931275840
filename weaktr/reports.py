"""Finished runs side by side, and a run as one HTML page that needs no network."""

import html
from pathlib import Path

import pandas as pd

from .errors import UserError
from .files import atomic, read_json
from .stages import resolve, results_table

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body {{ font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }}
h1, h2, h3 {{ line-height: 1.2 }} img {{ max-width: 100% }} a {{ color: #0072b2 }}
pre {{ background: #f5f6f8; padding: .6rem .8rem; overflow-x: auto; font-size: .82rem; line-height: 1.4 }}
table {{ border-collapse: collapse; font-size: .88rem }} td, th {{ padding: .15rem .6rem; text-align: right }}
thead {{ border-bottom: 1px solid #888 }} nav a {{ margin-right: 1rem }} .prompt, .anchor-link {{ display: none }}
section {{ border-top: 3px solid #0072b2; margin-top: 3rem }}
</style></head><body><h1>{title}</h1><nav>{links}</nav><h2>Results</h2><pre>{results}</pre>{sections}</body></html>
"""


def finished_stages(run_folder):
    """The finished stages' folders of a run, in order. Raises UserError where there is none."""
    folder = Path(run_folder) if Path(run_folder).exists() else resolve(run_folder)
    found = sorted(path.parent for path in folder.glob("[0-9][0-9]_*/metrics.json"))
    if not found:
        raise UserError(f"{run_folder}: no finished stage here; give a run's folder, such as papermill_runs/demo")
    return found


def report(run_folder):
    """Write report.html into a run's folder: results on top, then every executed notebook → its path."""
    from nbconvert import HTMLExporter

    stages = finished_stages(run_folder)
    exporter = HTMLExporter(template_name="basic")
    records = [record for stage in stages for record in read_json(stage / "metrics.json")]
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
            results=html.escape(results_table(records)),
            sections="".join(sections),
        )
        aside.write_text(page, encoding="utf-8")
    return folder / "report.html"


def compare(run_folders):
    """What differs between runs: parameters, then metrics → two DataFrames with a column per run."""
    parameters, metrics = {}, {}
    for run_folder in run_folders:
        own, values = {}, {}
        for stage in finished_stages(run_folder):
            own |= read_json(stage / "params.json")
            for r in read_json(stage / "metrics.json"):
                crf = {None: "", True: ", CRF", False: ""}[r["crf"]]
                oracle = ", oracle" if r["oracle"] else ""
                values[f"{stage.name[:2]} {r['metric']}, {r['list']} ({r['list_size']}){crf}{oracle}"] = r["value"]
        name = str(run_folder).rstrip("/").removeprefix("papermill_runs/")
        parameters[name] = {key: repr(value) for key, value in own.items() if key != "run_folder"}
        metrics[name] = values
    table = pd.DataFrame(parameters).fillna("–")
    return table[table.nunique(axis=1) > 1], pd.DataFrame(metrics)
