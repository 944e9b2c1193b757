"""The end: the study is told of the model, and what the trials left goes as the job says."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from kubeautoml.api.errors import KubeAutoMLError
from kubeautoml.api.pod import PodContext
from kubeautoml.api.trials import JobResult, StudyAttr
from kubeautoml_trainer.finishing.work import Work, scored_trials

if TYPE_CHECKING:
    import optuna

    from kubeautoml_trainer.finishing.bundle import Shipped
    from kubeautoml_trainer.finishing.facts import Facts
    from kubeautoml_trainer.variants.base import Made

log = logging.getLogger("kubeautoml.finalize")


def tell_result(work: Work, shipped: Shipped, facts: Facts) -> JobResult:
    """Say in the study that the model is there; the operator waits for this."""
    from kubeautoml import __version__
    from kubeautoml.study import set_study_attr

    result = JobResult(
        model_uri=work.context.job.paths.model,
        sha256=shipped.sha256,
        size_bytes=shipped.size_bytes,
        metrics=facts.holdout,
        members=told_members(shipped.made[0])[:30],
        trials=len(work.scored),
        data_sha256=work.data.profile.sha256,
        finished_at=time.time(),
        code_version=__version__,
        variants=facts.told,
    )
    set_study_attr(work.study, StudyAttr.RESULT, result)
    return result


def told_members(made: Made) -> tuple[str, ...]:
    """Who weighs what in a variant, in words; a second level with the trials it asks comes first."""
    members = tuple(f"{m.family} {m.weight:.3f} (trial {m.trial})" for m in made.members)
    if made.second is None:
        return members
    asked = ", ".join(map(str, made.second.inputs))
    return (f"SecondLevel {made.second.weight:.3f} (of trials {asked})", *members)


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
