"""The report's plots as inline SVG; matplotlib is imported only here, and only when one is drawn.

Text from the data is shortened and given to matplotlib as plain text (no mathtext), which escapes it in the SVG.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from kubeautoml_trainer.report.tables import Table

BLUE, GREY = "#2f6fb0", "#8a94a0"
_MOST_POINTS = 1_500  # dots in one SVG; more only make the page heavy


def plain(text: object, most: int = 28) -> str:
    """Short, on one line, and without a dollar sign that would start a formula."""
    line = " ".join(str(text).split()).replace("$", r"\$")
    return line if len(line) <= most else line[: most - 1] + "…"


def draw(paint: Callable[[Any], None], width: float = 5.6, height: float = 3.4, label: str = "") -> str:
    """An SVG element: `paint` gets the axes."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "kubeautoml", "font.size": 9, "font.family": "sans-serif"}
    ):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(label, loc="left", fontsize=9.5, color="#445")
        paint(axes)
        out = io.StringIO()
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
    return _inline(out.getvalue(), label)


def _inline(svg: str, label: str) -> str:
    """Only the element, scaled by the page, with ids that cannot meet those of another plot."""
    from html import escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    prefix = re.sub(r"[^a-z]", "", label.lower())
    svg = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'xlink:href="#{prefix}-\1"', svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


def table(found: Table, unit: str) -> str:
    """What a column's values add to the prediction: steps for a number, bars for a category."""

    def paint(axes: Any) -> None:
        axes.axhline(0, color=GREY, linewidth=0.8)
        if found.edges is not None:
            axes.stairs(found.scores, found.edges, color=BLUE, linewidth=1.4, baseline=None)
        else:
            axes.bar(range(len(found.labels)), found.scores, color=BLUE)
            axes.set_xticks(
                range(len(found.labels)), [plain(text, 12) for text in found.labels], rotation=45, ha="right"
            )
        if found.missing is not None:
            axes.axhline(found.missing, color=BLUE, linewidth=0.8, linestyle=":")
        axes.set_ylabel(plain(unit))

    return draw(paint, 3.4, 2.4, f"What {plain(found.name)} adds")


