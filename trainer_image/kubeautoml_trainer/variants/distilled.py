"""Distilled: one small model that learns what the ensemble says, of the training rows and of rows made up from them.

Soft labels carry more than the truth does: a class's probability, a number without its noise. Rows made by mixing columns of two
real rows let the student ask the teacher where no data is (Fakoor et al. 2020, arXiv:2006.14284; Bucila et al. 2006).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from kubeautoml.api.metrics import is_better
from kubeautoml.api.objective import ModelVariant
from kubeautoml_trainer.bundle import MemberFiles
from kubeautoml_trainer.data.base import Rows
from kubeautoml_trainer.ensemble.base import weighted_mean
from kubeautoml_trainer.ensemble.build import fold_folders
from kubeautoml_trainer.ensemble.decisions import out_of_fold_score
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.models.pipeline import FittedPipeline, load_pipeline, predict_all
from kubeautoml_trainer.models.space import Parameters
from kubeautoml_trainer.tasks.post import Post
from kubeautoml_trainer.variants.base import Bench, Made, post_of

MADE_UP = 2
"""Rows made up for each real one. A guess; more help little and cost the teacher's time."""
MOST_MADE_UP = 20_000
SWAPPED = 0.3
"""Chance that a column comes from another row. A guess, as in the munging of Bucila et al."""
LEAST_PROBABILITY = 0.01
"""Classes that the teacher thinks less likely are not taught."""
_TEACHING_SHARE = 0.25
"""Of the time left, for the teacher's answers about made-up rows."""

STUDENTS: tuple[tuple[str, Parameters], ...] = (
    ("LightGBM", {"num_leaves": 63, "min_data_in_leaf": 10}),
    ("Linear", {}),
)

log = logging.getLogger("kubeautoml.finalize")

Teach = Callable[[pd.DataFrame], np.ndarray]


@dataclass(frozen=True)
class _Lesson:
    """Rows with what the teacher says of each: float32 (n, outputs)."""

    frame: pd.DataFrame
    said: np.ndarray
    weight: np.ndarray | None


def distilled(bench: Bench, rival: Made) -> Made:
    """The better of the students, if it is no worse than `rival` (the fast variant) on rows that neither learned from.

    Else, and where time does not allow one, the rival under this variant's name, with a note that says so.
    """
    if bench.shop.task.quantiles:
        return _instead(rival, "a student learns one number a row, not quantiles")
    if bench.deadline - time.monotonic() <= 0:
        return _instead(rival, "there was no time to teach a student")
    shop, built = bench.shop, bench.built
    folds = shop.data.fold
    fold = int(folds.max()) if (folds < 0).any() else int(folds[folds >= 0].min())
    # the teacher is the first level: a second one has learned from the very fold that a student is compared on
    weights = built.selection.first_weights
    oof = weighted_mean({n: built.candidates[n].oof for n in weights}, weights)
    known = np.isfinite(oof).all(axis=1)
    unseen = (folds == fold) & known
    seen = known & (folds < fold if (folds < 0).any() else folds != fold)
    if seen.sum() < 2 or not unseen.any() or rival.oof is None:
        return _instead(rival, "the folds leave too few rows to teach a student")
    valid, base = shop.data.train.take(unseen), shop.data.train.take(seen)
    lesson = _lesson(bench, base, oof[seen], _teacher(bench, fold))
    tried = []
    for name, parameters in STUDENTS:
        student = _student(bench, name, parameters, lesson, valid)
        if student is not None:
            value = out_of_fold_score(shop.task, shop.job.metric, valid.y, student.predict(valid.frame), valid.weight)
            if value == value:
                tried.append((value, name, parameters, student))
    rival_value = out_of_fold_score(shop.task, shop.job.metric, valid.y, rival.oof[unseen], valid.weight)
    best = None
    for one in tried:
        if best is None or is_better(shop.job.metric, one[0], best[0]):
            best = one
    if best is None:
        return _instead(rival, "there was no time to teach a student")
    value, name, parameters, pupil = best
    rounds = pupil.best_iteration
    if is_better(shop.job.metric, rival_value, value):
        return _instead(rival, f"no student was as good ({shop.job.metric} {value:.4g}, fast model {rival_value:.4g})")
    whole = _lesson(bench, shop.data.train.take(known), oof[known], _teacher(bench, None))
    counted = getattr(family_named(name), "rounds_parameter", None)
    fixed = parameters if counted is None or rounds is None else {**parameters, counted: max(1, rounds)}
    began = time.monotonic()
    student = _student(bench, name, fixed, whole, None)
    if student is None or (counted is not None and rounds is not None and (student.best_iteration or 0) < 0.9 * rounds):
        return _instead(rival, "there was no time to teach the student from all rows")
    left_out = np.full_like(oof, np.nan)
    left_out[unseen] = pupil.predict(valid.frame)
    post = post_of(shop, left_out)
    return _made(
        bench, student, post, time.monotonic() - began, f"{shop.job.metric} {value:.4g}, fast model {rival_value:.4g}"
    )


