"""`kubeautoml finalize`: the container entry point that turns the trials into the model, once.

Exit 0: the model is stored and the study says so. 1: there can be none, said in the study and in one line on stderr; or the study or a
storage stayed away, said on stderr alone, and the next pod tries again. 143: SIGTERM, at any moment. The model comes first; explanations
and the report take what time is left. Nothing but the measured times depends on when it runs, so a finalizer that was killed and started
again makes the same model.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import AccessDenied, KubeAutoMLError, StorageError, StudyError
from kubeautoml.api.logs import log_context, log_to_stderr
from kubeautoml.api.pod import PodContext
from kubeautoml.api.trials import JobResult, StudyAttr, TrialAttr
from kubeautoml_trainer.search.signals import EXIT_CODE
from kubeautoml_trainer.worker import give_up, leave, limit_threads, open_study, unexpected

if TYPE_CHECKING:
    import optuna

    from kubeautoml.storage import ObjectStore
    from kubeautoml_trainer.data.base import PreparedData
    from kubeautoml_trainer.ensemble.build import Built
    from kubeautoml_trainer.ensemble.stored import ScoredTrial
    from kubeautoml_trainer.report.importance import Importance
    from kubeautoml_trainer.report.leaderboard import Ranked
    from kubeautoml_trainer.tasks.base import Task

log = logging.getLogger("kubeautoml.finalize")

MARGIN_SECONDS = 4.0
"""Kept between the end of explaining and the job's deadline, for writing; measured on two cores, with the disk busy."""
EXPLAIN_SECONDS = 5.0
"""For explanations, at most; a guess at what is worth waiting for."""
SELECT_SECONDS = 60.0
RECORDS_READ = 1_000
"""Best trials whose records the leaderboard shows in full; of more only what the study knows."""


def main(argv: list[str]) -> int:
    """Make the model of the job in the environment."""
    if argv:
        print("usage: kubeautoml finalize      (everything is read from the environment)", file=sys.stderr)
        return 0 if argv[0] in ("-h", "--help") else 2
    log_to_stderr()
    # as process 1 of a container it would not even hear SIGTERM without a handler
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(EXIT_CODE))
    context = PodContext.from_env(os.environ)
    limit_threads(context.threads)
    with log_context(job=f"{context.job.namespace}/{context.job.name}", pod=context.pod_name):
        try:
            return _run(context)
        except (StudyError, StorageError) as error:
            return leave(error)
        except Exception as error:  # noqa: BLE001  # whatever it is ends in one line
            return leave(unexpected(error, context))


def _run(context: PodContext) -> int:
    study = open_study(context)
    from kubeautoml.study import study_attr

    if study_attr(study, StudyAttr.RESULT) is not None:
        log.info("the model is there already", extra={"study": study.study_name})
        clean_trials(context, study)
        return 0
    try:
        finalize(context, study)
    except AccessDenied as error:
        return give_up(study, "finalize", error)
    except (StudyError, StorageError, OSError, MemoryError):
        raise
    except KubeAutoMLError as error:
        return give_up(study, "finalize", error)
    except Exception as error:  # noqa: BLE001  # another pod would come to the same end
        return give_up(study, "finalize", unexpected(error, context))
    clean_trials(context, study)
    return 0


@dataclass(frozen=True)
class Work:
    """What all steps share. job_deadline: unix time at which the model is due, None for whenever."""

    context: PodContext
    study: optuna.Study
    store: ObjectStore
    data: PreparedData
    task: Task
    scored: list[ScoredTrial]
    job_deadline: float | None

    def remaining_seconds(self) -> float:
        """Until writing must begin."""
        return float("inf") if self.job_deadline is None else self.job_deadline - time.time() - MARGIN_SECONDS


