"""pipeline.py: the best pipeline as a short script that a person can read, run and change."""

from __future__ import annotations

from pprint import pformat
from string import Template

from kubeautoml_trainer.report.findings import Findings

SCRIPT = Template('''"""$target from $uri: the best single pipeline of AutoMLJob $name, trial $trial.

Cross-validated $metric $value. Retrain it on any file with the same columns, and predict another:

    python pipeline.py TRAIN_FILE [PREDICT_FILE OUTPUT_FILE]

Needs: pip install "kubeautoml[trainer]==$version"
"""

import sys
import time

from kubeautoml.api.job import DataSource
from kubeautoml.api.pod import PodJob
from kubeautoml_trainer.data.prepare import prepare_frames
from kubeautoml_trainer.data.read import read_table
from kubeautoml_trainer.data.schema import coerce
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.predict import as_uri
from kubeautoml_trainer.tasks import task_for

FAMILY = $family
PARAMETERS = $parameters
JOB = PodJob.model_validate_json($job)


def train(file):
    """Fit the pipeline on nine tenths of the rows; the last tenth stops it in time and scores it."""
    job = JOB.model_copy(update={"dataset": JOB.dataset.model_copy(update={
        "train": DataSource(uri=as_uri(file)), "test": None,
        "split": JOB.dataset.split.model_copy(update={"test_fraction": "0.1"})})})
    data, _ = prepare_frames(read_table(job.dataset.train), None, job)
    task = task_for(job.task.type, data.schema)
    context = FitContext(task, job.metric, seed=$seed, threads=1, deadline=time.monotonic() + 3600)
    pipeline = family_named(FAMILY).fit(data.train, data.holdout, data.schema, PARAMETERS, context)
    score = task.score(job.metric, data.holdout.y, pipeline.predict(data.holdout.frame), data.holdout.weight)
    print(f"{job.metric} on the last tenth: {score:.5g}")
    return pipeline, data.schema, task


def main():
    if len(sys.argv) not in (2, 4):
        sys.exit(__doc__)
    pipeline, schema, task = train(sys.argv[1])
    if len(sys.argv) == 4:
        rows = read_table(DataSource(uri=as_uri(sys.argv[2])))
        task.output_frame(pipeline.predict(coerce(rows, schema))).to_csv(sys.argv[3], index=False)


if __name__ == "__main__":
    main()
''')


def pipeline_script(findings: Findings) -> str:
    """Python source for the best single trial of the model."""
    from kubeautoml import __version__

    best = findings.trials[0]
    job = findings.job.model_dump_json(by_alias=True, exclude_none=True)
    named = {"target": findings.job.task.target, "uri": findings.job.dataset.train.uri}
    # they stand in a docstring, which they must not be able to end
    safe = {k: v.replace('"', "'").replace("\\", "/") for k, v in named.items()}
    return SCRIPT.substitute(
        **safe,
        name=findings.job.name,
        trial=best.number,
        metric=findings.job.metric,
        value=f"{best.value:.5g}",
        version=__version__,
        family=repr(best.family),
        parameters=pformat(dict(best.parameters), width=100, sort_dicts=False),
        job=repr(job),
        seed=findings.job.search.seed,
    )
