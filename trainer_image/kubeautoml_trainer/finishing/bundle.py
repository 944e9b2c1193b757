"""The bundle of a job: its card and lineage, all wanted variants in it, checked, and its way into object storage."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml.api.objective import ModelVariant
from kubeautoml_trainer.bundle import (
    MemberFiles,
    Model,
    SecondFiles,
    VariantFiles,
    bundle_size,
    load_bundle,
    write_bundle,
)
from kubeautoml_trainer.bundle.manifest import BUNDLE, Lineage, digest
from kubeautoml_trainer.ensemble.base import Cost, combined_oof
from kubeautoml_trainer.ensemble.build import CHECKED_ROWS, TOLERANCE, Built, Workshop, build, not_within
from kubeautoml_trainer.ensemble.measure import latency_ms, limit_of, raw_rows
from kubeautoml_trainer.finishing.work import Work
from kubeautoml_trainer.tasks.post import IDENTITY, Post
from kubeautoml_trainer.variants.base import Made, post_of

if TYPE_CHECKING:
    import optuna

    from kubeautoml_trainer.ensemble.base import Selection
    from kubeautoml_trainer.ensemble.stored import ScoredTrial


@dataclass(frozen=True)
class Shipped:
    """A bundle on disk with every wanted variant, each of which predicts what it was made to."""

    folder: Path
    sha256: str
    size_bytes: int
    made: tuple[Made, ...] = field(repr=False)
    models: Mapping[ModelVariant, Model] = field(repr=False)
    """Each variant, loaded."""

    @property
    def model(self) -> Model:
        """The variant that answers unless another is asked for."""
        return self.models[self.made[0].name]


def build_model(work: Work, selection_deadline: float, *, keeps_constraints: bool) -> tuple[Workshop, Built]:
    """Select the ensemble, put its bundle on disk, check it. `keeps_constraints`: the ensemble itself is to be used."""
    job = work.context.job if keeps_constraints else work.context.job.model_copy(update={"constraints": []})
    shop = Workshop(
        job,
        work.store,
        work.data,
        work.task,
        work.context.scratch_dir / "finalize",
        selection_deadline,
        threads=work.context.threads,
        with_second=bool({ModelVariant.QUALITY, ModelVariant.BALANCED} & set(job.output.variants)),
        weighs_time=work.job_deadline is not None,
    )

    def write(
        folder: Path,
        selection: Selection,
        members: Sequence[MemberFiles],
        second: SecondFiles | None,
        holdout: np.ndarray,
    ) -> None:
        metrics = holdout_metrics(work, holdout, IDENTITY)
        files = VariantFiles(ModelVariant.QUALITY, members, metrics, selection.value, second=second)
        write_variants(work, folder, [files])

    return shop, build(shop, _without_constants(work.scored), write)


def ship(work: Work, made: Sequence[Made], name: str) -> Shipped:
    """Write a bundle with these variants below the scratch folder, load each back, compare.

    Raises:
        BundleError: a loaded variant does not predict what it was made to.
    """
    folder = work.context.scratch_dir / "finalize" / name
    shutil.rmtree(folder, ignore_errors=True)
    files = [
        VariantFiles(
            m.name,
            m.members,
            holdout_metrics(work, m.scored, m.post),
            m.cross_validated,
            m.post,
            tuple(m.notes),
            m.second,
        )
        for m in made
    ]
    sha256 = write_variants(work, folder, files)
    models = {}
    for m in made:
        model = load_bundle(folder, variant=m.name.value)
        said = m.holdout[:CHECKED_ROWS]
        found = model.predict_rows(work.data.holdout.frame.iloc[:CHECKED_ROWS]) if len(said) else said
        if not np.allclose(found, said, rtol=TOLERANCE, atol=TOLERANCE):
            raise BundleError(f"variant {m.name.value} does not predict what it predicted before it was saved")
        models[m.name] = model
    return Shipped(folder, sha256, bundle_size(folder), tuple(made), models)


def write_variants(work: Work, folder: Path, variants: Sequence[VariantFiles]) -> str:
    """Write a bundle of this job; returns its digest."""
    job, data = work.context.job, work.data
    created_at = newest_end(work.study)
    lineage = Lineage(
        job_name=job.name,
        job_uid=job.uid,
        namespace=job.namespace,
        data_sha256=data.profile.sha256,
        trials=len(work.scored),
        seed=job.search.seed,
    )
    return write_bundle(
        folder,
        schema=data.schema,
        task_type=job.task.type,
        metric=job.metric,
        variants=variants,
        lineage=lineage,
        card=model_card(work, variants, created_at),
        created_at=created_at,
    )


def _without_constants(scored: list[ScoredTrial]) -> list[ScoredTrial]:
    """A constant adds nothing but a pull to the middle, unless there is nothing else."""
    return [t for t in scored if t.family != "Dummy"] or scored


def newest_end(study: optuna.Study) -> str:
    """When the newest completed trial ended, RFC 3339: the same however often the finalizer is started."""
    ends = [t.datetime_complete for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    last = max((e.timestamp() for e in ends if e is not None), default=0.0)
    return datetime.fromtimestamp(last, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def holdout_metrics(work: Work, prediction: np.ndarray, post: Post) -> dict[str, float]:
    """All metrics of the task that are defined on these rows."""
    rows = work.data.holdout
    if not len(rows):
        return {}
    final = post.calibrated(prediction)
    decided = post.decided(prediction) if work.data.schema.classes else None
    values = {m: work.task.score(m, rows.y, final, rows.weight, decided) for m in work.task.metrics}
    return {m: float(v) for m, v in values.items() if abs(v) < float("inf")}


def model_card(work: Work, variants: Sequence[VariantFiles], created_at: str) -> dict[str, Any]:
    """What a person should know of the model, for the bundle and the server's page."""
    job, profile, first = work.context.job, work.data.profile, variants[0]
    schema = profile.schema
    return {
        "name": job.name,
        "task": job.task.type.value,
        "target": schema.target,
        "classes": list(schema.classes),
        "positiveClass": schema.positive_class,
        "objective": job.metric,
        "metrics": dict(first.metrics),
        "crossValidated": {} if first.cross_validated is None else {job.metric: first.cross_validated},
        "rows": {"train": profile.rows, "holdout": profile.holdout_rows, "folds": profile.folds},
        "features": [c.name for c in schema.features],
        "members": _members(first.members),
        "variants": [
            {
                "name": v.name.value,
                "metrics": dict(v.metrics),
                "crossValidated": v.cross_validated,
                "members": _members(v.members),
                "secondLevel": None
                if v.second is None
                else {"weight": v.second.weight, "trials": list(v.second.inputs)},
                "notes": list(v.notes),
            }
            for v in variants
        ],
        "warnings": list(profile.warnings),
        "createdAt": created_at,
        "intendedUse": f"Predicting '{schema.target}' for rows like those it was trained on; it has not been checked on others.",
    }