def finalize(context: PodContext, study: optuna.Study) -> JobResult:
    """The steps, in order.

    Raises:
        FinalizeError: there can be no model.
        DataError: the data is not what the trials saw.
        StorageUnavailable, StudyError: what is needed is away.
    """
    from kubeautoml.study import study_attr

    timer = Timer()
    work = load(context, study)
    timer.lap("Loading")
    tell_stage(study, "Ensembling")
    built = build_model(work)
    timer.lap("Ensembling")
    tell_stage(study, "Evaluating")
    facts = evaluate(work, built)
    timer.lap("Evaluating")
    told: JobResult | None = study_attr(study, StudyAttr.RESULT)
    if told is not None:  # by another finalizer, whose node came back; its model is the one that counts
        log.info("the model is there already", extra={"study": study.study_name})
        return told
    tell_stage(study, "Writing")
    upload_bundle(work, built)
    timer.lap("Writing")
    tell_stage(study, "Explaining")
    report(work, built, facts)
    timer.lap("Explaining")
    result = tell_result(work, built, facts)
    log.info("model finished", extra={"uri": result.model_uri, "members": len(result.members), "seconds": timer.laps})
    return result


class Timer:
    """Seconds by step, for the log."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.laps[step] = round(now - self._last, 2)
        self._last = now


def tell_stage(study: optuna.Study, stage: str) -> None:
    from kubeautoml.study import set_study_attr

    set_study_attr(study, StudyAttr.STAGE, stage)


def load(context: PodContext, study: optuna.Study) -> Work:
    """Study and data."""
    from kubeautoml.storage import open_store
    from kubeautoml.study import read_limits
    from kubeautoml_trainer.data.prepare import prepare
    from kubeautoml_trainer.tasks import task_of

    tell_stage(study, "Loading")
    scored = scored_trials(study)
    if not scored:
        raise _nothing_completed(study)
    data = prepare(context)
    limits = read_limits(study)
    return Work(
        context=context,
        study=study,
        store=open_store(
            context.job.output.uri,
            context.output_credentials_dir,
            patience_seconds=context.storage_patience_seconds,
        ),
        data=data,
        task=task_of(context.job, data.schema),
        scored=scored,
        job_deadline=None if limits is None else limits.job_deadline,
    )


def scored_trials(study: optuna.Study) -> list[ScoredTrial]:
    """Completed trials with a finite value, by number; without those that another one took the place of. One that came out worse,
    because its time was cut short, takes no place.
    """
    from kubeautoml_trainer.ensemble.stored import ScoredTrial

    completed = [
        t
        for t in study.get_trials(deepcopy=False)
        if t.state.name == "COMPLETE" and t.values and abs(t.values[0]) < float("inf")
    ]
    sign = -1.0 if study.direction.name == "MAXIMIZE" else 1.0
    losses = {t.number: sign * t.values[0] for t in completed}
    promotions = {
        int(t.user_attrs[TrialAttr.PROMOTES]): t.number for t in completed if TrialAttr.PROMOTES in t.user_attrs
    }
    promoted = {
        old for old, new in promotions.items() if old in losses and losses[new] <= losses[old] + 1e-3 * abs(losses[old])
    }
    return [ScoredTrial(t.number, _family(t), float(t.values[0])) for t in completed if t.number not in promoted]


def _family(trial: Any) -> str:
    return str(trial.user_attrs.get(TrialAttr.FAMILY) or trial.params.get("family", ""))


def _nothing_completed(study: optuna.Study) -> KubeAutoMLError:
    from kubeautoml_trainer.ensemble.build import FinalizeError

    trials = study.get_trials(deepcopy=False)
    errors = Counter(str(t.user_attrs[TrialAttr.ERROR]) for t in trials if t.user_attrs.get(TrialAttr.ERROR))
    if errors:
        words, times = errors.most_common(1)[0]
        why = f"{times} of {len(trials)} trials ended in: {words[:500]}"
    elif trials:
        why = f"none of {len(trials)} trials ended in time; give spec.budget.maxDurationSeconds more"
    else:
        why = "no trial was started; give spec.budget.maxDurationSeconds more"
    return FinalizeError(f"no trial completed, so there is no model: {why}", reason=Reason.NO_TRIAL_COMPLETED)


def build_model(work: Work) -> Built:
    """Select the ensemble and put its bundle on disk, checked."""
    from kubeautoml_trainer.bundle import MemberFiles, write_bundle
    from kubeautoml_trainer.bundle.manifest import Lineage
    from kubeautoml_trainer.ensemble.base import Selection
    from kubeautoml_trainer.ensemble.build import Workshop, build

    job, data = work.context.job, work.data
    lineage = Lineage(
        job_name=job.name,
        job_uid=job.uid,
        namespace=job.namespace,
        data_sha256=data.profile.sha256,
        trials=len(work.scored),
        seed=job.search.seed,
    )
    created_at = newest_end(work.study)

    def write(folder: Path, selection: Selection, members: Sequence[MemberFiles], holdout: Any) -> None:
        metrics = holdout_metrics(work, holdout)
        write_bundle(
            folder,
            schema=data.schema,
            task_type=job.task.type,
            metric=job.metric,
            members=members,
            metrics=metrics,
            lineage=lineage,
            card=model_card(work, selection, members, metrics, created_at),
            created_at=created_at,
        )

    seconds = min(SELECT_SECONDS, max(1.0, 0.3 * work.remaining_seconds()))
    scratch = work.context.scratch_dir / "finalize"
    shop = Workshop(job, work.store, data, work.task, scratch, time.monotonic() + seconds)
    return build(shop, _without_constants(work.scored), write)


def _without_constants(scored: list[ScoredTrial]) -> list[ScoredTrial]:
    """A constant adds nothing but a pull to the middle, unless there is nothing else."""
    return [t for t in scored if t.family != "Dummy"] or scored


def newest_end(study: optuna.Study) -> str:
    """When the newest completed trial ended, RFC 3339: the same however often the finalizer is started."""
    ends = [t.datetime_complete for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    last = max((e.timestamp() for e in ends if e is not None), default=0.0)
    return datetime.fromtimestamp(last, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def holdout_metrics(work: Work, holdout: Any) -> dict[str, float]:
    """All metrics of the task that are defined on these rows."""
    rows = work.data.holdout
    values = {m: work.task.score(m, rows.y, holdout, rows.weight) for m in work.task.metrics} if len(rows) else {}
    return {m: float(v) for m, v in values.items() if abs(v) < float("inf")}


def model_card(
    work: Work, selection: Any, members: Sequence[Any], metrics: dict[str, float], created_at: str
) -> dict[str, Any]:
    """What a person should know of the model, for the bundle and the server's page."""
    job, profile = work.context.job, work.data.profile
    schema = profile.schema
    return {
        "name": job.name,
        "task": job.task.type.value,
        "target": schema.target,
        "classes": list(schema.classes),
        "positiveClass": schema.positive_class,
        "objective": job.metric,
        "metrics": metrics,
        "crossValidated": {job.metric: selection.value},
        "rows": {"train": profile.rows, "holdout": profile.holdout_rows, "folds": profile.folds},
        "features": [c.name for c in schema.features],
        "members": [
            {"trial": m.trial, "family": m.family, "weight": m.weight, "parameters": dict(m.parameters)}
            for m in members
        ],
        "warnings": list(profile.warnings),
        "createdAt": created_at,
        "intendedUse": f"Predicting '{schema.target}' for rows like those it was trained on; it has not been checked on others.",
    }


