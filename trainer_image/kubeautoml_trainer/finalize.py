"""`kubeautoml finalize`: the container entry point that makes the model of what the trials left.

Exit 0: the model is stored and the study knows it. 1: no model can be made, said in the study and in one line on stderr.
Everything follows from the study and the stored trials, so a finalizer that was killed is simply started again.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kubeautoml import __version__
from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import KubeAutoMLError
from kubeautoml.api.job import ConstraintMetric
from kubeautoml.api.pod import PodContext
from kubeautoml.api.trials import JobResult, StudyAttr
from kubeautoml_trainer.worker import give_up, limit_threads, log_to_stderr, open_study

if TYPE_CHECKING:
    import optuna

    from kubeautoml.storage import ObjectStore
    from kubeautoml_trainer.artifacts import Predictions, TrialRecord
    from kubeautoml_trainer.bundle import Model
    from kubeautoml_trainer.data.base import PreparedData
    from kubeautoml_trainer.ensemble import Cost, Selection

log = logging.getLogger("kubeautoml.finalize")

REPORT_SECONDS = 20.0
"""Time for plots and explanations when the job has no deadline; with one, what is left of it."""

REPORT_MARGIN_SECONDS = 3.0
LATENCY_CALLS = 60


class CannotFinalize(KubeAutoMLError):
    """No model can be made of what there is."""

    default_reason = Reason.FINALIZE_FAILED


@dataclass(frozen=True)
class StoredTrial:
    """A completed trial with what it left."""

    record: TrialRecord
    predictions: Predictions


def main(argv: list[str]) -> int:
    """Make the model of the job in the environment."""
    if argv:
        print("usage: kubeautoml finalize      (everything is read from the environment)", file=sys.stderr)
        return 0 if argv[0] in ("-h", "--help") else 2
    log_to_stderr()
    context = PodContext.from_env(os.environ)
    limit_threads(context.threads)

    from kubeautoml.study import study_attr

    study = open_study(context)
    if study_attr(study, StudyAttr.RESULT) is not None:
        log.info("the model is there already")
        return 0
    try:
        result = Finalizer(context, study).run()
    except CannotFinalize as error:
        return give_up(study, "finalize", error)

    from kubeautoml.study import set_study_attr

    set_study_attr(study, StudyAttr.RESULT, result)
    log.info("model stored", extra={"uri": result.model_uri, "metrics": result.metrics, "members": result.members})
    return 0


class Finalizer:
    """From stored trials to a stored model."""

    def __init__(self, context: PodContext, study: optuna.Study) -> None:
        self._context = context
        self._study = study
        self._job = context.job
        self._began = time.monotonic()

    def run(self) -> JobResult:
        """Select, check, evaluate, store.

        Raises:
            CannotFinalize: no completed trial can be used, or none keeps the constraints.
        """
        from kubeautoml.storage import open_store
        from kubeautoml_trainer.data.prepare import prepare
        from kubeautoml_trainer.tasks import task_for

        context, job = self._context, self._job
        store = open_store(job.output.uri, context.output_credentials_dir)
        self._say("Loading")
        data = prepare(context)
        task = task_for(job.task.type, data.schema)
        trials = self._stored_trials(store, data)
        self._say("Ensembling")
        selection = self._select(trials, data, store)
        self._say("Evaluating")
        model = self._model(selection, trials, data, store)
        self._check(model, selection, trials, data)
        prediction = model.predict_typed(data.holdout.frame)
        metrics = {m: task.score(m, data.holdout.y, prediction, data.holdout.weight) for m in task.metrics}
        metrics = {m: float(v) for m, v in metrics.items() if np.isfinite(v)}
        model.card["metrics"] = metrics
        self._say("Writing")
        sha256, size, latency = self._store(model, data, store)
        self._report(model, selection, trials, data, prediction, metrics, latency, store)
        return JobResult(
            model_uri=job.paths.model,
            sha256=sha256,
            size_bytes=size,
            metrics=metrics,
            members=tuple(f"{m.family} {m.weight:.3f}" for m in model.members),
            trials=len(self._study.get_trials(deepcopy=False)),
            data_sha256=data.profile.sha256,
            finished_at=time.time(),
            code_version=__version__,
        )

    def _say(self, stage: str) -> None:
        from kubeautoml.study import set_study_attr

        log.info("stage", extra={"stage": stage, "seconds": round(time.monotonic() - self._began, 2)})
        set_study_attr(self._study, StudyAttr.STAGE, stage)

    def _stored_trials(self, store: ObjectStore, data: PreparedData) -> list[StoredTrial]:
        """Candidates for the ensemble, best first; one whose artifacts are damaged is left out."""
        from concurrent.futures import ThreadPoolExecutor

        from kubeautoml_trainer.ensemble import choose_candidates

        complete = [t for t in self._study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
        if not complete:
            raise CannotFinalize(self._no_trial_words(), reason=Reason.NO_TRIAL_COMPLETED)
        scored = [_Scored(t.number, str(t.params.get("family", "")), float(t.values[0])) for t in complete if t.values]
        # a constant ranks nothing, but its share would pull all probabilities to the middle
        scored = [s for s in scored if s.family != "Dummy"] or scored
        chosen = choose_candidates(scored, self._job.metric, len(data.train))
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda c: self._read_trial(store, c.trial, data), chosen))
        trials = [t for t in found if t is not None]
        if not trials:
            raise CannotFinalize(
                f"the artifacts of all {len(chosen)} best trials in {self._job.paths.root}/trials are damaged; run the job again"
            )
        return trials

    def _read_trial(self, store: ObjectStore, number: int, data: PreparedData) -> StoredTrial | None:
        from kubeautoml_trainer.artifacts import read_predictions, read_record

        try:
            trial = StoredTrial(
                read_record(store, self._job.paths, number), read_predictions(store, self._job.paths, number)
            )
        except KubeAutoMLError as error:
            log.warning("trial left out", extra={"trial": number, "error": str(error)})
            return None
        rows = (len(trial.predictions.oof), len(trial.predictions.holdout))
        if rows != (len(data.train), len(data.holdout)):
            log.warning("trial left out: other rows", extra={"trial": number, "rows": rows})
            return None
        return trial

    def _no_trial_words(self) -> str:
        from kubeautoml.study import load_summary

        summary = load_summary(self._study._storage, self._study.study_name)
        why = f"; most frequent error: {summary.error}" if summary and summary.error else ""
        return f"no trial completed{why}; give a larger budget, or fewer and faster search.families"

    def _select(self, trials: list[StoredTrial], data: PreparedData, store: ObjectStore) -> Selection:
        from kubeautoml_trainer.ensemble import Candidate, select
        from kubeautoml_trainer.ensemble.base import UNLIMITED, Cost
        from kubeautoml_trainer.tasks import task_for

        limit = self._limit()
        costs = {t.record.number: Cost() for t in trials}
        if limit != UNLIMITED:
            costs = {t.record.number: self._cost(t, data, store) for t in trials}
        candidates = [
            Candidate(t.record.number, t.record.family, t.record.value, t.predictions.oof, costs[t.record.number])
            for t in trials
        ]
        task = task_for(self._job.task.type, data.schema)
        found = select(
            candidates, task, self._job.metric, data.train.y, data.train.weight, seed=self._job.search.seed, limit=limit
        )
        if found is None:
            raise self._constraints_not_met(costs)
        return found

    def _limit(self) -> Cost:
        from kubeautoml_trainer.ensemble.base import UNLIMITED, Cost

        limits = {c.metric: float(c.max) for c in self._job.constraints}
        latency = limits.get(ConstraintMetric.PREDICT_LATENCY_P99_MS, UNLIMITED.latency_ms)
        size = limits.get(ConstraintMetric.MODEL_SIZE_MEGABYTES)
        return Cost(latency, UNLIMITED.size_bytes if size is None else size * 1e6)

    def _cost(self, trial: StoredTrial, data: PreparedData, store: ObjectStore) -> Cost:
        """Measured with the trial's own models, one row at a time, as a server would."""
        from kubeautoml_trainer.artifacts import load_pipelines
        from kubeautoml_trainer.ensemble.base import Cost

        pipelines = load_pipelines(store, self._job.paths, trial.record.number, self._context.scratch_dir / "costs")
        latency = _latency_p99_ms(lambda frame: [p.predict(frame) for p in pipelines], data.holdout.frame)
        return Cost(latency, float(trial.record.size_bytes))

    def _constraints_not_met(self, costs: dict[int, Cost]) -> CannotFinalize:
        words = ", ".join(f"{c.metric} of at most {c.max}" for c in self._job.constraints)
        fastest = min(c.latency_ms for c in costs.values())
        smallest = min(c.size_bytes for c in costs.values()) / 1e6
        return CannotFinalize(
            f"spec.constraints: no completed trial keeps {words}; the nearest had PredictLatencyP99Ms {fastest:.3g} and "
            f"ModelSizeMegabytes {smallest:.3g}; raise the limits or include faster families",
            reason=Reason.CONSTRAINTS_NOT_MET,
        )

    def _model(self, selection: Selection, trials: list[StoredTrial], data: PreparedData, store: ObjectStore) -> Model:
        from kubeautoml_trainer.artifacts import load_pipelines
        from kubeautoml_trainer.bundle import Member, Model
        from kubeautoml_trainer.tasks import task_for

        records = {t.record.number: t.record for t in trials}
        members = [
            Member(
                weight,
                records[number].family,
                tuple(load_pipelines(store, self._job.paths, number, self._context.scratch_dir / "members")),
            )
            for number, weight in selection.weights.items()
        ]
        return Model(
            data.schema,
            task_for(self._job.task.type, data.schema),
            tuple(members),
            self._card(selection, records, data),
        )

    def _card(self, selection: Selection, records: dict[int, TrialRecord], data: PreparedData) -> dict[str, Any]:
        """What a person wants to know of a model; without times, so that the same model has the same digest."""
        job = self._job
        return {
            "name": job.name,
            "namespace": job.namespace,
            "task": job.task.type.value,
            "target": job.task.target,
            "metric": job.metric,
            "validated": selection.value,
            "members": [
                {"trial": n, "weight": w, "family": records[n].family, "parameters": records[n].parameters}
                for n, w in selection.weights.items()
            ],
            "data": {
                "uri": job.dataset.train.uri,
                "sha256": data.profile.sha256,
                "rows": len(data.train),
                "holdoutRows": len(data.holdout),
                "folds": data.profile.folds,
                "warnings": list(data.profile.warnings),
            },
        }

    def _check(self, model: Model, selection: Selection, trials: list[StoredTrial], data: PreparedData) -> None:
        """The model must say of the hold-out what its trials said.

        Raises:
            CannotFinalize: it does not; then something between training and saving is broken.
        """
        stored = {t.record.number: t.predictions.holdout for t in trials}
        expected = sum(w * stored[n].astype(np.float64) for n, w in selection.weights.items())
        got = model.predict_typed(data.holdout.frame)
        scale = max(1.0, float(np.abs(expected).max()))
        worst = float(np.abs(got - expected).max())
        if worst > 1e-4 * scale:
            raise CannotFinalize(
                f"the saved model's predictions differ from its trials' by {worst:.3g}; report this as a bug"
            )

    def _store(self, model: Model, data: PreparedData, store: ObjectStore) -> tuple[str, int, float]:
        """Write and upload the bundle, its index last; (digest, bytes, latency of one row)."""
        from kubeautoml.storage import upload_folder
        from kubeautoml_trainer.bundle import load_bundle, write_bundle
        from kubeautoml_trainer.bundle.files import INDEX

        folder = self._context.scratch_dir / "model"
        sha256 = write_bundle(folder, model)
        again = load_bundle(folder, sha256=sha256)
        head = data.holdout.frame.head(1000)
        if not np.allclose(again.predict_typed(head), model.predict_typed(head), atol=1e-6):
            raise CannotFinalize("the written model predicts otherwise than the one in memory; report this as a bug")
        latency = _latency_p99_ms(again.predict_typed, data.holdout.frame)
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        index = folder / INDEX
        held_back = index.read_bytes()
        index.unlink()
        upload_folder(store, folder, self._job.paths.model)
        store.write(f"{self._job.paths.model}/{INDEX}", held_back)
        return sha256, size, latency

    def _report(
        self,
        model: Model,
        selection: Selection,
        trials: list[StoredTrial],
        data: PreparedData,
        prediction: np.ndarray,
        metrics: dict[str, float],
        latency: float,
        store: ObjectStore,
    ) -> None:
        """Everything for people; a failure here must not cost the model."""
        from kubeautoml_trainer.report import Findings, write_report

        self._say("Explaining")
        findings = Findings(
            job=self._job,
            model=model,
            selection=selection,
            trials=[t.record for t in trials],
            finished=self._study.get_trials(deepcopy=False),
            data=data,
            prediction=prediction,
            metrics=metrics,
            latency_p99_ms=latency,
        )
        try:
            write_report(findings, store, deadline=time.monotonic() + self._time_for_report())
        except Exception:
            log.exception("the report could not be written; the model is there all the same")

    def _time_for_report(self) -> float:
        from kubeautoml.study import read_limits

        limits = read_limits(self._study)
        if limits is None or limits.job_deadline is None:
            return REPORT_SECONDS
        return min(REPORT_SECONDS, limits.job_deadline - time.time() - REPORT_MARGIN_SECONDS)


@dataclass(frozen=True)
class _Scored:
    trial: int
    family: str
    value: float


def _latency_p99_ms(predict: Any, frame: Any) -> float:
    """Milliseconds for one row, 99th percentile after a warm-up."""
    rows = [frame.iloc[[i % len(frame)]] for i in range(LATENCY_CALLS)]
    predict(rows[0])
    seconds = []
    for row in rows:
        began = time.perf_counter()
        predict(row)
        seconds.append(time.perf_counter() - began)
    return float(np.quantile(seconds, 0.99) * 1000)
