"""Everything for people: leaderboard, metrics, exported code, the report. The model is stored by then."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.metrics import METRICS, Direction
from kubeautoml_trainer.finishing.work import Work, seed_of_trial

if TYPE_CHECKING:
    from kubeautoml_trainer.ensemble.build import Built
    from kubeautoml_trainer.finishing.bundle import Shipped
    from kubeautoml_trainer.finishing.facts import Facts
    from kubeautoml_trainer.report.importance import Importance
    from kubeautoml_trainer.report.tables import Tables
    from kubeautoml_trainer.report.words import Words
    from kubeautoml_trainer.variants.base import Made

log = logging.getLogger("kubeautoml.finalize")

EXPLAIN_SECONDS = 5.0
"""For explanations, at most; a guess at what is worth waiting for."""


def report(work: Work, built: Built, shipped: Shipped, facts: Facts, importance: list[Importance]) -> None:
    """Everything for people. A mistake in it must not cost the model, which is stored by now."""
    try:
        write_reports(work, built, shipped, facts, importance)
    except Exception:
        log.exception("the report could not be written; the model is there all the same")


def explain(work: Work, shipped: Shipped) -> list[Importance]:
    """Permutation importance, as far as the time allows; none where it cannot be had."""
    try:
        return _importance(work, shipped)
    except Exception:
        log.exception("the importance of columns is unknown; the model is there all the same")
        return []


def _importance(work: Work, shipped: Shipped) -> list[Importance]:
    from kubeautoml_trainer.report.importance import permutation_importance

    seconds = min(EXPLAIN_SECONDS, work.remaining_seconds())
    if seconds <= 0:
        return []
    job = work.context.job
    shipped.model.set_threads(work.context.threads)
    return permutation_importance(
        shipped.model.predict_rows,
        work.task,
        job.metric,
        work.data.holdout,
        seed=job.search.seed,
        deadline=time.monotonic() + seconds,
    )


def explainable_tables(work: Work, built: Built) -> Tables | None:
    """What the weightiest explainable model of the ensemble learned; None where there is none."""
    from kubeautoml_trainer.models.pipeline import load_pipeline
    from kubeautoml_trainer.report.tables import read_tables

    schema = work.data.schema
    for member in sorted(built.files, key=lambda m: -m.weight):
        if member.family == "ExplainableBoosting":
            return read_tables(load_pipeline(member.folders[0]), schema.target, schema.classes)
    return None


def weights_of_words(work: Work, built: Built) -> Words | None:
    """What the best linear model of texts goes by: of the ensemble, else of all trials; None where there is none."""
    from kubeautoml_trainer.artifacts import unpack_models
    from kubeautoml_trainer.models.pipeline import load_pipeline
    from kubeautoml_trainer.report.words import FAMILIES, read_words

    schema = work.data.schema
    if not any(c.type is ColumnType.TEXT for c in schema.features):
        return None
    folders = [m.folders[0] for m in sorted(built.files, key=lambda m: -m.weight) if m.family in FAMILIES]
    if not folders:
        sign = -1.0 if METRICS[work.context.job.metric].direction is Direction.MAXIMIZE else 1.0
        linear = sorted((t for t in work.scored if t.family in FAMILIES), key=lambda t: sign * t.value)
        if not linear:
            return None
        scratch = work.context.scratch_dir / "finalize" / "words"
        folders = unpack_models(work.store, work.context.job.paths, linear[0].trial, scratch)
    return read_words(load_pipeline(folders[0]), schema.target, schema.classes)


def write_reports(work: Work, built: Built, shipped: Shipped, facts: Facts, importance: list[Importance]) -> None:
    """Leaderboard, metrics, exported code, and the report if there is time to draw it."""
    from kubeautoml_trainer.report.export import export_pipeline
    from kubeautoml_trainer.report.leaderboard import leaderboard_csv

    paths = work.context.job.paths
    work.store.write(paths.leaderboard, leaderboard_csv(facts.leaderboard, facts.variants, facts.second).encode())
    work.store.write(
        paths.metrics, json.dumps(metrics_body(work, built, shipped, facts), indent=1, allow_nan=False).encode()
    )
    best = next(r for r in facts.leaderboard if r.trial in built.candidates)
    work.store.write(
        paths.pipeline,
        export_pipeline(
            work.context.job,
            best,
            seed_of_trial(work, int(best.trial or 0)),
            len(work.scored),
            has_images=any(c.type is ColumnType.IMAGE for c in work.data.schema.features),
        ).encode(),
    )
    work.store.write(paths.report, report_html(work, built, shipped, facts, importance).encode())


def metrics_body(work: Work, built: Built, shipped: Shipped, facts: Facts) -> dict[str, Any]:
    """`metrics.json`."""
    job, profile = work.context.job, work.data.profile
    return {
        "task": job.task.type.value,
        "objective": job.metric,
        "holdout": facts.holdout,
        "crossValidated": facts.validated,
        "bestSingleCrossValidated": built.selection.best_single,
        "rows": {"train": profile.rows, "holdout": profile.holdout_rows, "folds": profile.folds},
        "model": {
            "sha256": shipped.sha256,
            "sizeBytes": shipped.size_bytes,
            "predictLatencyP99Ms": facts.variants[0].p99_ms,
            "members": [{"trial": m.trial, "weight": m.weight} for m in shipped.made[0].members],
            "secondLevel": second_body(shipped.made[0]),
        },
        "variants": [v.to_json() for v in facts.variants],
    }


def second_body(made: Made) -> dict[str, Any] | None:
    """A variant's second level, as in `metrics.json`; None where it has none."""
    second = made.second
    if second is None:
        return None
    return {"weight": second.weight, "trials": list(second.inputs), "crossValidated": second.cross_validated}


def report_html(work: Work, built: Built, shipped: Shipped, facts: Facts, importance: list[Importance]) -> str:
    """The report; without plots when there is no time for them."""
    from kubeautoml_trainer.report.page import ReportFacts, report_page

    job = work.context.job
    return report_page(
        ReportFacts(
            job=job,
            profile=work.data.profile,
            task=work.task,
            holdout=work.data.holdout,
            prediction=shipped.made[0].post.calibrated(shipped.made[0].scored),
            metrics=facts.holdout,
            validated=facts.validated,
            best_single=built.selection.best_single,
            leaderboard=facts.leaderboard,
            trial_values=[(t.trial, t.family, t.value) for t in work.scored],
            importance=importance,
            latency_p99_ms=facts.variants[0].p99_ms or float("nan"),
            size_bytes=shipped.size_bytes,
            sha256=shipped.sha256,
            variants=facts.variants,
            second=facts.second,
            tables=explainable_tables(work, built),
            words=weights_of_words(work, built),
        ),
        with_plots=work.remaining_seconds() > 0,
    )