def _instead(rival: Made, why: str) -> Made:
    return replace(rival, name=ModelVariant.DISTILLED, notes=(f"{why}: the fast model stands in", *rival.notes))


def _made(bench: Bench, student: FittedPipeline, post: Post, seconds: float, compared: str) -> Made:
    folder = bench.shop.scratch / "refits" / f"student-{time.monotonic_ns()}"
    student.save(folder)
    # no trial made it; the first of its teachers stands for them
    teacher = next(iter(bench.built.selection.first_weights))
    files = MemberFiles(teacher, student.family, student.parameters, 1.0, (folder,))
    holdout = predict_all(student, bench.shop.data.holdout.frame, bench.shop.task.outputs)
    note = f"taught by the ensemble; on rows that neither learned from: {compared}"
    return Made(ModelVariant.DISTILLED, (files,), holdout, None, None, post, seconds, (note,))


def _teacher(bench: Bench, fold: int | None) -> Teach:
    """The ensemble; with `fold`, only its models that did not learn from that fold's rows."""
    weights = bench.built.selection.first_weights
    pipelines = {}
    for n in weights:
        folders = fold_folders(bench.shop, n)
        chosen = folders if fold is None else folders[fold : fold + 1]
        pipelines[n] = [load_pipeline(f) for f in chosen or folders[:1]]
        for p in pipelines[n]:
            p.set_threads(bench.threads)

    def teach(frame: pd.DataFrame) -> np.ndarray:
        each = {n: np.mean([p.predict(frame) for p in ps], axis=0) for n, ps in pipelines.items()}
        return weighted_mean(each, weights)

    return teach


def _lesson(bench: Bench, rows: Rows, said: np.ndarray, teach: Teach) -> _Lesson:
    """The rows with the ensemble's out-of-fold words, and made-up rows with what the teacher says, as many as time allows."""
    seconds = _TEACHING_SHARE * (bench.deadline - time.monotonic())
    wanted = min(MADE_UP * len(rows), MOST_MADE_UP)
    made_up = mixed(rows.frame, wanted, bench.shop.job.search.seed)
    answers: list[np.ndarray] = []
    end, at = time.monotonic() + seconds, 0
    while at < len(made_up) and time.monotonic() < end:
        answers.append(teach(made_up.iloc[at : at + 500]))
        at += 500
    count = sum(len(a) for a in answers)
    frame = pd.concat([rows.frame, made_up.iloc[:count]], ignore_index=True) if count else rows.frame
    weight = None if rows.weight is None else np.concatenate([rows.weight, np.ones(count)])
    return _Lesson(frame, np.concatenate([said, *answers]), weight)


def mixed(frame: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """`count` rows, each a row of the frame some of whose columns come from another one."""
    rng = np.random.default_rng(seed)
    base, donor = rng.integers(0, len(frame), count), rng.integers(0, len(frame), count)
    columns = {}
    for name in frame.columns:
        values = frame[name].to_numpy()
        mixed_values = np.where(rng.random(count) < SWAPPED, values[donor], values[base])
        columns[name] = pd.Series(mixed_values, dtype=values.dtype)
    return pd.DataFrame(columns, index=pd.RangeIndex(count))


def taught(lesson_frame: pd.DataFrame, said: np.ndarray, weight: np.ndarray | None, *, classes: bool) -> Rows:
    """Rows that any family can learn from: a number as it is; of classes one row a likely class, weighed by its probability."""
    if not classes:
        return Rows(lesson_frame, said[:, 0].astype(np.float64), weight)
    row, label = np.nonzero(said >= LEAST_PROBABILITY)
    p = said[row, label] * (1.0 if weight is None else weight[row])
    frame = lesson_frame.iloc[row].reset_index(drop=True)
    return Rows(frame, label.astype(np.int64), (p / p.mean()).astype(np.float64))


def _student(
    bench: Bench, name: str, parameters: Parameters, lesson: _Lesson, valid: Rows | None
) -> FittedPipeline | None:
    """A student after its lesson; None when it cannot be had in time."""
    shop = bench.shop
    rows = taught(lesson.frame, lesson.said, lesson.weight, classes=bool(shop.data.schema.classes))
    if shop.data.schema.classes and len(np.unique(rows.y)) < shop.task.outputs:
        return None
    left = bench.deadline - time.monotonic()
    if left <= 0:
        return None
    context = FitContext(
        shop.task,
        shop.job.metric,
        shop.job.search.seed,
        bench.threads,
        time.monotonic() + left / (2 if valid is not None else 1),
    )
    try:
        fitted = family_named(name).fit(rows, valid, shop.data.schema, parameters, context)
    except Exception as error:  # noqa: BLE001  # any library's; there are other variants
        log.warning("a student could not be taught", extra={"family": name, "error": repr(error)[:300]})
        return None
    assert isinstance(fitted, FittedPipeline)
    return fitted