@dataclass(frozen=True)
class Facts:
    """What evaluation found. `validated`: metrics of the ensemble's out-of-fold predictions, which chose its weights."""

    holdout: dict[str, float]
    validated: dict[str, float]
    leaderboard: list[Ranked]


def evaluate(work: Work, built: Built) -> Facts:
    """Hold-out and out-of-fold metrics of the ensemble, and the leaderboard."""
    import numpy as np

    from kubeautoml_trainer.ensemble.build import weighted_mean

    oof = weighted_mean({n: t.oof for n, t in built.members.items()}, built.selection.weights)
    seen = np.isfinite(oof).all(axis=1)
    rows = work.data.train.take(seen)
    validated = {m: work.task.score(m, rows.y, oof[seen], rows.weight) for m in work.task.metrics}
    return Facts(
        dict(built.model.metrics),
        {m: v for m, v in validated.items() if abs(v) < float("inf")},
        leaderboard(work, built),
    )


def leaderboard(work: Work, built: Built) -> list[Ranked]:
    """All completed trials, best first, with what their records say of the best thousand."""
    from kubeautoml_trainer.ensemble.candidates import best_first
    from kubeautoml_trainer.ensemble.stored import read_records
    from kubeautoml_trainer.report.leaderboard import Ranked

    job = work.context.job
    ranked = best_first(work.scored, job.metric)
    records = read_records(work.store, job.paths, [t.trial for t in ranked[:RECORDS_READ]])
    attrs = {t.number: t for t in work.study.get_trials(deepcopy=False)}
    rows = work.data.holdout
    out = []
    for t in ranked:
        record, trial = records.get(t.trial), attrs[t.trial]
        stored = built.candidates.get(t.trial)
        value = work.task.score(job.metric, rows.y, stored.holdout, rows.weight) if stored is not None else None
        out.append(
            Ranked(
                trial=t.trial,
                family=t.family,
                value=t.value,
                holdout_value=value,
                weight=built.selection.weights.get(t.trial, 0.0),
                fit_seconds=record.fit_seconds if record else None,
                predict_seconds=record.predict_seconds if record else None,
                size_bytes=record.size_bytes if record else None,
                parameters=record.parameters if record else dict(trial.params),
            )
        )
    return out


