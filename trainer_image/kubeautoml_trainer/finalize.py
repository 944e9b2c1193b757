"""`kubeautoml finalize`: the container entry point that turns the trials into the model, once.

Exit 0: the model is stored and the study says so. 1: there can be none, said in the study and in one line on stderr; or the study or a
storage stayed away, said on stderr alone, and the next pod tries again. 143: SIGTERM, at any moment. The model comes first: every
wanted variant is stored in a form that needs no fit, then as good as the time allows; explanations and the report take what is left.
Nothing but measured times, and what there was time to fit, depends on when it runs: a finalizer that was killed and started again makes
the same model of the same trials.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from kubeautoml.api.errors import AccessDenied, BundleError, KubeAutoMLError, StorageError, StudyError
from kubeautoml.api.logs import log_context, log_to_stderr
from kubeautoml.api.objective import ModelVariant, RefitRows
from kubeautoml.api.pod import PodContext
from kubeautoml.api.trials import JobResult, StudyAttr
from kubeautoml_trainer.search.signals import EXIT_CODE
from kubeautoml_trainer.worker import give_up, leave, limit_threads, open_study, share_weights, unexpected

if TYPE_CHECKING:
    from collections.abc import Sequence

    import optuna

    from kubeautoml_trainer.ensemble.build import Built, Workshop
    from kubeautoml_trainer.finishing.bundle import Shipped
    from kubeautoml_trainer.finishing.work import Work
    from kubeautoml_trainer.variants.base import Made
    from kubeautoml_trainer.variants.make import Maker

log = logging.getLogger("kubeautoml.finalize")

SELECT_SECONDS = 60.0
VARIANT_SECONDS = 900.0
"""For refits and students, at most, where the job has no deadline; a guess at what is worth waiting for."""
VARIANT_SHARE = 0.7
"""Of the time left before the deadline; the rest is for measuring, explaining and the report. A guess."""
REPORT_SECONDS = 3.0
"""Kept for the last upload and the report. Measured: 1 to 2 s."""


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
    from kubeautoml_trainer.finishing.result import clean_trials

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


def finalize(context: PodContext, study: optuna.Study) -> JobResult:
    """The steps, in order.

    Raises:
        FinalizeError: there can be no model.
        DataError: the data is not what the trials saw.
        StorageUnavailable, StudyError: what is needed is away.
    """
    from kubeautoml_trainer.features.again import keep_for_rows_that_come_again
    from kubeautoml_trainer.finishing.bundle import build_model, keep_limits, ship, upload_bundle
    from kubeautoml_trainer.finishing.facts import evaluate
    from kubeautoml_trainer.finishing.reports import explain, report
    from kubeautoml_trainer.finishing.result import tell_result
    from kubeautoml_trainer.finishing.work import Timer, load, tell_stage

    keep_for_rows_that_come_again()
    timer = Timer()
    work = load(context, study)
    share_weights(context)
    timer.lap("Loading")
    tell_stage(study, "Ensembling")
    wanted = tuple(context.job.output.variants)
    seconds = min(SELECT_SECONDS, max(1.0, 0.3 * work.remaining_seconds()))
    shop, built = build_model(work, time.monotonic() + seconds, keeps_constraints=ModelVariant.QUALITY in wanted)
    maker = make_maker(work, shop, built)
    shipped = ship(work, maker.make(wanted, fit=False), "bundle")
    timer.lap("Ensembling")
    told = result_of(study)
    if told is not None:  # by another finalizer, whose node came back; its model is the one that counts
        return told
    tell_stage(study, "Writing")
    upload_bundle(work, shipped)
    timer.lap("Writing")
    if wanted != (ModelVariant.QUALITY,) or work.data.has_time:
        tell_stage(study, "Refitting")
        shipped = improve(work, maker, wanted, shipped)
        told = result_of(study)
        if told is not None:
            return told
        upload_bundle(work, shipped)
        timer.lap("Refitting")
    keep_limits(work, shop, shipped)
    tell_stage(study, "Evaluating")
    facts = evaluate(work, built, shipped)
    timer.lap("Evaluating")
    tell_stage(study, "Explaining")
    importance = explain(work, shipped)
    timer.lap("Explaining")
    complete = learn_from_all_rows(work, maker, shipped)
    if complete is not shipped:
        told = result_of(study)
        if told is not None:
            return told
        upload_bundle(work, complete)
        timer.lap("AllRows")
    report(work, built, complete, facts, importance)
    timer.lap("Reporting")
    result = tell_result(work, complete, facts)
    log.info("model finished", extra={"uri": result.model_uri, "members": len(result.members), "seconds": timer.laps})
    return result


def result_of(study: optuna.Study) -> JobResult | None:
    """The result that another finalizer has told."""
    from kubeautoml.study import study_attr

    told: JobResult | None = study_attr(study, StudyAttr.RESULT)
    if told is not None:
        log.info("the model is there already", extra={"study": study.study_name})
    return told


def make_maker(work: Work, shop: Workshop, built: Built) -> Maker:
    """What makes the variants, with the time it may take."""
    from kubeautoml_trainer.ensemble.measure import limit_of
    from kubeautoml_trainer.finishing.bundle import quality
    from kubeautoml_trainer.finishing.work import seed_of_trial
    from kubeautoml_trainer.variants.base import Bench
    from kubeautoml_trainer.variants.make import Maker

    seconds = min(VARIANT_SECONDS, VARIANT_SHARE * work.remaining_seconds())
    bench = Bench(
        shop=shop,
        built=built,
        threads=work.context.threads,
        seed_of=lambda number: seed_of_trial(work, number),
        deadline=time.monotonic() + seconds,
        limit=limit_of(work.context.job.constraints),
    )
    return Maker(bench, quality(shop, built))


def improve(work: Work, maker: Maker, wanted: tuple[ModelVariant, ...], stored: Shipped) -> Shipped:
    """The variants with refits and students. Whatever goes wrong, there is the model that is stored already."""
    return _instead(work, maker.make(wanted, fit=True), "refitted", stored)


def learn_from_all_rows(work: Work, maker: Maker, scored: Shipped) -> Shipped:
    """The same variants, fitted with the hold-out rows too; what is stored already where that cannot be had."""
    from kubeautoml_trainer.finishing.work import tell_stage

    job = work.context.job
    if job.output.refit_on is not RefitRows.ALL_ROWS or job.dataset.test is not None or work.is_counted:
        return scored
    tell_stage(work.study, "Refitting")
    seconds = min(VARIANT_SECONDS, work.remaining_seconds() - REPORT_SECONDS)
    made = maker.with_all_rows(scored.made, time.monotonic() + seconds)
    if all(new is old for new, old in zip(made, scored.made, strict=True)):
        return scored
    return _instead(work, made, "all-rows", scored)


def _instead(work: Work, made: Sequence[Made], name: str, stored: Shipped) -> Shipped:
    """These variants, written; those that are stored where they cannot be, or would break the job's constraints."""
    from kubeautoml_trainer.finishing.bundle import over_limits, ship

    try:
        better = ship(work, made, name)
    except BundleError as error:
        log.warning("the stored variants stay as they are", extra={"error": str(error)})
        return stored
    if over_limits(work, better) is not None:
        log.warning(
            "fitted again the model would not keep its constraints: the stored variants stay", extra={"made": name}
        )
        return stored
    return better
