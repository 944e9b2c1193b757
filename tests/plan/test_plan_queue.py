"""Kueue by its label alone: what the batch Jobs carry, and that nothing the queue does is undone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from factories import SETTINGS, make_finished_trial, make_job, make_pod, make_profile, make_running_trial, make_summary
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.names import Component
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.api.profile import AutoMLProfileSpec
from kubeautoml.plan.workers import finalizer_job, worker_job
from plan.carry import Stage

QUEUE = {"kueue.x-k8s.io/queue-name": "team-a"}
PRIORITY = {"kueue.x-k8s.io/priority-class": "high"}


def queued_job(labels: dict[str, str] = QUEUE, **spec: Any) -> AutoMLJob:
    job = make_job(**spec)
    return job.model_copy(update={"metadata": job.metadata.model_copy(update={"labels": labels})})


def workers(stage: Stage) -> Manifest:
    return next(m for ref, m in stage.children.items() if ref.name.endswith("worker"))


def queue_does(stage: Stage, **spec: Any) -> None:
    """What Kueue writes: suspend, the number of pods, and labels of nodes."""
    found = workers(stage)
    meta = {
        **found["metadata"],
        "resourceVersion": "42",
        "annotations": {**found["metadata"]["annotations"], "kueue.x-k8s.io/x": "y"},
    }
    stage.children[Ref.of(found)] = {**found, "metadata": meta, "spec": {**found["spec"], **spec}}


def queued(**spec: Any) -> Stage:
    """A job whose worker Job waits in the queue."""
    stage = Stage(queued_job(**{"workers": {"parallelism": 4, "minParallelism": 2}, **spec}))
    stage.settle()
    return stage


def admitted(**spec: Any) -> Stage:
    stage = queued(**spec)
    template = workers(stage)["spec"]["template"]
    placed = {**template, "spec": {**template["spec"], "nodeSelector": {"flavor": "spot"}}}
    queue_does(stage, suspend=False, parallelism=3, template=placed)
    stage.pods = tuple(make_pod(f"pod-{i}", started_at=stage.now.timestamp()) for i in range(3))
    stage.settle()
    return stage


def test_a_label_is_all_that_a_queue_needs() -> None:
    """The Jobs of workers and finalizer carry it, begin suspended, and say how few workers are still of use."""
    job = queued_job({**QUEUE, **PRIORITY}, workers={"parallelism": 4, "minParallelism": 2})

    for made in (worker_job(job, AutoMLProfileSpec(), SETTINGS), finalizer_job(job, AutoMLProfileSpec(), SETTINGS)):
        assert made["spec"]["suspend"] is True
        assert {k: v for k, v in made["metadata"]["labels"].items() if "kueue" in k} == {**QUEUE, **PRIORITY}
    annotations = worker_job(job, AutoMLProfileSpec(), SETTINGS)["metadata"]["annotations"]
    assert annotations["kueue.x-k8s.io/job-min-parallelism"] == "2"


def test_without_a_queue_nothing_is_suspended() -> None:
    """minParallelism means something to a queue only; a priority class without a queue as well."""
    job = queued_job(PRIORITY, workers={"parallelism": 4, "minParallelism": 2})

    made = worker_job(job, AutoMLProfileSpec(), SETTINGS)

    assert "suspend" not in made["spec"]
    assert "kueue" not in str(made["metadata"])


def test_all_workers_or_none_is_no_partial_admission() -> None:
    """Kueue refuses a minimum that is not below the number of pods."""
    for fewest in ({}, {"minParallelism": 4}):
        job = queued_job(workers={"parallelism": 4, **fewest})

        made = worker_job(job, AutoMLProfileSpec(), SETTINGS)

        assert "kueue.x-k8s.io/job-min-parallelism" not in made["metadata"]["annotations"]


def test_a_profile_may_name_the_queue_of_jobs_that_name_none() -> None:
    profile = make_profile(defaults={"queueName": "everybody", "parallelism": 4, "minParallelism": 2}).spec

    own, default = queued_job(), make_job()

    assert worker_job(own, profile, SETTINGS)["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    made = worker_job(default, profile, SETTINGS)
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "everybody"
    assert (made["spec"]["parallelism"], made["metadata"]["annotations"]["kueue.x-k8s.io/job-min-parallelism"]) == (
        4,
        "2",
    )


def test_on_a_laptop_no_queue_is_waited_for() -> None:
    settings = replace(SETTINGS, queueing_enabled=False)

    assert "suspend" not in worker_job(queued_job(), AutoMLProfileSpec(), settings)["spec"]


def test_waiting_is_said_and_costs_nothing() -> None:
    """Where it waits and how to see why; the operator looks again only now and then."""
    stage = queued()

    assert stage.conditions()["Admitted"] == "False Queued"
    assert stage.message("Admitted") == (
        "batch Job churn-666ff-worker waits in LocalQueue team-a for Kueue to admit it, and no budget counts the time; "
        "why: kubectl describe workloads -n team-a"
    )
    wake = stage.look().wake_after
    assert wake is not None and wake.total_seconds() == SETTINGS.resync_seconds


def test_what_the_queue_decided_is_left_alone() -> None:
    """Fewer workers, other nodes, resumed: no pass undoes it, and it is said."""
    stage = admitted()
    before = workers(stage)

    assert stage.settle() == []

    assert workers(stage) == before
    assert stage.conditions()["Admitted"] == "True WorkersAdmitted"
    assert stage.message("Admitted") == "the queue admitted 3 of 4 workers"


def test_an_eviction_retires_trials_as_preempted() -> None:
    """They are queued again; nobody failed; and the user reads that the job waits."""
    stage = admitted()
    stage.study = make_summary(
        running=1, running_trials=(make_running_trial(3, "pod-1"),), limits=stage.study.limits if stage.study else None
    )
    queue_does(stage, suspend=True)
    stage.pods = ()

    events = [e.reason for p in stage.settle() for e in p.events]

    assert stage.study is not None
    assert (stage.study.failed, stage.study.preempted, stage.study.waiting) == (0, 1, 1)
    assert stage.conditions()["Admitted"] == "False Queued"
    assert events == ["Queued", "TrialRequeued"]


def test_events_tell_when_it_waits_and_when_it_is_admitted() -> None:
    stage = Stage(queued_job(workers={"parallelism": 2}))
    waits = [e.reason for p in stage.settle() for e in p.events]

    queue_does(stage, suspend=False)
    goes = [e.reason for p in stage.settle() for e in p.events]

    assert (waits, goes) == (["WorkersCreated", "Queued"], ["WorkersAdmitted"])


def test_another_parallelism_is_asked_for_anew_where_the_queue_may_have_given_less() -> None:
    """Kueue lets nobody change the pods of such a Job: it is made again, and its trials with it."""
    stage = admitted()

    stage.edit(workers={"parallelism": 6, "minParallelism": 2})
    passes = stage.settle()

    assert [r.name for p in passes for r in p.delete] == ["churn-666ff-worker"]
    assert (workers(stage)["spec"]["parallelism"], workers(stage)["spec"]["suspend"]) == (6, True)


def test_another_parallelism_is_sent_to_a_job_that_is_admitted_whole() -> None:
    """As it was found there, suspend and nodes included, and only if nobody was faster."""
    stage = Stage(queued_job(workers={"parallelism": 2}))
    stage.settle()
    queue_does(stage, suspend=False)
    stage.settle()
    found = workers(stage)

    stage.edit(workers={"parallelism": 5})
    (sent,) = [m for m in stage.look().apply if m["kind"] == "Job"]

    assert sent["spec"] == {**found["spec"], "parallelism": 5}
    assert sent["metadata"]["resourceVersion"] == "42"
    assert "kueue.x-k8s.io/x" not in sent["metadata"]["annotations"]
    assert sent["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"


def test_a_job_that_somebody_suspended_by_hand_is_not_fought_over() -> None:
    """There is no queue, so the user is told whose turn it is."""
    stage = Stage(make_job())
    stage.settle()
    queue_does(stage, suspend=True)

    passes = stage.settle()

    assert [m for p in passes for m in p.apply] == []
    assert stage.conditions()["Admitted"] == "False Queued"
    assert "suspended, and not by this operator" in stage.message("Admitted")


def test_the_finalizer_waits_in_the_same_queue() -> None:
    stage = admitted(budget={"maxTrials": 1})
    stage.study = make_summary(best=[make_finished_trial()], limits=stage.study.limits if stage.study else None)
    stage.settle()
    stage.pods = ()
    stage.end_batch_job("worker")
    stage.settle()

    made = next(m for ref, m in stage.children.items() if ref.name.endswith("finalize"))

    assert made["spec"]["suspend"] is True
    assert stage.conditions()["Admitted"] == "False Queued"
    assert stage.job.status.suspended_since is not None
    stage.children[Ref.of(made)] = {**made, "spec": {**made["spec"], "suspend": False}}
    stage.pods = (make_pod("pod-f", Component.FINALIZER, started_at=stage.now.timestamp()),)
    stage.settle()
    assert stage.conditions()["Admitted"] == "True WorkersAdmitted"
    assert stage.job.status.suspended_since is None


def test_a_failed_job_leaves_the_queue() -> None:
    """Pods of a queue cannot be scaled away against it."""
    stage = admitted()
    crash = {"phase": "Failed", "exit_code": 1, "reason": "Error", "message": "no"}
    stage.pods = tuple(make_pod(f"pod-{i}", finished_at=float(i), **crash) for i in range(20))

    stage.settle()

    assert stage.conditions()["Succeeded"] == "False WorkersFailed"
    assert [k for k in stage.kinds() if k.startswith("Job ")] == []


def test_a_search_that_ends_in_the_queue_leaves_it() -> None:
    """A budget was lowered below what is used: nobody is to be admitted for nothing."""
    stage = admitted(budget={"maxTrials": 10})
    stage.study = make_summary(best=[make_finished_trial()], limits=stage.study.limits if stage.study else None)
    queue_does(stage, suspend=True)
    stage.pods = ()
    stage.settle()

    stage.edit(workers={"parallelism": 4, "minParallelism": 2}, budget={"maxTrials": 1})
    stage.settle()

    jobs = [k for k in stage.kinds() if k.startswith("Job ")]
    assert jobs == ["Job churn-666ff-finalize"]