def upload_bundle(work: Work, built: Built) -> None:
    """Store the bundle, `bundle.json` last: a reader finds a whole model or none.

    Files of this very model are never deleted, so that a second finalizer, which writes the same bytes, does no harm.
    """
    from concurrent.futures import ThreadPoolExecutor

    from kubeautoml_trainer.bundle.manifest import BUNDLE, digest

    store, target = work.store, work.context.job.paths.model
    index = f"{target}/{BUNDLE}"
    if store.exists(index) and digest(store.read(index)) != built.model.sha256:
        store.delete(index)
    files = {f"{target}/{p.relative_to(built.folder).as_posix()}": p for p in built.folder.rglob("*") if p.is_file()}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda uri: store.upload(files[uri], uri), [uri for uri in files if uri != index]))
    for stored in store.find(f"{target}/", hidden=True):
        if stored.uri not in files:  # left by an attempt that chose otherwise; a bundle holds no strangers
            store.delete(stored.uri)
    store.upload(files[index], index)


def report(work: Work, built: Built, facts: Facts) -> None:
    """Everything for people. A mistake in it must not cost the model, which is stored by now."""
    try:
        write_reports(work, built, facts, explain(work, built))
    except Exception:
        log.exception("the report could not be written; the model is there all the same")


def explain(work: Work, built: Built) -> list[Importance]:
    """Permutation importance, as far as the time allows."""
    from kubeautoml_trainer.report.importance import permutation_importance

    seconds = min(EXPLAIN_SECONDS, work.remaining_seconds())
    if seconds <= 0:
        return []
    job = work.context.job
    built.model.set_threads(work.context.threads)
    return permutation_importance(
        built.model.predict_rows,
        work.task,
        job.metric,
        work.data.holdout,
        seed=job.search.seed,
        deadline=time.monotonic() + seconds,
    )


def write_reports(work: Work, built: Built, facts: Facts, importance: list[Importance]) -> None:
    """Leaderboard, metrics, exported code, and the report if there is time to draw it."""
    from kubeautoml_trainer.report.export import export_pipeline
    from kubeautoml_trainer.report.leaderboard import leaderboard_csv

    paths = work.context.job.paths
    work.store.write(paths.leaderboard, leaderboard_csv(facts.leaderboard).encode())
    work.store.write(paths.metrics, json.dumps(metrics_body(work, built, facts), indent=1, allow_nan=False).encode())
    best = next(r for r in facts.leaderboard if r.trial in built.candidates)
    work.store.write(
        paths.pipeline,
        export_pipeline(work.context.job, best, seed_of_trial(work, best.trial), len(work.scored)).encode(),
    )
    work.store.write(paths.report, report_html(work, built, facts, importance).encode())


