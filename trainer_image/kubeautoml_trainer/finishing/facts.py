"""What the finished model is worth and what it costs: metrics, a row a variant, and the leaderboard of trials."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kubeautoml.api.trials import VariantFacts
from kubeautoml_trainer.ensemble.build import Built
from kubeautoml_trainer.ensemble.candidates import best_first
from kubeautoml_trainer.ensemble.decisions import out_of_fold_score, quick_decision
from kubeautoml_trainer.ensemble.measure import raw_rows
from kubeautoml_trainer.ensemble.stored import read_records
from kubeautoml_trainer.finishing.bundle import Shipped
from kubeautoml_trainer.finishing.work import Work
from kubeautoml_trainer.report.leaderboard import SECOND_LEVEL, Ranked, RankedVariant
from kubeautoml_trainer.variants.base import Made
from kubeautoml_trainer.variants.speed import Speed, measure

RECORDS_READ = 1_000
"""Best trials whose records the leaderboard shows in full; of more only what the study knows."""
_MEASURED_ROWS = 64


@dataclass(frozen=True)
class Facts:
    """What evaluation found of the default variant. `validated`: metrics of its out-of-fold predictions, where it has some."""

    holdout: dict[str, float]
    validated: dict[str, float]
    leaderboard: list[Ranked]
    variants: list[RankedVariant]
    second: Ranked | None = None
    """The second level beside the trials, where one won."""

    @property
    def told(self) -> tuple[VariantFacts, ...]:
        """The variants as the study and the status hold them."""
        return tuple(
            VariantFacts(v.name, v.holdout_value, v.p50_ms, v.size_bytes, round(v.fit_seconds, 2))
            for v in self.variants
        )


def evaluate(work: Work, built: Built, shipped: Shipped) -> Facts:
    """Metrics of the default variant, every variant's cost, and the leaderboard."""
    first = shipped.made[0]
    return Facts(
        dict(shipped.model.metrics),
        {} if first.oof is None else _validated(work, first.oof),
        leaderboard(work, built),
        [_ranked(work, made, shipped) for made in shipped.made],
        _second(work, built),
    )


def _second(work: Work, built: Built) -> Ranked | None:
    """The second level alone, as the leaderboard shows it."""
    second, files = built.selection.second, built.second
    if second is None or files is None:
        return None
    rows = work.data.holdout
    value = None
    if len(rows):
        first = np.stack([built.members[n].holdout for n in second.inputs])
        said = second.level.predict(first, rows.frame).astype(np.float32)
        value = _on_holdout(work, second.oof, said)
    return Ranked(
        trial=None,
        family=SECOND_LEVEL,
        value=second.value,
        holdout_value=value,
        weight=second.weight,
        fit_seconds=second.seconds,
        size_bytes=sum(p.stat().st_size for p in files.folder.rglob("*") if p.is_file()),
        parameters={"kind": second.level.kind, "trials": " ".join(map(str, second.inputs))},
    )


def _validated(work: Work, oof: np.ndarray) -> dict[str, float]:
    """Of the predictions as the models give them: calibration and decision were learned on these very rows. The job's own metric, if
    it is about decisions, is at the best one, like the trials' values.
    """
    seen = np.isfinite(oof).all(axis=1)
    rows = work.data.train.take(seen)
    values = {m: work.task.score(m, rows.y, oof[seen], rows.weight) for m in work.task.metrics}
    metric = work.context.job.metric
    values[metric] = out_of_fold_score(work.task, metric, rows.y, oof[seen], rows.weight)
    return {m: v for m, v in values.items() if abs(v) < float("inf")}


def _ranked(work: Work, made: Made, shipped: Shipped) -> RankedVariant:
    model = shipped.models[made.name]
    speed = _speed(work, shipped, made)
    return RankedVariant(
        name=made.name.value,
        families=tuple(sorted({m.family for m in made.members} | ({SECOND_LEVEL} if made.second else set()))),
        models=sum(len(m.folders) for m in made.members),
        value=made.cross_validated,
        holdout_value=model.metrics.get(work.context.job.metric),
        fit_seconds=made.fit_seconds,
        p50_ms=speed.p50_ms,
        p99_ms=speed.p99_ms,
        rows_per_second=speed.rows_per_second,
        size_bytes=variant_bytes(made),
        notes=made.notes,
    )


def _speed(work: Work, shipped: Shipped, made: Made) -> Speed:
    """Nothing when the time is over: the model must be told of."""
    if work.remaining_seconds() <= 0:
        return Speed()
    rows = work.data.holdout if len(work.data.holdout) else work.data.train
    raw = raw_rows(rows.frame.iloc[:_MEASURED_ROWS], work.data.schema)
    return measure(
        shipped.models[made.name], raw, rows.frame, work.context.threads, batch=work.remaining_seconds() > 2.0
    )


def variant_bytes(made: Made) -> int:
    """Size of the files that only predicting with this variant needs."""
    folders = {f for m in made.members for f in m.folders}
    if made.second is not None:
        folders.add(made.second.folder)
    return sum(p.stat().st_size for f in folders for p in f.rglob("*") if p.is_file())


def leaderboard(work: Work, built: Built) -> list[Ranked]:
    """All completed trials, best first, with what their records say of the best thousand."""
    job = work.context.job
    ranked = best_first(work.scored, job.metric)
    records = read_records(work.store, job.paths, [t.trial for t in ranked[:RECORDS_READ]])
    attrs = {t.number: t for t in work.study.get_trials(deepcopy=False)}
    out = []
    for t in ranked:
        record, trial = records.get(t.trial), attrs[t.trial]
        stored = built.candidates.get(t.trial)
        value = _on_holdout(work, stored.oof, stored.holdout) if stored is not None else None
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


def _on_holdout(work: Work, oof: np.ndarray, holdout: np.ndarray) -> float:
    """The job's metric of predictions of the hold-out; decided, if that is what it is about, as is best for `oof`."""
    metric, rows = work.context.job.metric, work.data.holdout
    seen = np.isfinite(oof).all(axis=1)
    known = work.data.train.take(seen)
    rule = quick_decision(work.task, metric, known.y, oof[seen], known.weight)
    return work.task.score(metric, rows.y, holdout, rows.weight, None if rule is None else rule(holdout))
