"""`pipeline.py`: the best single pipeline as a script that retrains it from the data and predicts; readable, and run by a test."""

from __future__ import annotations

import pprint
from collections.abc import Mapping
from string import Template
from typing import Any

from kubeautoml import __version__
from kubeautoml.api.pod import PodJob
from kubeautoml_trainer.models import SHARED_WEIGHTS
from kubeautoml_trainer.models.text_choice import embeds
from kubeautoml_trainer.models.weights import without_class_weight
from kubeautoml_trainer.report.leaderboard import Ranked

# What retraining depends on; the rest of the job (output, budgets, secrets' names) stays at home.
_KEPT = ("task", "objective")

_SCRIPT = Template(
    '''#!/usr/bin/env python3
"""Retrains the best single pipeline that KubeAutoML found, evaluates it, and predicts with it.

    python pipeline.py DATA                                retrain and print the hold-out metrics
    python pipeline.py DATA --predict ROWS --output FILE   ... then predict other rows into a CSV file

DATA is the training data of the job ($forms; a path or an s3:// URI). Needs:

    pip install 'kubeautoml[trainer]==$version'
"""

import argparse
import math
from pathlib import Path$standard_import

import numpy as np

from kubeautoml.api.dataset import DataSource
from kubeautoml.api.objective import ClassWeight
from kubeautoml.api.pod import PodJob$api_import
$read_import
from kubeautoml_trainer.data.schema import coerce
from kubeautoml_trainer.ensemble.decisions import quick_decision
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.models.weights import class_factors, weighed$trainer_import
from kubeautoml_trainer.tasks import task_of

# Trial $trial of $trials: $metric $value in cross-validation$holdout_words.
FAMILY = $family
PARAMETERS = $parameters
CLASS_WEIGHT = $class_weight  # what the rows of a class count while models are fitted
SEED = $seed  # fold k uses SEED + k
$weights
# What is learned, and how rows and columns are treated.
JOB = $job


def main() -> None:
    args = arguments()
    job = PodJob.model_validate(JOB)
$read
    data, _ = prepare_frames(raw, test, job)
    task = task_of(job, data.schema)

    family = $family_found

    # One pipeline a fold, each stopped early on the rows it does not learn from; together they predict their mean.
    pipelines, oof = [], np.full((len(data.train), task.outputs), np.nan, dtype=np.float32)
    for fold in range(data.profile.folds):
        valid = data.fold == fold
        learned = data.fold < fold if (data.fold < 0).any() else ~valid  # a time split learns from earlier rows only
        context = FitContext(task, job.metric, SEED + fold, args.threads, math.inf)
        train, watched = data.train.take(learned), data.train.take(valid)
        factors = class_factors(train, len(data.schema.classes), ClassWeight(CLASS_WEIGHT))
        train, watched = weighed(train, factors), weighed(watched, factors)
        pipelines.append(family.fit(train, watched, data.schema, PARAMETERS, context))
        oof[valid] = pipelines[-1].predict(watched.frame)

    # What to decide, where the metric is about decisions: as is best for rows left out. Else, the most probable class.
    seen = np.isfinite(oof).all(axis=1)
    known = data.train.take(seen)
    decide = quick_decision(task, job.metric, known.y, oof[seen], known.weight)

    def predict(frame):
        return np.mean([p.predict(frame) for p in pipelines], axis=0)

    rows, prediction, where = known, oof[seen], "rows left out"
    if len(data.holdout):
        rows, prediction, where = data.holdout, predict(data.holdout.frame), "hold-out rows"
    print(f"{len(data.train)} training rows, {data.profile.folds} folds; on {len(rows)} {where}:")
    for metric in task.metrics:
        decided = decide(prediction) if decide is not None and metric == job.metric else None
        print(f"{metric} {task.score(metric, rows.y, prediction, rows.weight, decided):.6f}")

    if args.predict:
$read_rows
        found = predict(rows)
        table = task.output_frame(found)
        if decide is not None:
            table[data.schema.target] = np.asarray(data.schema.classes, dtype=object)[decide(found)]
        table.to_csv(args.output, index=False)
        print(f"{len(rows)} predictions written to {args.output}")


def source(location: str) -> DataSource:
    end = "/" * (location.endswith("/") or Path(location).is_dir())
    uri = location if "://" in location else "file://" + str(Path(location).resolve()).replace("%", "%25") + end
    return DataSource(uri=uri, format=$format)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="training rows")
    parser.add_argument("--test", help="rows for the evaluation$test_words")
    parser.add_argument("--predict", metavar="ROWS", help="rows to predict")
    parser.add_argument("--output", metavar="FILE", default="predictions.csv", help="where predictions go")
    parser.add_argument("--threads", type=int, default=2, help="threads of one fit")
    return parser.parse_args()


if __name__ == "__main__":
    main()
'''
)


