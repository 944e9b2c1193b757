"""Plots of the report, each an SVG text; matplotlib is imported only here."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from kubeautoml.api.metrics import is_better
from kubeautoml_trainer.report.findings import Findings
from kubeautoml_trainer.report.importance import Importance

MAX_POINTS = 2000
ACCENT, SOFT, DARK = "#1a66c2", "#b9c9da", "#1b2733"


@contextmanager
def _figure(width: float = 5.6, height: float = 3.6) -> Iterator[tuple[Any, Any, list[str]]]:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    style = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.fonttype": "none",
        "axes.edgecolor": "#8a97a3",
    }
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        out: list[str] = []
        try:
            yield figure, axes, out
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None})
            text = buffer.getvalue()
            out.append(text[text.index("<svg") :])
        finally:
            plt.close(figure)


def plots_for(findings: Findings, importance: list[Importance]) -> list[tuple[str, str]]:
    """(title, SVG) of every plot that fits the task."""
    wanted: list[tuple[str, Callable[[Findings], str]]] = [("Score over trials", score_over_trials)]
    if not findings.model.classes:
        wanted += [("Predicted and true", predicted_true), ("Residuals", residuals)]
    else:
        wanted.append(("Confusion matrix", confusion))
        if len(findings.model.classes) == 2:
            wanted += [("ROC curve", roc), ("Calibration", calibration)]
    made = [(title, draw(findings)) for title, draw in wanted]
    return (
        [*made, ("What the model looks at", importance_bars(importance, findings.job.metric))] if importance else made
    )


def score_over_trials(findings: Findings) -> str:
    complete = sorted(
        (t for t in findings.finished if t.state.name == "COMPLETE" and t.values), key=lambda t: t.datetime_complete
    )
    values = np.array([t.values[0] for t in complete])
    best = list(values[:1])
    for value in values[1:]:
        best.append(value if is_better(findings.job.metric, value, best[-1]) else best[-1])
    with _figure() as (_, axes, out):
        axes.plot(range(1, len(values) + 1), values, "o", color=SOFT, markersize=4, label="trial")
        axes.step(range(1, len(values) + 1), best, where="post", color=ACCENT, label="best so far")
        # one hopeless trial must not flatten all others
        low, high = np.quantile(values, [0.15, 1.0] if values[-1] >= values[0] else [0.0, 0.85])
        low, high = (values.min(), values.max()) if len(values) < 5 else (low, high)
        room = max(high - low, 1e-9) * 0.15
        axes.set_ylim(low - room, high + room)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("completed trials, in order of completion")
        axes.set_ylabel(f"{findings.job.metric} (cross-validated)")
        axes.legend(frameon=False)
    return out[0]


def confusion(findings: Findings) -> str:
    classes = list(findings.model.classes)[:20]
    predicted = findings.prediction.argmax(axis=1)
    table = np.zeros((len(classes), len(classes)), dtype=int)
    for true, guess in zip(findings.data.holdout.y, predicted, strict=True):
        if true < len(classes) and guess < len(classes):
            table[true, guess] += 1
    size = max(3.2, 0.5 * len(classes) + 2)
    with _figure(size + 0.6, size) as (_, axes, out):
        axes.imshow(table / np.maximum(table.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        for (i, j), count in np.ndenumerate(table):
            share = count / max(1, table[i].sum())
            axes.text(j, i, str(count), ha="center", va="center", color="white" if share > 0.6 else DARK)
        names = [c if len(c) <= 14 else f"{c[:13]}…" for c in classes]
        axes.set_xticks(
            range(len(classes)),
            names,
            rotation=45 if len(classes) > 4 else 0,
            ha="right" if len(classes) > 4 else "center",
        )
        axes.set_yticks(range(len(classes)), names)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
    return out[0]


def _positive(findings: Findings) -> tuple[np.ndarray, np.ndarray, str]:
    schema = findings.model.schema
    positive = schema.positive_class or schema.classes[1]
    column = schema.classes.index(positive)
    return findings.data.holdout.y == column, findings.prediction[:, column], positive


def roc(findings: Findings) -> str:
    from sklearn.metrics import roc_curve

    hit, score, positive = _positive(findings)
    false_rate, true_rate, _ = roc_curve(hit, score)
    with _figure(4.2, 3.8) as (_, axes, out):
        axes.plot([0, 1], [0, 1], "--", color=SOFT)
        axes.plot(false_rate, true_rate, color=ACCENT)
        axes.set_xlabel("false positive rate")
        axes.set_ylabel(f"true positive rate of '{positive}'")
        axes.set_title(f"area {findings.metrics.get('RocAuc', float('nan')):.4f}", fontsize=9)
    return out[0]


def calibration(findings: Findings) -> str:
    hit, score, positive = _positive(findings)
    edges = np.unique(np.quantile(score, np.linspace(0, 1, 11)))
    bins = np.clip(np.searchsorted(edges, score, side="right") - 1, 0, max(0, len(edges) - 2))
    points = [
        (score[bins == b].mean(), hit[bins == b].mean()) for b in range(max(1, len(edges) - 1)) if (bins == b).any()
    ]
    with _figure(4.2, 3.8) as (_, axes, out):
        axes.plot([0, 1], [0, 1], "--", color=SOFT)
        axes.plot(*zip(*points, strict=True), "o-", color=ACCENT, markersize=4)
        axes.set_xlabel(f"predicted probability of '{positive}'")
        axes.set_ylabel("observed share")
    return out[0]


def _sample(findings: Findings) -> tuple[np.ndarray, np.ndarray]:
    true, guess = findings.data.holdout.y, findings.prediction[:, 0]
    step = max(1, len(true) // MAX_POINTS)
    return true[::step], guess[::step]


def predicted_true(findings: Findings) -> str:
    true, guess = _sample(findings)
    with _figure(4.4, 4.0) as (_, axes, out):
        ends = [min(true.min(), guess.min()), max(true.max(), guess.max())]
        axes.plot(ends, ends, "--", color=SOFT)
        axes.plot(true, guess, "o", color=ACCENT, markersize=3, alpha=0.5)
        axes.set_xlabel(f"true {findings.model.schema.target}")
        axes.set_ylabel("predicted")
    return out[0]


def residuals(findings: Findings) -> str:
    true, guess = _sample(findings)
    with _figure(4.4, 4.0) as (_, axes, out):
        axes.axhline(0, color=SOFT, linestyle="--")
        axes.plot(guess, true - guess, "o", color=ACCENT, markersize=3, alpha=0.5)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true minus predicted")
    return out[0]


def importance_bars(importance: list[Importance], metric: str) -> str:
    shown = importance[:20][::-1]
    with _figure(5.6, 0.28 * len(shown) + 1.2) as (_, axes, out):
        names = [i.column if len(i.column) <= 28 else f"{i.column[:27]}…" for i in shown]
        axes.barh(
            names, [i.mean for i in shown], xerr=[i.spread for i in shown], color=ACCENT, ecolor="#8a97a3", height=0.65
        )
        axes.set_xlabel(f"{metric} lost when the column is shuffled")
    return out[0]
