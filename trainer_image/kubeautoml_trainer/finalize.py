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
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kubeautoml.api.errors import AccessDenied, BundleError, KubeAutoMLError, StorageError, StudyError
from kubeautoml.api.logs import log_context, log_to_stderr
from kubeautoml.api.metrics import Direction
from kubeautoml.api.objective import ModelVariant, RefitRows
from kubeautoml.api.pod import PodContext
from kubeautoml.api.trials import JobResult, StudyAttr
from kubeautoml_trainer.search.signals import EXIT_CODE
from kubeautoml_trainer.worker import give_up, leave, limit_threads, open_study, share_weights, unexpected

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import optuna

    from kubeautoml_trainer.ensemble.build import Built, Workshop
    from kubeautoml_trainer.finishing.bundle import Shipped
    from kubeautoml_trainer.finishing.work import Timer, Work
    from kubeautoml_trainer.variants.base import Made
    from kubeautoml_trainer.variants.hands import Hands
    from kubeautoml_trainer.variants.make import Maker

log = logging.getLogger("kubeautoml.finalize")

SELECT_SECONDS = 60.0
VARIANT_SECONDS = 900.0
"""For refits and students, at most, where the job has no deadline; a guess at what is worth waiting for."""
VARIANT_SHARE = 0.7
"""Of the time left before the deadline; the rest is for measuring, explaining and the report. A guess."""
WARM_FAMILIES = 5
"""Of the best trials, which processes beside this one get ready to fit; a guess at what an ensemble has."""
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
    from kubeautoml_trainer.finishing.work import Timer, load

    keep_for_rows_that_come_again()
    timer = Timer()
    work = load(context, study)
    share_weights(context)
    timer.lap("Loading")
    with helping_hands(work) as hands:
        return _make_model(work, hands, timer)


def _make_model(work: Work, hands: Hands | None, timer: Timer) -> JobResult:
    from kubeautoml_trainer.finishing.bundle import build_model, keep_limits, ship, upload_bundle
    from kubeautoml_trainer.finishing.facts import evaluate
    from kubeautoml_trainer.finishing.reports import explain, report
    from kubeautoml_trainer.finishing.result import tell_result
    from kubeautoml_trainer.finishing.work import tell_stage

    study, wanted = work.study, tuple(work.context.job.output.variants)
    tell_stage(study, "Ensembling")
    seconds = min(SELECT_SECONDS, max(1.0, 0.3 * work.remaining_seconds()))
    shop, built = build_model(work, time.monotonic() + seconds, keeps_constraints=ModelVariant.QUALITY in wanted)
    maker = make_maker(work, shop, built, hands)
    shipped = ship(work, maker.make(wanted, fit=False), "bundle")
    timer.lap("Ensembling")
    told = result_of(study)
    if told is not None:  # by another finalizer, whose node came back; its model is the one that counts
        return told
    tell_stage(study, "Writing")
    upload_bundle(work, shipped)
    timer.lap("Writing")
    if has_refits(work):
        tell_stage(study, "Refitting")
        shipped = improve(work, maker, wanted, shipped)
        told = result_of(study)
        if told is not None:
            return told
        upload_bundle(work, shipped)
        timer.lap("Refitting")
    keep_limits(work, shop, shipped)
    if hands is not None and learns_from_holdout(work):
        maker.start_all_rows(shipped.made, _last_fit(work))
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


def has_refits(work: Work) -> bool:
    """Whether a variant takes fits on all rows in place of the folds' models."""
    return tuple(work.context.job.output.variants) != (ModelVariant.QUALITY,) or work.data.has_time


def learns_from_holdout(work: Work) -> bool:
    """Whether models are fitted again with the hold-out, once that has scored them."""
    job = work.context.job
    return (
        job.output.refit_on is RefitRows.ALL_ROWS
        and job.dataset.test is None
        and not work.is_counted
        and len(work.data.holdout) > 0
    )


@contextmanager
def helping_hands(work: Work) -> Iterator[Hands | None]:
    """Processes for the fits that there will be, where these are many."""
    from kubeautoml_trainer.variants.base import Ground
    from kubeautoml_trainer.variants.hands import hands_for

    ground = Ground(work.context.job, work.data, work.task, work.context.threads)
    wanted = work.context.job.output.variants
    is_reversed = work.context.job.direction is Direction.MAXIMIZE
    has_many = ModelVariant.BALANCED in wanted or (ModelVariant.QUALITY in wanted and learns_from_holdout(work))
    families = [t.family for t in sorted(work.scored, key=lambda t: t.value, reverse=is_reversed)]
    families = list(dict.fromkeys(families))[:WARM_FAMILIES]
    hands = hands_for(ground, families) if has_many or work.data.has_time else None
    try:
        yield hands
    finally:
        if hands is not None:
            hands.close()


def make_maker(work: Work, shop: Workshop, built: Built, hands: Hands | None = None) -> Maker:
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
        hands=hands,
    )
    return Maker(bench, quality(shop, built))


def improve(work: Work, maker: Maker, wanted: tuple[ModelVariant, ...], stored: Shipped) -> Shipped:
    """The variants with refits and students. Whatever goes wrong, there is the model that is stored already."""
    return _instead(work, maker.make(wanted, fit=True), "refitted", stored)


def learn_from_all_rows(work: Work, maker: Maker, scored: Shipped) -> Shipped:
    """The same variants, fitted with the hold-out rows too; what is stored already where that cannot be had."""
    from kubeautoml_trainer.finishing.work import tell_stage

    if not learns_from_holdout(work):
        return scored
    tell_stage(work.study, "Refitting")
    made = maker.with_all_rows(scored.made, _last_fit(work))
    if all(new is old for new, old in zip(made, scored.made, strict=True)):
        return scored
    return _instead(work, made, "all-rows", scored)


def _last_fit(work: Work) -> float:
    """`time.monotonic()` at which nothing may be fitted any more."""
    return time.monotonic() + min(VARIANT_SECONDS, work.remaining_seconds() - REPORT_SECONDS)


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
