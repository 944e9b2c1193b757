"""`kubeautoml worker`: the container entry point that runs trials until there is nothing more to do.

Exit 0: nothing more to do. 1: the job cannot go on, said in the study and in one line on stderr; or this pod cannot, since the study
or a storage stayed away: said on stderr alone, and a new pod tries again. 143: SIGTERM.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import (
    AccessDenied,
    BundleError,
    DataError,
    KubeAutoMLError,
    StorageError,
    StorageUnavailable,
    StudyError,
    UsageError,
)
from kubeautoml.api.logs import log_context, log_to_stderr
from kubeautoml.api.pod import PodContext
from kubeautoml.api.trials import DataFacts, Failure, StudyAttr, StudyLimits
from kubeautoml_trainer.activity import Activity, study_activity

if TYPE_CHECKING:
    import optuna

    from kubeautoml.api.search import Pretrained
    from kubeautoml_trainer.data.base import PreparedData
    from kubeautoml_trainer.models.base import Family
    from kubeautoml_trainer.search.plan import Entry
    from kubeautoml_trainer.search.signals import TerminationGuard

log = logging.getLogger("kubeautoml.worker")

LIMITS_WAIT_SECONDS = 60.0
MAX_WARNINGS = 5
"""About the data, in the status."""


def main(argv: list[str]) -> int:
    """Run trials for the job in the environment."""
    if argv:
        print("usage: kubeautoml worker      (everything is read from the environment)", file=sys.stderr)
        return 0 if argv[0] in ("-h", "--help") else 2
    log_to_stderr()
    context = PodContext.from_env(os.environ)
    limit_threads(context.threads)
    job = f"{context.job.namespace}/{context.job.name}"
    with log_context(job=job, pod=context.pod_name):
        return _run(context)


def _run(context: PodContext) -> int:
    from kubeautoml_trainer.search.signals import EXIT_CODE, Terminated, TerminationGuard

    guard = TerminationGuard()
    guard.install()
    try:
        return _work(context, guard)
    except Terminated:
        log.info("worker terminated")
        return EXIT_CODE
    except (StudyError, StorageError) as error:
        return leave(error)
    except Exception as error:  # noqa: BLE001  # whatever it is ends in one line
        return leave(unexpected(error, context))


def _work(context: PodContext, guard: TerminationGuard) -> int:
    from kubeautoml.storage import open_store
    from kubeautoml_trainer.search.loop import SearchLoop
    from kubeautoml_trainer.search.plan import data_shape, search_plan

    study = open_study(context)
    limits = wait_for_limits(study)
    began = time.monotonic()
    activity = study_activity(study)
    try:
        data = _prepare(context, limits.budget_seconds, activity)
        read_seconds = time.monotonic() - began - data.once_seconds
        families = _families(context)
        shape = data_shape(data, context.job, has_accelerator())
        plan = search_plan(context.job, shape, _warm_entries(context, study, data), families)
    except (StudyError, StorageUnavailable):
        raise
    except KubeAutoMLError as error:
        return give_up(study, _stage(error), error)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  # another pod would come to the same end
        return give_up(study, "data", unexpected(error, context))
    tell_data(study, data, read_seconds)
    activity.tell("", now=True)
    store = open_store(context.job.output.uri, context.output_credentials_dir)
    left = SearchLoop(context, data, plan, study, store, guard, ends_overrun_fits=True).run()
    log.info("worker is done", extra={"why": str(left or "search space exhausted")})
    return 0


def _families(context: PodContext) -> tuple[Family, ...]:
    """All families that can take part, those that need weights with the weights that the job names.

    Raises:
        DataError: reason InvalidSearch; a family is unknown or needs no weights, or they cannot be fetched or used; or another package's
            family cannot be used.
    """
    from kubeautoml_trainer.features.encoders import encoder_of_job
    from kubeautoml_trainer.models import EVERY_FAMILY, PRETRAINED_FAMILIES, bound_families, own_families

    try:
        own = own_families()
    except UsageError as error:
        raise DataError(str(error), reason=Reason.INVALID_SEARCH) from error
    wanted, able = context.job.search.pretrained, [f.name for f in PRETRAINED_FAMILIES]
    for k, weights in enumerate(wanted):
        if weights.family not in able:
            raise DataError(
                f"spec.search.pretrained[{k}].family must be one that needs weights ({', '.join(able)}), got '{weights.family}'",
                reason=Reason.INVALID_SEARCH,
            )
    paths = _fetched(context, wanted)
    try:
        bound = bound_families(paths)
        encoder = encoder_of_job()
        if encoder is not None:
            encoder.open()  # seconds that are no trial's, and weights that cannot be used end the job here
        return (*EVERY_FAMILY, *own, *bound)
    except BundleError as error:
        where = ", ".join(w.uri for w in wanted)
        raise DataError(
            f"spec.search.pretrained: {where}: {error}; convert the weights to what the family reads",
            reason=Reason.INVALID_SEARCH,
        ) from error


def _fetched(context: PodContext, wanted: Sequence[Pretrained]) -> dict[str, Path]:
    from kubeautoml_trainer.pretrained import fetch_pretrained

    return fetch_pretrained(
        wanted,
        context.scratch_dir / "pretrained",
        context.train_credentials_dir,
        patience_seconds=context.storage_patience_seconds,
    )


def share_weights(context: PodContext) -> None:
    """Have the weights at hand that pipelines only name: for pods that read stored pipelines, and fit none from the start.

    Raises:
        DataError: as `_families`.
    """
    from kubeautoml_trainer.models import SHARED_WEIGHTS, bound_families

    wanted = [w for w in context.job.search.pretrained if w.family in SHARED_WEIGHTS]
    if wanted:
        bound_families(_fetched(context, wanted))


def has_accelerator(devices: Path = Path("/dev")) -> bool:
    """Whether networks are trained on a CUDA device; torch, which is slow to import, is asked only where there may be one."""
    if not any(devices.glob("nvidia[0-9]*")):
        return False
    from kubeautoml_trainer.models.torch_training import device_for_training

    return device_for_training().type == "cuda"


def _prepare(context: PodContext, budget_seconds: float | None, activity: Activity) -> PreparedData:
    """The data, after a look at whether the results can be written at all: found before the search, not after."""
    from kubeautoml.storage import check_writable
    from kubeautoml_trainer.data.prepare import prepare

    job = context.job
    try:
        check_writable(
            job.output.uri, context.output_credentials_dir, patience_seconds=context.storage_patience_seconds
        )
    except StorageUnavailable:
        raise
    except StorageError as error:
        raise _OutputError(f"spec.output.uri: {error}", reason=Reason.OUTPUT_NOT_WRITABLE) from error
    try:
        activity.tell(f"reading {job.dataset.train.uri}")
        return prepare(context, budget_seconds, activity)
    except AccessDenied as error:
        raise DataError(str(error), reason=Reason.ACCESS_DENIED) from error


class _OutputError(StorageError):
    """The results cannot be written."""


def _stage(error: KubeAutoMLError) -> str:
    if isinstance(error, _OutputError):
        return "output"
    return "search" if error.reason == Reason.INVALID_SEARCH else "data"


def tell_data(study: optuna.Study, data: PreparedData, read_seconds: float) -> None:
    """Say what was read; all workers find the same, so it is written once."""
    from kubeautoml.study import set_study_attr, study_attr
    from kubeautoml_trainer.search.traits import traits_of

    profile = data.profile
    facts = DataFacts(
        rows=profile.rows,
        columns=len(profile.schema.features),
        holdout_rows=profile.holdout_rows,
        folds=profile.folds,
        classes=len(profile.schema.classes) or None,
        sha256=profile.sha256,
        warnings=_few(profile.warnings),
        read_seconds=round(read_seconds, 3),
        traits=traits_of(data),
    )
    if study_attr(study, StudyAttr.DATA) is None:
        set_study_attr(study, StudyAttr.DATA, facts)


def _few(warnings: tuple[str, ...]) -> tuple[str, ...]:
    """The first, which are the worst, as a status has room for; the report shows all."""
    left = len(warnings) - MAX_WARNINGS
    more = (f"{left} more in the report",) if left > 0 else ()
    return (*(w[:200] for w in warnings[:MAX_WARNINGS]), *more)


def give_up(study: optuna.Study, stage: str, error: KubeAutoMLError) -> int:
    """Say in the study why the job cannot go on; exit code 1."""
    from kubeautoml.study import set_study_attr

    set_study_attr(study, StudyAttr.FAILURE, Failure(stage, str(error.reason), str(error)[:1500]))
    print(f"error: {error}", file=sys.stderr)
    return 1


def leave(error: KubeAutoMLError) -> int:
    """Say why this pod cannot go on, which is no failure of the job; exit code 1, so that a new one takes its place."""
    print(f"error: {error}", file=sys.stderr)
    return 1


def unexpected(error: Exception, context: PodContext) -> KubeAutoMLError:
    """One line for what nobody foresaw; where it came from is for developers, and goes into the log."""
    from kubeautoml_trainer.search.outage import is_full_disk

    if is_full_disk(error):
        return StorageError(
            f"the pod's disk is full ({context.scratch_dir}, or /tmp); give the nodes more ephemeral storage, or the job fewer rows"
        )
    if isinstance(error, MemoryError):
        return KubeAutoMLError(
            f"the pod has too little memory for this step ({error or 'no memory'}); raise spec.workers.resources.limits.memory, "
            "or give fewer rows",
            reason=Reason.OUT_OF_MEMORY,
        )
    log.error("unexpected error", exc_info=error)
    words = f"{type(error).__name__}: {error}"[:500]
    if isinstance(error, OSError):
        return StorageError(f"{words}; a new pod will try again")
    return KubeAutoMLError(
        f"unexpected {words}; this is a defect of kubeautoml: report it with the log of pod {context.pod_name}",
        reason=Reason.INTERNAL_ERROR,
    )


def open_study(context: PodContext) -> optuna.Study:
    """The job's study, made if this is the first to come."""
    from kubeautoml.study import create_study, open_study_storage

    storage = open_study_storage(context.study_url, context.study_token_file, context.study_ca_file)
    return create_study(storage, context.job.study_name, context.job.direction)


def wait_for_limits(
    study: optuna.Study, seconds: float = LIMITS_WAIT_SECONDS, sleep: Callable[[float], None] = time.sleep
) -> StudyLimits:
    """The limits, which the operator writes right after it has created the workers; these may be quicker.

    Raises:
        StudyError: it has not.
    """
    from kubeautoml.study import read_limits

    deadline = time.monotonic() + seconds
    while (limits := read_limits(study)) is None:
        if time.monotonic() > deadline:
            raise StudyError(f"study {study.study_name} has no limits after {seconds:.0f} s; is the operator running?")
        sleep(0.1)
    return limits


def _warm_entries(context: PodContext, study: optuna.Study, data: PreparedData) -> list[Entry]:
    """The best trials of the jobs in search.warmStartFrom, most alike and best first.

    Raises:
        DataError: reason InvalidSearch; one of them has no study with completed trials.
    """
    from kubeautoml_trainer.search.traits import traits_of
    from kubeautoml_trainer.search.warm_start import warm_entries

    return warm_entries(context, study, traits_of(data))


def limit_threads(threads: int) -> None:
    """Keep numerical libraries to the pod's share of the cores; must come before they are imported."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_MAX_THREADS"):
        os.environ[name] = str(threads)