_TABLE = {
    "forms": "CSV, TSV, Parquet or JSON lines",
    "read_import": """from kubeautoml_trainer.data.prepare import prepare_frames
from kubeautoml_trainer.data.read import read_table""",
    "read": """    raw = read_table(source(args.data))
    test = read_table(source(args.test)) if args.test else None""",
    "read_rows": "        rows = coerce(read_table(source(args.predict)), data.schema)",
}
_IMAGES = {
    "forms": "a folder a class, a table with paths or bytes, tar shards or .npz",
    "read_import": """from kubeautoml_trainer.data.asked import asked_by_job, asked_by_schema, asked_of_test
from kubeautoml_trainer.data.dataset import read_dataset
from kubeautoml_trainer.data.image_cache import temporary_cache
from kubeautoml_trainer.data.prepare import prepare_frames""",
    "read": """    with temporary_cache(args.threads) as cache:  # images are decoded once, into a file that is memory-mapped
        raw = read_dataset(source(args.data), asked_by_job(job), cache).frame
        test = read_dataset(source(args.test), asked_of_test(raw, job), cache).frame if args.test else None""",
    "read_rows": """        with temporary_cache(args.threads) as cache:
            rows = coerce(read_dataset(source(args.predict), asked_by_schema(data.schema), cache).frame, data.schema)""",
}
"""How the script reads its rows."""


def export_pipeline(job: PodJob, best: Ranked, seed: int, trials: int, *, has_images: bool = False) -> str:
    """The script for the best single trial of a job, whose fits used `seed` and the numbers after it.

    All text from the job and the data stands in Python literals, so nothing in it can become code.
    """
    has_test = job.dataset.test is not None
    parameters, class_weight = without_class_weight(best.parameters, job.objective.class_weight)
    holdout = "" if best.holdout_value is None else f", {best.holdout_value:.6g} on the hold-out"
    return _SCRIPT.substitute(
        {
            **_family_parts(job, best.family, reads_by_encoder=embeds(parameters)),
            **(_IMAGES if has_images else _TABLE),
        },
        version=__version__,
        trial=best.trial,
        trials=trials,
        metric=job.metric,
        value=f"{best.value:.6g}",
        holdout_words=holdout,
        family=repr(best.family),
        parameters=_literal(parameters),
        class_weight=repr(class_weight.value),
        seed=seed,
        job=_literal(_portable(job)),
        format=repr(job.dataset.train.format.value),
        test_words=" (this job used its own test file: give it here)"
        if has_test
        else "; default: the job's split of DATA",
    )


def _portable(job: PodJob) -> dict[str, Any]:
    """The job, as `PodJob` reads it, without locations and secrets."""
    body = job.to_manifest()
    dataset = body["dataset"]
    nowhere = {"uri": "file:///replaced/by/the/argument"}
    return {
        "name": job.name,
        "namespace": job.namespace,
        "uid": job.uid,
        **{k: body[k] for k in _KEPT},
        "dataset": {"train": nowhere, "split": dataset["split"], "columns": dataset["columns"]},
        "constraints": [],
        "search": {"seed": job.search.seed},
        "output": nowhere,
    }


def _literal(value: Mapping[str, Any]) -> str:
    return pprint.pformat(dict(value), width=100, sort_dicts=False)


def _family_parts(job: PodJob, family: str, *, reads_by_encoder: bool) -> dict[str, str]:
    """How the script gets its family; one that needs weights fetches them as the job did, and checks their digest."""
    needed = next(
        (w for w in job.search.pretrained if w.family == (SHARED_WEIGHTS[0] if reads_by_encoder else family)), None
    )
    if needed is None:
        return {
            "standard_import": "",
            "api_import": "",
            "trainer_import": "",
            "weights": "",
            "family_found": "family_named(FAMILY)",
        }
    fetched = 'fetch_pretrained([Pretrained(**WEIGHTS)], Path(mkdtemp()))[WEIGHTS["family"]]'
    bound = f'family_named(WEIGHTS["family"]).bound({fetched})'
    return {
        "standard_import": "\nfrom tempfile import mkdtemp",
        "api_import": "\nfrom kubeautoml.api.search import Pretrained",
        "trainer_import": "\nfrom kubeautoml_trainer.pretrained import fetch_pretrained",
        "weights": f"WEIGHTS = {_literal(needed.to_manifest())}  # fetched, and checked against their digest\n",
        "family_found": f"family_named(FAMILY)  # reads texts by the weights\n    {bound}"
        if reads_by_encoder
        else bound,
    }
