"""report.html: one self-contained page in plain words. Every text that comes from data is escaped."""

from __future__ import annotations

from html import escape

import pandas as pd

from kubeautoml.api.metrics import METRICS, Direction
from kubeautoml_trainer.report.findings import Findings

STYLE = """
body { font: 15px/1.55 system-ui, sans-serif; color: #1b2733; background: #f6f8fa; margin: 0; }
main { max-width: 1060px; margin: 0 auto; padding: 28px; }
h1 { margin: 0 0 4px; } h2 { margin: 34px 0 10px; font-size: 19px; }
.soft { color: #5b6b7b; } .plots { display: flex; flex-wrap: wrap; gap: 18px; }
figure { background: #fff; border: 1px solid #dde4ea; border-radius: 10px; margin: 0; padding: 14px; }
figure svg { max-width: 100%; height: auto; display: block; } figcaption { font-weight: 600; margin-bottom: 6px; }
table { border-collapse: collapse; background: #fff; width: 100%; }
.box { overflow-x: auto; border: 1px solid #dde4ea; border-radius: 10px; }
td, th { padding: 6px 12px; border-bottom: 1px solid #e8edf2; text-align: left; vertical-align: top; }
th { color: #5b6b7b; font-weight: 500; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.big { font-size: 30px; font-weight: 650; } .cards { display: flex; gap: 18px; flex-wrap: wrap; margin: 18px 0; }
.card { background: #fff; border: 1px solid #dde4ea; border-radius: 10px; padding: 14px 22px; } li { margin: 4px 0; }
code { font-size: 12px; overflow-wrap: anywhere; }
"""


def page(findings: Findings, table: pd.DataFrame, plots: list[tuple[str, str]]) -> str:
    """The whole document."""
    job = findings.job
    parts = [
        f"<h1>{escape(job.name)}</h1>",
        f"<p class='soft'>predicts <b>{escape(job.task.target)}</b> · {escape(job.task.type.value)} · {escape(job.dataset.train.uri)}</p>",
        _cards(findings),
        f"<p>{_summary(findings)}</p>",
        "<h2>On rows the search never saw</h2>",
        _metrics(findings),
        "<div class='plots' style='margin-top:18px'>",
        *(f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>" for title, svg in plots),
        "</div>",
        "<h2>Members of the model</h2>",
        _members(findings),
        "<h2>Best trials</h2>",
        _leaderboard(table, job.metric),
        "<h2>Data</h2>",
        _data(findings),
    ]
    body = "\n".join(parts)
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><title>{escape(job.name)} · report</title>"
        f"<style>{STYLE}</style></head><body><main>{body}</main></body></html>"
    )


def _number(value: float) -> str:
    return f"{value:.5g}"


def _cards(findings: Findings) -> str:
    metric = findings.job.metric
    cards = [
        (metric + " on the hold-out", _number(findings.metrics.get(metric, float("nan")))),
        (metric + ", cross-validated", _number(findings.selection.value)),
        ("trials completed", str(sum(t.state.name == "COMPLETE" for t in findings.finished))),
        ("one row, 99th percentile", f"{findings.latency_p99_ms:.3g} ms"),
    ]
    return (
        "<div class='cards'>"
        + "".join(f"<div class='card'><div class='big'>{v}</div>{escape(k)}</div>" for k, v in cards)
        + "</div>"
    )


def _summary(findings: Findings) -> str:
    job, selection = findings.job, findings.selection
    better = "higher" if METRICS[job.metric].direction is Direction.MAXIMIZE else "lower"
    families = sorted({m.family for m in findings.model.members})
    rows, kept = len(findings.data.train), len(findings.data.holdout)
    return escape(
        f"The model is a weighted mean of {len(selection.weights)} trials ({', '.join(families)}), chosen on cross-validated "
        f"predictions for {rows} rows in {findings.data.profile.folds} folds, where it reaches {job.metric} {_number(selection.value)} "
        f"({better} is better; the best single trial {_number(selection.best_single)}). The figures below are for {kept} rows that "
        "neither the search nor this choice has seen."
    )


def _metrics(findings: Findings) -> str:
    rows = "".join(f"<tr><td>{escape(k)}</td><td class='n'>{_number(v)}</td></tr>" for k, v in findings.metrics.items())
    return f"<div class='box' style='max-width:420px'><table><tr><th>metric</th><th class='n'>value</th></tr>{rows}</table></div>"


def _members(findings: Findings) -> str:
    rows = ""
    for member in findings.model.card["members"]:
        text = (
            ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in member["parameters"].items())
            or "defaults"
        )
        rows += (
            f"<tr><td class='n'>{member['weight']:.3f}</td><td class='n'>{member['trial']}</td><td>{escape(member['family'])}</td>"
            f"<td><code>{escape(text)}</code></td></tr>"
        )
    head = "<tr><th class='n'>weight</th><th class='n'>trial</th><th>family</th><th>parameters</th></tr>"
    return f"<div class='box'><table>{head}{rows}</table></div>"


def _leaderboard(table: pd.DataFrame, metric: str) -> str:
    rows = "".join(
        f"<tr><td class='n'>{r['rank']}</td><td class='n'>{r['trial']}</td><td>{escape(str(r['family']))}</td>"
        f"<td class='n'>{_number(r[metric])}</td><td class='n'>{r['seconds']}</td><td class='n'>{r['weight']:.3f}</td></tr>"
        for _, r in table.head(20).iterrows()
    )
    head = (
        "<tr><th class='n'>rank</th><th class='n'>trial</th><th>family</th>"
        f"<th class='n'>{escape(metric)}</th><th class='n'>seconds</th><th class='n'>weight in the model</th></tr>"
    )
    return f"<div class='box'><table>{head}{rows}</table></div>"


def _data(findings: Findings) -> str:
    warnings = "".join(f"<li>{escape(w)}</li>" for w in findings.data.profile.warnings) or "<li>no warnings</li>"
    rows = "".join(
        f"<tr><td>{escape(c.name)}</td><td>{c.type.value}</td><td class='n'>{c.missing_fraction:.1%}</td><td class='n'>{c.unique}</td></tr>"
        for c in findings.model.schema.columns
    )
    head = "<tr><th>column</th><th>type</th><th class='n'>missing</th><th class='n'>distinct</th></tr>"
    return f"<ul>{warnings}</ul><div class='box'><table>{head}{rows}</table></div>"
