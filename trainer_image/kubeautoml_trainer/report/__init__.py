"""Leaderboard, metrics, report and exported code of a finished search."""

from __future__ import annotations

import json
import time

from kubeautoml.storage import ObjectStore
from kubeautoml_trainer.report.export import pipeline_script
from kubeautoml_trainer.report.findings import Findings
from kubeautoml_trainer.report.importance import permutation_importance
from kubeautoml_trainer.report.leaderboard import leaderboard
from kubeautoml_trainer.report.page import page

PLOT_SECONDS = 3.0
"""Kept for the plots after the explanations; measured 1 to 2 s."""

__all__ = ["Findings", "write_report"]


def write_report(findings: Findings, store: ObjectStore, deadline: float) -> None:
    """Write all of it beside the model; with little time left (`time.monotonic()`) without explanations and plots."""
    paths = findings.job.paths
    table = leaderboard(findings)
    store.write(paths.leaderboard, table.to_csv(index=False).encode())
    validated = {
        "metric": findings.job.metric,
        "crossValidated": findings.selection.value,
        "latencyP99Ms": findings.latency_p99_ms,
    }
    store.write(paths.metrics, json.dumps({**validated, "holdout": findings.metrics}, indent=1).encode())
    store.write(paths.pipeline, pipeline_script(findings).encode())
    plots: list[tuple[str, str]] = []
    if deadline - time.monotonic() > PLOT_SECONDS:
        from kubeautoml_trainer.report.plots import plots_for

        plots = plots_for(findings, permutation_importance(findings, deadline - PLOT_SECONDS))
    store.write(paths.report, page(findings, table, plots).encode())