def seed_of_trial(work: Work, number: int) -> int:
    """The seed that the worker gave the trial's first fold."""
    from kubeautoml_trainer.search.sampler import origin_of, seed_of

    trial = next(t for t in work.study.get_trials(deepcopy=False) if t.number == number)
    return seed_of(work.context.job.search.seed, origin_of(work.study, trial)) % 2**31


def metrics_body(work: Work, built: Built, facts: Facts) -> dict[str, Any]:
    """`metrics.json`."""
    job, profile = work.context.job, work.data.profile
    latency = built.latency_p99_ms
    return {
        "task": job.task.type.value,
        "objective": job.metric,
        "holdout": facts.holdout,
        "crossValidated": facts.validated,
        "bestSingleCrossValidated": built.selection.best_single,
        "rows": {"train": profile.rows, "holdout": profile.holdout_rows, "folds": profile.folds},
        "model": {
            "sha256": built.model.sha256,
            "sizeBytes": built.size_bytes,
            "predictLatencyP99Ms": round(latency, 3) if latency == latency else None,
            "members": [{"trial": n, "weight": w} for n, w in built.selection.weights.items()],
        },
    }


def report_html(work: Work, built: Built, facts: Facts, importance: list[Importance]) -> str:
    """The report; without plots when there is no time for them."""
    from kubeautoml_trainer.report.page import ReportFacts, report_page

    job = work.context.job
    return report_page(
        ReportFacts(
            job=job,
            profile=work.data.profile,
            task=work.task,
            holdout=work.data.holdout,
            prediction=built.holdout,
            metrics=facts.holdout,
            validated=facts.validated,
            best_single=built.selection.best_single,
            leaderboard=facts.leaderboard,
            trial_values=[(t.trial, t.family, t.value) for t in work.scored],
            importance=importance,
            latency_p99_ms=built.latency_p99_ms,
            size_bytes=built.size_bytes,
            sha256=built.model.sha256,
        ),
        with_plots=work.remaining_seconds() > 0,
    )


def tell_result(work: Work, built: Built, facts: Facts) -> JobResult:
    """Say in the study that the model is there; the operator waits for this."""
    from kubeautoml import __version__
    from kubeautoml.study import set_study_attr

    families = {n: t.record.family for n, t in built.members.items()}
    result = JobResult(
        model_uri=work.context.job.paths.model,
        sha256=built.model.sha256,
        size_bytes=built.size_bytes,
        metrics=facts.holdout,
        members=tuple(f"{families[n]} {w:.3f} (trial {n})" for n, w in built.selection.weights.items())[:30],
        trials=len(work.scored),
        data_sha256=work.data.profile.sha256,
        finished_at=time.time(),
        code_version=__version__,
    )
    set_study_attr(work.study, StudyAttr.RESULT, result)
    return result


def clean_trials(context: PodContext, study: optuna.Study) -> None:
    """Remove what trials beyond retention.keepTrialArtifacts left; the model, which is stored by now, has its own copy.

    Best effort: a file that cannot be removed costs space, not the job.
    """
    from kubeautoml.storage import open_store
    from kubeautoml.study import read_limits
    from kubeautoml_trainer.ensemble.candidates import best_first

    limits = read_limits(study)
    if limits is None or limits.keep_trial_artifacts is None:
        return
    paths = context.job.paths
    kept = {t.trial for t in best_first(scored_trials(study), context.job.metric)[: limits.keep_trial_artifacts]}
    store = open_store(paths.root, context.output_credentials_dir)
    try:
        removed = sum(store.delete(paths.trial(t.number)) for t in study.trials if t.number not in kept)
        removed += store.delete(paths.checkpoint())
    except KubeAutoMLError as error:
        log.warning("artifacts of trials stay", extra={"error": str(error)})
    else:
        log.info("artifacts of trials removed", extra={"objects": removed, "kept": sorted(kept)})