def progress(values: Sequence[tuple[int, str, float]], metric: str, maximize: bool) -> str:
    """Each trial's score, and the best so far. values: (number, family, value), by number."""

    def paint(axes: Any) -> None:
        numbers = np.array([v[0] for v in values])
        scores = np.array([v[2] for v in values])
        for family in sorted({v[1] for v in values}):
            of = np.array([v[1] == family for v in values])
            axes.scatter(numbers[of], scores[of], s=16, label=plain(family), alpha=0.85)
        best = np.maximum.accumulate(scores) if maximize else np.minimum.accumulate(scores)
        axes.step(numbers, best, where="post", color=GREY, linewidth=1.2, label="best so far")
        axes.set_ylim(*_focus(scores, maximize))
        axes.set_xlabel("trial")
        axes.set_ylabel(f"{metric} (cross-validated)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=7.5, frameon=False, loc="lower right" if maximize else "upper right")

    return draw(paint, width=7.2, label="Score over trials")


def _focus(scores: np.ndarray, maximize: bool) -> tuple[float, float]:
    """Limits that show the good trials, not one terrible one."""
    good = np.sort(scores if maximize else -scores)[::-1]
    best, usual = good[0], good[int(len(good) * 0.9) - 1] if len(good) > 9 else good[-1]
    low = max(good[-1], best - 3 * (best - usual)) if best > usual else good[-1]
    pad = 0.06 * (best - low) or 0.01 * abs(best) or 0.01
    return (low - pad, best + pad) if maximize else (-best - pad, -low + pad)


def importance(names: Sequence[str], means: Sequence[float], spreads: Sequence[float], metric: str) -> str:
    """The columns that matter most, at most 20."""

    def paint(axes: Any) -> None:
        shown = min(len(names), 20)
        places = np.arange(shown)[::-1]
        axes.barh(places, means[:shown], xerr=spreads[:shown], color=BLUE, error_kw={"elinewidth": 0.8, "ecolor": GREY})
        axes.set_yticks(places, [plain(n) for n in names[:shown]])
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.set_xlabel(f"{metric} lost when the column is shuffled")

    return draw(paint, width=7.2, height=1.0 + 0.26 * min(len(names), 20), label="Permutation importance")


def confusion(table: np.ndarray, classes: Sequence[str]) -> str:
    """Counts, truth by row, shaded by share of the row."""

    def paint(axes: Any) -> None:
        share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        names = [plain(c, 14) for c in classes]
        axes.set_xticks(
            range(len(names)), names, rotation=45 if len(names) > 4 else 0, ha="right" if len(names) > 4 else "center"
        )
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        if len(names) <= 12:
            for i, j in np.ndindex(table.shape):
                color = "white" if share[i, j] > 0.55 else "#223"
                axes.text(j, i, f"{table[i, j]:g}", ha="center", va="center", color=color)

    size = 3.1 + 0.25 * max(0, len(classes) - 3)
    return draw(paint, width=min(size + 0.3, 7), height=min(size, 6.4), label="Confusion matrix")


def roc(y: np.ndarray, prediction: np.ndarray, classes: Sequence[str], positive: int) -> str:
    """True against false positive rate: of the positive class, or of each class against the rest."""

    def paint(axes: Any) -> None:
        for k in [positive] if len(classes) == 2 else range(min(len(classes), 8)):
            hit = y == k
            if not hit.any() or hit.all():
                continue
            order = np.argsort(-prediction[:, k], kind="stable")
            true = np.concatenate(([0], np.cumsum(hit[order]))) / hit.sum()
            false = np.concatenate(([0], np.cumsum(~hit[order]))) / (~hit).sum()
            step = max(1, len(true) // _MOST_POINTS)
            axes.plot(
                np.append(false[::step], 1),
                np.append(true[::step], 1),
                linewidth=1.4,
                label=plain(classes[k], 18),
            )
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        axes.set_aspect("equal")
        axes.legend(fontsize=8, frameon=False, loc="lower right", title="class", title_fontsize=8)

    return draw(paint, width=3.4, height=3.5, label="ROC curve")


def calibration(y: np.ndarray, prediction: np.ndarray, classes: Sequence[str], positive: int) -> str:
    """What happened against what was predicted, in ten bins of equal count."""

    def paint(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
        for k in [positive] if len(classes) == 2 else range(min(len(classes), 8)):
            order = np.argsort(prediction[:, k], kind="stable")
            bins = [b for b in np.array_split(order, 10) if len(b)]
            said = [prediction[b, k].mean() for b in bins]
            happened = [(y[b] == k).mean() for b in bins]
            axes.plot(said, happened, marker="o", markersize=3.5, linewidth=1.2, label=plain(classes[k], 18))
        axes.set_xlabel("predicted probability")
        axes.set_ylabel("share that was so")
        axes.set_aspect("equal")
        axes.legend(fontsize=8, frameon=False, loc="upper left", title="class", title_fontsize=8)

    return draw(paint, width=3.4, height=3.5, label="Calibration")


def predicted_and_true(y: np.ndarray, predicted: np.ndarray, target: str) -> str:
    """Each hold-out row; on the line it is exact."""

    def paint(axes: Any) -> None:
        some = _some(len(y))
        axes.scatter(predicted[some], y[some], s=9, alpha=0.55, color=BLUE, linewidths=0)
        ends = [min(y.min(), predicted.min()), max(y.max(), predicted.max())]
        axes.plot(ends, ends, color=GREY, linewidth=0.8, linestyle="--")
        axes.set_xlabel(f"predicted {plain(target, 20)}")
        axes.set_ylabel(f"true {plain(target, 20)}")

    return draw(paint, width=4.0, height=3.6, label="Predicted and true")


def residuals(y: np.ndarray, predicted: np.ndarray) -> str:
    """How far off, and how often."""

    def paint(axes: Any) -> None:
        off = predicted - y
        axes.hist(off, bins=min(40, max(8, int(np.sqrt(len(off)) * 1.5))), color=BLUE)
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.set_xlabel("predicted minus true")
        axes.set_ylabel("rows")

    return draw(paint, width=4.0, height=3.6, label="Residuals")


def _some(n: int) -> np.ndarray:
    if n <= _MOST_POINTS:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, _MOST_POINTS, replace=False))
