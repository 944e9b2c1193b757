"""What every reason means and what to do about it. `docs/reference/conditions.md` is `reference_page()`, and tests compare them."""

from __future__ import annotations

from dataclasses import dataclass

from kubeautoml.api.conditions import ConditionType as C
from kubeautoml.api.conditions import Reason as R

NOTHING = "Nothing."


@dataclass(frozen=True)
class Meaning:
    """One reason, for people. `where` names the condition it is about, or "Event" for what stands in events and trials only."""

    where: str
    means: str
    what_to_do: str = NOTHING


def _of(where: str, **meanings: tuple[str, ...]) -> dict[R, Meaning]:
    return {R[name]: Meaning(where, *texts) for name, texts in meanings.items()}


MEANINGS: dict[R, Meaning] = {
    **_of(
        C.ACCEPTED,
        SPEC_VALID=("The spec keeps every rule, those of its profile included.",),
        INVALID_SPEC=(
            "A field breaks a rule; the message names field, rule and value.",
            "Edit the field. A job that runs goes on with its last good spec meanwhile.",
        ),
        PROFILE_NOT_FOUND=(
            "spec.profileRef names no AutoMLProfile.",
            "Choose one of `kubectl get automlprofiles`, or ask the platform team for it.",
        ),
        PROFILE_INVALID=(
            "The profile itself breaks a rule.",
            "The platform team corrects the profile; the job follows by itself.",
        ),
        UNFITTING_METRIC=(
            "The metric of the objective, of a constraint or of the gate does not fit the task.",
            "Take one of those that the message lists.",
        ),
        LIMIT_EXCEEDED=(
            "The job asks for more than its profile allows.",
            "Ask for less, or the platform team for a higher limit.",
        ),
        LOCATION_NOT_ALLOWED=(
            "Data or output are where the profile does not allow it.",
            "Use one of the locations in the message.",
        ),
        NO_TRIAL_POSSIBLE=("Not even one trial fits into the budget.", "Raise the budget that the message names."),
    ),
    **_of(
        C.DATA_READY,
        DATA_LOADED=("The data was read, its columns are typed, and the folds are stored.",),
        READING_DATA=("No worker has read the data yet.",),
        DATASET_NOT_FOUND=(
            "No file matches the URI.",
            "Check bucket, path and spelling; once the data is there, `kubectl automl retry NAME`.",
        ),
        DATASET_EMPTY=(
            "The files have no rows that can be used.",
            "Check what wrote them; then `kubectl automl retry NAME`.",
        ),
        DATASET_UNREADABLE=(
            "A file is not what its name says, or is broken.",
            "Mend the file and place that the message names; then `kubectl automl retry NAME`.",
        ),
        ACCESS_DENIED=(
            "The object storage refuses these credentials.",
            "Check the secret in the message, and its key's rights on the bucket; then `kubectl automl retry NAME`.",
        ),
        STORAGE_UNAVAILABLE=(
            "The object storage does not answer.",
            "Check endpoint and certificate (AutoMLProfile spec.objectStorage); then `kubectl automl retry NAME`.",
        ),
        TARGET_NOT_FOUND=("The data has no column of the name in spec.task.target.", "Correct the name."),
        TARGET_UNUSABLE=(
            "The target column cannot be learned: one value only, or values that do not fit the task.",
            "Choose another target or task type.",
        ),
        COLUMN_NOT_FOUND=("A column that the spec names is not in the data.", "Correct the name."),
        DUPLICATE_COLUMNS=("Two columns have the same name.", "Rename one."),
        INVALID_DATA=("The data cannot be used as the spec asks.", "Follow the message: it names the column."),
        TOO_FEW_ROWS=("There are too few rows, or too few of a class, to split.", "Add rows, or merge rare classes."),
        OUTPUT_NOT_WRITABLE=(
            "Workers cannot write to spec.output.uri.",
            "Check the bucket and the rights of spec.output.secretRef; then `kubectl automl retry NAME`.",
        ),
    ),
    **_of(
        C.ADMITTED,
        WORKERS_ADMITTED=("Workers may run; in an event: the queue has let them.",),
        WAITING_FOR_PODS=("No worker pod has started yet.", "If it stays so, the condition Stalled says why."),
        QUEUED=(
            "A queue, or somebody else, holds the workers back; no budget counts the time.",
            "`kubectl describe workloads` says what the queue waits for.",
        ),
        SUSPENDED=(
            "spec.suspend is true: pods are stopped, finished trials are kept.",
            "Set spec.suspend to false to go on.",
        ),
    ),
    **_of(
        C.SUCCEEDED,
        SEARCHING=("Trials run.",),
        FINALIZING=("The search has ended, and the model is being made.",),
        MODEL_TRAINED=("There is a model; status.model says where.",),
        INVALID_SEARCH=(
            "The search cannot be done, such as with families that do not fit the data, or weights whose digest is another.",
            "Edit spec.search in a new job.",
        ),
        NO_TRIAL_COMPLETED=(
            "The search has ended, and no trial completed.",
            "Raise the budget and `kubectl automl retry NAME`, or make another job with fewer, faster families.",
        ),
        TOO_MANY_FAILED_TRIALS=(
            "budget.maxFailedTrials was reached, and no trial completed.",
            "Read the error in the message and `kubectl automl logs`; then `kubectl automl retry NAME`.",
        ),
        WORKERS_FAILED=(
            "Worker pods fail before any trial completes.",
            "Read the exit code in the message and `kubectl automl logs`; then `kubectl automl retry NAME`.",
        ),
        FINALIZE_FAILED=(
            "The model could not be made of what the trials left.",
            "Read `kubectl automl logs NAME -c finalizer`; more memory is the usual cure; then `kubectl automl retry NAME`.",
        ),
        CONSTRAINTS_NOT_MET=(
            "No candidate meets spec.constraints.",
            "Loosen a constraint, or search simpler families.",
        ),
    ),
    **_of(
        C.READY,
        WAITING_FOR_MODEL=("There is nothing to serve yet.",),
        DEPLOYING=("Servers start.",),
        SERVING=("Every server that was asked for answers; status.serving.url says where.",),
        SERVING_FAILED=(
            "Servers do not come up in time; the message quotes the Deployment.",
            "Look at `kubectl describe pods -l kubeautoml.dev/component=server`: memory, image or quota.",
        ),
        GATE_NOT_PASSED=(
            "The model is not good enough for spec.serving.gate; what was served before stays.",
            "Search longer, or lower the gate: it may be edited.",
        ),
        MODEL_STORED=("The model is stored, and nobody asked for a server.",),
        NO_MODEL=("There will be no model.", "Succeeded says why."),
        SERVED=("Of an AutoMLModel: a server answers with it.",),
        STORED=("Of an AutoMLModel: it is stored and can be loaded or served.",),
    ),
    **_of(
        C.RECONCILING,
        PROGRESSING=("The operator works on the job.",),
        IDLE=("There is nothing to do until something changes.",),
    ),
    **_of(
        C.STALLED,
        WORKING=("Nothing holds the job up.",),
        STUDY_UNAVAILABLE=(
            "The study server or its database does not answer; no trial is lost.",
            "The platform team looks at the study server; the job goes on by itself.",
        ),
        CLUSTER_UNAVAILABLE=(
            "The API server refused a change; the message quotes it.",
            "A quota or an admission policy: change it, or what the job asks for.",
        ),
        NAME_TAKEN=(
            "An object that is not the job's has the name of one that it needs; the message says which.",
            "Delete or rename that object, or make the job under another name.",
        ),
        PODS_UNSCHEDULABLE=(
            "No node has room for a pod, or fits its placement.",
            "Ask for less, correct spec.workers.placement, or add nodes.",
        ),
        IMAGE_UNAVAILABLE=("An image cannot be pulled.", "The platform team corrects the image in the profile."),
        SECRET_NOT_FOUND=(
            "A secret that the spec names is not in the namespace, or lacks a key.",
            "Create it; the pods start by themselves.",
        ),
    ),
    **_of(
        "Event",
        PREEMPTED=("A trial's pod went away; that is no failure of the trial.",),
        OUT_OF_MEMORY=("A trial's worker was killed for its memory.", "Raise spec.workers.resources.limits.memory."),
        TRIAL_REQUEUED=("A trial whose pod went away is queued again.",),
        WORKERS_CREATED=("The Job of the workers was made.",),
        FINALIZE_CREATED=("The Job that makes the model was made.",),
        BUDGET_REACHED=("The search has ended by the limit in the message.",),
        RESUMED=("The search goes on after a pause.",),
        RETRIED=("Somebody has put the job, which had failed, back to work (`kubectl automl retry`).",),
        INTERNAL_ERROR=("A bug, or an answer that nobody expected.", "Report it with the operator's log."),
    ),
}
"""A meaning for every member of Reason, in the order in which a job meets them."""

