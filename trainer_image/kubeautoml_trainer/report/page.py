"""`report.html`: one page without any outside resource. Every text that comes from the data or the job is escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from kubeautoml import __version__
from kubeautoml.api.metrics import METRICS, Direction, is_better
from kubeautoml.api.pod import PodJob
from kubeautoml_trainer.data.base import Profile, Rows
from kubeautoml_trainer.report.importance import Importance
from kubeautoml_trainer.report.leaderboard import Ranked, RankedVariant, parameters_text
from kubeautoml_trainer.report.pictures import STYLE, mistakes_section
from kubeautoml_trainer.report.tables import Tables
from kubeautoml_trainer.report.words import Words
from kubeautoml_trainer.tasks.base import Task

_DRAWN_TABLES = 9
_SHOWN = 25  # rows of the leaderboard on the page; the CSV file has all

_STYLE = """
:root{--ink:#1c2733;--soft:#5c6b7a;--line:#dde3ea;--back:#fff;--card:#f6f8fa;--accent:#2f6fb0}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:28px 24px 60px}
h1{font-size:26px;margin:0 0 2px}h2{font-size:18px;margin:34px 0 10px;border-bottom:1px solid var(--line);padding-bottom:4px}
p{margin:6px 0;max-width:75ch}.soft{color:var(--soft)}code{font-size:12.5px;overflow-wrap:anywhere}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:18px 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 16px;min-width:130px}
.tile b{display:block;font-size:21px;font-variant-numeric:tabular-nums}.tile span{color:var(--soft);font-size:13px}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13.5px}
th,td{padding:5px 12px 5px 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600;white-space:nowrap}td.n,th.n{text-align:right;white-space:nowrap}
td.p{max-width:430px;font-size:12px;overflow-wrap:anywhere;color:var(--soft)}tr.in td{background:#eef5fc}
.plots{display:flex;flex-wrap:wrap;gap:12px;align-items:flex-start}.plots svg,.wide svg{max-width:100%;height:auto}
ul{margin:6px 0;padding-left:20px}footer{margin-top:40px;color:var(--soft);font-size:13px}
"""


@dataclass(frozen=True)
class ReportFacts:
    """All that the page shows. prediction: float (hold-out rows, outputs); trial_values: (number, family, value) by number."""

    job: PodJob
    profile: Profile
    task: Task
    holdout: Rows = field(repr=False)
    prediction: np.ndarray = field(repr=False)
    metrics: Mapping[str, float]
    validated: Mapping[str, float]
    best_single: float
    leaderboard: Sequence[Ranked]
    trial_values: Sequence[tuple[int, str, float]]
    importance: Sequence[Importance]
    latency_p99_ms: float
    size_bytes: int
    sha256: str
    variants: Sequence[RankedVariant] = ()
    second: Ranked | None = None
    """The second level, where one is in the ensemble."""
    tables: Tables | None = None
    """What the explainable model in the ensemble learned, where there is one."""
    words: Words | None = None
    """What the best linear model of texts goes by, where there is one."""


def report_page(facts: ReportFacts, *, with_plots: bool = True) -> str:
    """The page. Without plots (no time, or no matplotlib) it has the same tables."""
    paint = _plots_or_nothing if with_plots else _no_plots
    job = facts.job
    parts = [
        f"<h1>{escape(job.name)}</h1>",
        f'<p class="soft">{escape(job.task.type.value)} of <b>{escape(job.task.target)}</b> · namespace {escape(job.namespace)}</p>',
        _summary(facts),
        _tiles(facts),
        _warnings(facts),
        "<h2>Scores</h2>",
        _metric_table(facts),
        _variants(facts),
        _quality_plots(facts, paint),
        mistakes_section(facts.holdout, facts.prediction, facts.profile.schema),
        _importance(facts, paint),
        _tables(facts, paint),
        _words(facts),
        "<h2>Trials</h2>",
        _progress(facts, paint),
        _leaderboard(facts),
        _columns(facts),
        f"<footer>Made by KubeAutoML {escape(__version__)}. Model {escape(facts.sha256)}. All trials: leaderboard.csv; "
        "all numbers: metrics.json; the best single pipeline as code: pipeline.py.</footer>",
    ]
    body = "\n".join(p for p in parts if p)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(job.name)} – KubeAutoML report</title><style>{_STYLE}{STYLE}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


Paint = Callable[[Callable[[], str]], str]


def _no_plots(make: Callable[[], str]) -> str:
    return ""


def _plots_or_nothing(make: Callable[[], str]) -> str:
    """A plot is a nicety: without the library the page goes without."""
    try:
        return make()
    except ModuleNotFoundError:
        return ""


def _summary(facts: ReportFacts) -> str:
    metric, members = facts.job.metric, [r for r in facts.leaderboard if r.weight > 0]
    families = sorted({r.family for r in members})
    made = (
        f"one {escape(families[0])} model"
        if len(members) == 1
        else f"a weighted mean of {len(members)} models ({escape(', '.join(families))})"
    )
    if facts.second is not None:
        # members that weigh nothing themselves are asked by it
        asked = str(facts.second.parameters["trials"]).split()
        made = (
            f"a second level over {len(asked)} models (trials {escape(', '.join(asked))}), weighing {facts.second.weight:.2f}"
            + (f", and {made}" if members else "")
        )
    profile = facts.profile
    is_ensemble = not facts.variants or facts.variants[0].name == "Quality"
    words = (
        f"The {'model' if is_ensemble else 'ensemble behind the model'} is {made}, chosen from "
        f"{len(facts.leaderboard)} completed trials. It learned from {profile.rows:,} rows "
        f"in {profile.folds} folds"
        + f" and was then tried once on {profile.holdout_rows:,} rows that the search never saw"
        * bool(profile.holdout_rows)
        + "."
    )
    ensemble = facts.validated.get(metric)
    gain = ""
    if (len(members) > 1 or facts.second is not None) and ensemble is not None:
        gain = (
            f" In cross-validation the ensemble reaches {metric} {_n(ensemble)}, "
            f"the best single model {_n(facts.best_single)}."
        )
    return f"<p>{words}{gain}</p><p>{_plain_words(facts)}</p>"


def _plain_words(facts: ReportFacts) -> str:
    """The result in a sentence that needs no statistics."""
    m, y = facts.metrics, facts.holdout.y
    if not len(y):
        return "There are no hold-out rows, so the scores below are those of cross-validation, on which the model was chosen."
    if not facts.job.task.type.is_classification:
        usual = float(np.mean(np.abs(y - np.median(y))))
        if "Mae" not in m:
            return ""
        return f"On average a prediction is off by {_n(m['Mae'])}; always guessing the middle value would be off by {_n(usual)}."
    if "Accuracy" not in m:
        return ""
    common = float(np.bincount(y).max() / len(y))
    return (
        f"{m['Accuracy']:.1%} of the hold-out rows were put in the right class; "
        f"always guessing the most common class would be right for {common:.1%}."
    )


def _tiles(facts: ReportFacts) -> str:
    metric = facts.job.metric
    shown = []
    if metric in facts.metrics:
        shown.append((f"{metric}, hold-out", _n(facts.metrics[metric])))
    if metric in facts.validated:
        shown.append((f"{metric}, cross-validated", _n(facts.validated[metric])))
    shown.append(("trials completed", f"{len(facts.leaderboard):,}"))
    if facts.latency_p99_ms == facts.latency_p99_ms:
        shown.append(("one row, 99th percentile", f"{facts.latency_p99_ms:.3g} ms"))
    shown.append(("size of the model", _bytes(facts.size_bytes)))
    tiles = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for k, v in shown)
    return f'<div class="tiles">{tiles}</div>'


def _warnings(facts: ReportFacts) -> str:
    if not facts.profile.warnings:
        return ""
    items = "".join(f"<li>{escape(w)}</li>" for w in facts.profile.warnings)
    return f"<h2>Look at the data</h2><ul>{items}</ul>"


def _metric_table(facts: ReportFacts) -> str:
    names = [n for n in facts.task.metrics if n in facts.metrics or n in facts.validated]
    rows = "".join(
        f"<tr><td>{'<b>' if n == facts.job.metric else ''}{escape(n)}{'</b>' if n == facts.job.metric else ''}</td>"
        f'<td class="n">{_n(facts.metrics.get(n))}</td><td class="n">{_n(facts.validated.get(n))}</td>'
        f'<td class="soft">{"higher" if METRICS[n].direction is Direction.MAXIMIZE else "lower"} is better</td></tr>'
        for n in names
    )
    return (
        '<div class="scroll"><table><tr><th>metric</th><th class="n">hold-out</th><th class="n">cross-validated</th><th></th></tr>'
        f"{rows}</table></div>"
        + "<p class='soft'>The hold-out is the honest number: the weights of the ensemble were chosen on the cross-validated one.</p>"
        * bool(facts.profile.holdout_rows)
    )


def _quality_plots(facts: ReportFacts, paint: Paint) -> str:
    from kubeautoml_trainer.report import plots

    y, p, schema = facts.holdout.y, facts.prediction, facts.profile.schema
    if not len(y):
        return ""
    if not schema.classes:
        made = [
            paint(lambda: plots.predicted_and_true(y, p[:, 0], schema.target)),
            paint(lambda: plots.residuals(y, p[:, 0])),
        ]
    else:
        k = len(schema.classes)
        positive = schema.classes.index(schema.positive_class) if schema.positive_class in schema.classes else k - 1
        table = np.bincount(y * k + np.argmax(p, axis=1), minlength=k * k).reshape(k, k)
        made = [
            paint(lambda: plots.confusion(table, schema.classes)) if k <= 30 else "",
            paint(lambda: plots.roc(y, p, schema.classes, positive)),
            paint(lambda: plots.calibration(y, p, schema.classes, positive)),
        ]
    return f'<div class="plots">{"".join(made)}</div>' if any(made) else ""


def _importance(facts: ReportFacts, paint: Paint) -> str:
    if not facts.importance:
        why = (
            "There was no time left to measure the importance of the columns."
            if facts.profile.holdout_rows
            else "The importance of columns is measured on hold-out rows, and this job has none."
        )
        return f"<h2>What matters</h2><p class='soft'>{why}</p>"
    found = facts.importance
    from kubeautoml_trainer.report import plots

    svg = paint(
        lambda: plots.importance(
            [i.column for i in found], [i.mean for i in found], [i.spread for i in found], facts.job.metric
        )
    )
    intro = (
        f"<p>How much {escape(facts.job.metric)} the model loses on the hold-out when one column is shuffled "
        f"({min(i.repeats for i in found)} times). Columns that say the same share their importance.</p>"
    )
    if svg:
        return f'<h2>What matters</h2>{intro}<div class="wide">{svg}</div>'
    rows = "".join(f'<tr><td>{escape(i.column)}</td><td class="n">{_n(i.mean)}</td></tr>' for i in found[:20])
    return f'<h2>What matters</h2>{intro}<table><tr><th>column</th><th class="n">loss</th></tr>{rows}</table>'


def _tables(facts: ReportFacts, paint: Paint) -> str:
    """The model that a person can read, where the ensemble has one."""
    if facts.tables is None or not facts.tables.terms:
        return ""
    from kubeautoml_trainer.report import plots

    terms, unit = facts.tables.terms, facts.tables.unit
    drawn = [t for t in terms if len(t.scores)][:_DRAWN_TABLES]
    drawings = "".join(paint(lambda t=t: plots.table(t, unit)) for t in drawn)  # type: ignore[misc]
    rows = "".join(f'<tr><td>{escape(t.name)}</td><td class="n">{_n(t.importance)}</td></tr>' for t in terms)
    dotted = " A dotted line is what a missing value adds." if any(t.missing is not None for t in drawn) else ""
    return (
        "<h2>What the explainable model learned</h2><p>One ExplainableBoosting model of the ensemble (that of its first fold) is "
        f"a sum of tables: each adds to the prediction what it holds for the row's values, in {escape(unit)}.{dotted}</p>"
        f'<div class="plots">{drawings}</div><div class="scroll"><table><tr><th>term</th><th class="n">mean size</th></tr>{rows}'
        "</table></div>"
    )


def _words(facts: ReportFacts) -> str:
    """The words that a linear model goes by."""
    if facts.words is None:
        return ""
    rows = "".join(
        f"<tr><td>{escape(side)}</td><td>{', '.join(f'{escape(word)} ({_n(weight)})' for word, weight in words)}</td></tr>"
        for side, words in facts.words.by_side
    )
    return (
        f"<h2>Words that matter</h2><p>The best {escape(facts.words.family)} model (that of its first fold) adds these weights to the "
        "evidence for a class, or to the number, for each word or pair of words, times how telling it is in the text.</p>"
        f'<div class="scroll"><table><tr><th>for</th><th>words and their weights</th></tr>{rows}</table></div>'
    )


def _progress(facts: ReportFacts, paint: Paint) -> str:
    if len(facts.trial_values) < 2:
        return ""
    from kubeautoml_trainer.report import plots

    metric = facts.job.metric
    maximize = is_better(metric, 1.0, 0.0)
    svg = paint(lambda: plots.progress(facts.trial_values, metric, maximize))
    return f'<div class="wide">{svg}</div>' if svg else ""


def _leaderboard(facts: ReportFacts) -> str:
    head = (
        '<tr><th class="n">#</th><th class="n">trial</th><th>family</th>'
        f'<th class="n">{escape(facts.job.metric)}</th><th class="n">hold-out</th><th class="n">weight</th>'
        '<th class="n">fit</th><th class="n">size</th><th>parameters</th></tr>'
    )
    rows = "" if facts.second is None else _leaderboard_row("", facts.second)
    rows += "".join(_leaderboard_row(rank, r) for rank, r in enumerate(facts.leaderboard[:_SHOWN], 1))
    more = len(facts.leaderboard) - _SHOWN
    rest = f'<p class="soft">{more:,} more trials are in leaderboard.csv.</p>' if more > 0 else ""
    return f'<div class="scroll"><table>{head}{rows}</table></div>{rest}'


def _leaderboard_row(rank: int | str, r: Ranked) -> str:
    fit = "" if r.fit_seconds is None else f"{r.fit_seconds:.1f} s"
    size = "" if r.size_bytes is None else _bytes(r.size_bytes)
    weight, trial = f"{r.weight:.2f}" if r.weight > 0 else "", "" if r.trial is None else r.trial
    return (
        f'<tr{" class=in" if r.weight > 0 else ""}><td class="n">{rank}</td><td class="n">{trial}</td><td>{escape(r.family)}</td>'
        f'<td class="n">{_n(r.value)}</td><td class="n">{_n(r.holdout_value)}</td><td class="n">{weight}</td>'
        f'<td class="n">{fit}</td><td class="n">{size}</td><td class="p"><code>{escape(parameters_text(r.parameters))}</code></td></tr>'
    )


def _variants(facts: ReportFacts) -> str:
    """What each form of the model reaches and costs; nothing where there is only the ensemble."""
    if len(facts.variants) < 2 and not any(v.notes for v in facts.variants):
        return ""
    head = (
        f'<tr><th>variant</th><th>families</th><th class="n">models</th><th class="n">{escape(facts.job.metric)}</th>'
        '<th class="n">hold-out</th><th class="n">fit</th><th class="n">one row</th><th class="n">rows a second</th>'
        '<th class="n">size</th></tr>'
    )
    rows = "".join(
        f'<tr><td>{escape(v.name)}</td><td>{escape(", ".join(v.families))}</td><td class="n">{v.models}</td>'
        f'<td class="n">{_n(v.value)}</td><td class="n">{_n(v.holdout_value)}</td><td class="n">{v.fit_seconds:.1f} s</td>'
        f'<td class="n">{"–" if v.p50_ms is None else f"{v.p50_ms:.3g} ms"}</td>'
        f'<td class="n">{_n(v.rows_per_second)}</td><td class="n">{_bytes(v.size_bytes)}</td></tr>'
        for v in facts.variants
    )
    notes = "".join(f"<li>{escape(v.name)}: {escape(note)}</li>" for v in facts.variants for note in v.notes)
    return f'<h2>Variants</h2><div class="scroll"><table>{head}{rows}</table></div>' + (notes and f"<ul>{notes}</ul>")


def _columns(facts: ReportFacts) -> str:
    rows = "".join(
        f'<tr><td>{escape(c.name)}</td><td>{escape(c.type.value)}</td><td class="n">{c.missing_fraction:.1%}</td>'
        f'<td class="n">{c.unique:,}</td></tr>'
        for c in facts.profile.schema.columns[:200]
    )
    return (
        '<h2>Columns</h2><div class="scroll"><table><tr><th>column</th><th>type</th><th class="n">missing</th>'
        f'<th class="n">distinct</th></tr>{rows}</table></div>'
    )


def _n(value: float | None) -> str:
    """Four digits that matter; whole numbers with commas from a thousand on."""
    if value is None or value != value:
        return "–"
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return (
        f"{value:.4g}" if abs(value) >= 1 or value == 0 else f"{value:.4f}" if abs(value) >= 0.001 else f"{value:.2e}"
    )


def _bytes(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"