def _members(members: Sequence[MemberFiles]) -> list[dict[str, Any]]:
    return [
        {"trial": m.trial, "family": m.family, "weight": m.weight, "parameters": dict(m.parameters)} for m in members
    ]


def quality(shop: Workshop, built: Built) -> Made:
    """The ensemble as a variant: all folds of all members."""
    second = built.selection.second
    oof = combined_oof({n: t.oof for n, t in built.members.items()}, built.selection.weights, second)
    seconds = sum(t.record.fit_seconds for t in built.members.values()) + (second.seconds if second else 0.0)
    return Made(
        ModelVariant.QUALITY,
        built.files,
        built.holdout,
        oof,
        built.selection.value,
        post_of(shop, oof),
        seconds,
        () if second is None else (second.note,),
        built.second,
    )


def keep_limits(work: Work, shop: Workshop, shipped: Shipped) -> None:
    """Where the ensemble itself is not wanted, the default variant must keep the job's constraints.

    Raises:
        FinalizeError: it does not.
    """
    if any(m.name is ModelVariant.QUALITY for m in shipped.made):
        return
    cost = over_limits(work, shipped)
    if cost is not None:
        raise not_within(shop.paths.root, limit_of(work.context.job.constraints), [cost])


def over_limits(work: Work, shipped: Shipped) -> Cost | None:
    """What the default variant costs, where that is more than the job's constraints allow."""
    limit = limit_of(work.context.job.constraints)
    if limit == limit_of([]):
        return None
    rows = work.data.holdout if len(work.data.holdout) else work.data.train
    raw = raw_rows(rows.frame.iloc[:64], work.data.schema)
    cost = Cost(latency_ms(shipped.model.predict, raw, 100, 2.0), shipped.size_bytes)
    return None if cost.fits(limit) else cost


def upload_bundle(work: Work, shipped: Shipped) -> None:
    """Store the bundle, `bundle.json` last: a reader finds a whole model or none.

    Files of this very model are never deleted, so that a second finalizer, which writes the same bytes, does no harm.
    """
    from concurrent.futures import ThreadPoolExecutor

    store, target = work.store, work.context.job.paths.model
    index = f"{target}/{BUNDLE}"
    if store.exists(index) and digest(store.read(index)) != shipped.sha256:
        store.delete(index)
    folder = shipped.folder
    files = {f"{target}/{p.relative_to(folder).as_posix()}": p for p in folder.rglob("*") if p.is_file()}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda uri: store.upload(files[uri], uri), [uri for uri in files if uri != index]))
    for stored in store.find(f"{target}/", hidden=True):
        if stored.uri not in files:  # left by an attempt that chose otherwise; a bundle holds no strangers
            store.delete(stored.uri)
    store.upload(files[index], index)