_HEAD = """# Conditions and reasons

Made from `kubeautoml.api.reasons`; do not edit. `kubectl describe automljob NAME` shows conditions with their messages, and events.
`Unknown` means: still being worked on. Reasons are stable; messages are for people and may change.
"""

_ABOUT = {
    C.ACCEPTED: "True: the spec can be carried out. False: somebody must edit it, or what it refers to.",
    C.DATA_READY: "True: workers have read the data. False: it cannot be used.",
    C.ADMITTED: "True: workers may run. False: somebody holds them back on purpose.",
    C.SUCCEEDED: "True: there is a model. False: there will be none.",
    C.READY: "True: the model can be used as the job asked for, by its endpoint or where it is stored.",
    C.RECONCILING: "True: the operator has not reached what the spec asks for (kstatus).",
    C.STALLED: "True: something from outside is needed before the job goes on, and it goes on by itself then (kstatus).",
    "Event": "In events and trials. Reasons of conditions stand in events, too; InternalError may stand in any condition.",
}


def reference_page() -> str:
    """All conditions with their reasons, as Markdown."""
    return "\n".join([_HEAD, *(_section(where, about) for where, about in _ABOUT.items())])


def _section(where: str, about: str) -> str:
    title = "Only in events" if where == "Event" else where
    rows = [f"| {reason.value} | {m.means} | {m.what_to_do} |" for reason, m in MEANINGS.items() if m.where == where]
    table = "\n".join(["| reason | what it means | what to do |", "| --- | --- | --- |", *rows])
    return f"## {title}\n\n{about}\n\n{table}\n"
