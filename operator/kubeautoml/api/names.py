"""Every name that two parts must agree on: child objects, labels, environment, files. Nothing else builds one."""

from __future__ import annotations

import hashlib
from enum import StrEnum

from kubeautoml.api.kinds import GROUP

FIELD_MANAGER = "kubeautoml-operator"
FINALIZER = f"{GROUP}/cleanup"

LABEL_JOB = f"{GROUP}/job"
LABEL_JOB_UID = f"{GROUP}/job-uid"
LABEL_COMPONENT = f"{GROUP}/component"
LABEL_MODEL_VERSION = f"{GROUP}/model-version"
ANNOTATION_DIGEST = f"{GROUP}/applied-digest"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
QUEUE_PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
QUEUE_MIN_ANNOTATION = "kueue.x-k8s.io/job-min-parallelism"
"""What Kueue reads on a batch Job: the LocalQueue and the WorkloadPriorityClass, which an AutoMLJob carries as labels, and the
fewest pods that are worth admitting."""

ANNOTATION_PARALLELISM = f"{GROUP}/parallelism"
"""Workers that were asked for; a queue may have admitted fewer."""
ANNOTATION_TRIALS = f"{GROUP}/trials-before"

ANNOTATION_RETRY = f"{GROUP}/retry"
"""On an AutoMLJob that has failed: any value that it has not had yet puts the job back to work. A time is a good one."""
ANNOTATION_STUDY_CA = f"{GROUP}/study-ca"
"""The study server's certificate authority, PEM, on the pods that call it."""

JOB_NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
"""A job's name is the beginning of its Service's, which must be a DNS label that begins with a letter."""

STUDY_TOKEN_AUDIENCE = "kubeautoml-study"
SERVER_PORT = 8080
LEASE_NAME = "kubeautoml-operator"
"""The Lease that all replicas of an operator contend for."""


class Component(StrEnum):
    """What a child is for; the value of the component label."""

    WORKER = "worker"
    FINALIZER = "finalizer"
    SERVER = "server"
    MODEL = "model"


class Env(StrEnum):
    """Environment of the pods. A path or setting reaches a pod only through one of these or an argument."""

    JOB = "KUBEAUTOML_JOB"
    """JSON of `pod.PodJob`: name, namespace, uid and the immutable part of the spec."""
    STUDY_URL = "KUBEAUTOML_STUDY_URL"
    """Where the study is: journal://, sqlite://, postgresql://, grpc:// or grpcs://."""
    STUDY_TOKEN_FILE = "KUBEAUTOML_STUDY_TOKEN_FILE"
    """File with the token that the study server asks for; read again for every new connection."""
    STUDY_CA_FILE = "KUBEAUTOML_STUDY_CA_FILE"
    """File with the certificate authority of the study server, for grpcs://."""
    POD_NAME = "KUBEAUTOML_POD_NAME"
    """Name of the pod, for its log lines."""
    POD_UID = "KUBEAUTOML_POD_UID"
    """metadata.uid of the pod, which its trials carry."""
    SCRATCH_DIR = "KUBEAUTOML_SCRATCH_DIR"
    """Folder for downloads and for what is being written."""
    STORAGE_PATIENCE_SECONDS = "KUBEAUTOML_STORAGE_PATIENCE_SECONDS"
    """How long a pod waits for an object storage that is away before it leaves; absent for the default."""
    THREADS = "KUBEAUTOML_THREADS"
    """Threads that one fit may use, from the pod's cores; default: 1."""
    MEMORY_BYTES = "KUBEAUTOML_MEMORY_BYTES"
    """The pod's memory limit, in bytes; absent when it has none."""
    TRAIN_CREDENTIALS_DIR = "KUBEAUTOML_TRAIN_CREDENTIALS_DIR"
    """Folder with the keys of dataset.train.secretRef, a file each."""
    TEST_CREDENTIALS_DIR = "KUBEAUTOML_TEST_CREDENTIALS_DIR"
    """Folder with the keys of dataset.test.secretRef."""
    OUTPUT_CREDENTIALS_DIR = "KUBEAUTOML_OUTPUT_CREDENTIALS_DIR"
    """Folder with the keys of output.secretRef; servers read the bundle with them."""
    MODEL_URI = "KUBEAUTOML_MODEL_URI"
    """The bundle that a server serves."""
    MODEL_SHA256 = "KUBEAUTOML_MODEL_SHA256"
    """Digest that its bundle.json must have."""
    MODEL_NAME = "KUBEAUTOML_MODEL_NAME"
    """Name of the model in the endpoint's paths."""
    MODEL_VERSION = "KUBEAUTOML_MODEL_VERSION"
    """Version that the endpoint says it serves."""
    BIND_HOST = "KUBEAUTOML_BIND_HOST"
    """Address that a server listens on; default: all."""
    PORT = "KUBEAUTOML_PORT"
    """Port that a server listens on; default: 8080."""


def short_hash(text: str) -> str:
    """Eight hexadecimal digits of the text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def child_name(job: str, suffix: str) -> str:
    """<job>-<suffix>, cut to 63 characters with a hash that keeps long names apart."""
    name = f"{job}-{suffix}"
    if len(name) <= 63:
        return name
    return f"{job[: 63 - len(suffix) - 10].rstrip('-')}-{short_hash(job)}-{suffix}"


def worker_job_name(job: str, uid: str) -> str:
    """The batch Job of the workers; it carries the uid, so a recreated AutoMLJob never adopts an old one's pods."""
    return child_name(job, f"{short_hash(uid)[:5]}-worker")


def finalizer_job_name(job: str, uid: str) -> str:
    """The batch Job of the finalizer."""
    return child_name(job, f"{short_hash(uid)[:5]}-finalize")


def server_name(job: str) -> str:
    """Deployment, Service and all else of the endpoint: stable over versions, since clients hold its address."""
    return child_name(job, "server")


def network_policy_name(job: str, uid: str) -> str:
    """The NetworkPolicy of workers and finalizer; that of the servers is named like them."""
    return child_name(job, f"{short_hash(uid)[:5]}-training")


def model_name(job: str, uid: str, version: str) -> str:
    """The AutoMLModel; with the uid, since it outlives its job and one made again under the same name."""
    return child_name(job, f"{short_hash(uid)[:5]}-{version}")


def study_name(namespace: str, job: str, uid: str) -> str:
    """One study a job; the uid keeps a recreated job away from its predecessor's trials."""
    return f"{namespace}/{job}/{uid}"


def labels(job: str, uid: str, component: Component) -> dict[str, str]:
    """Labels of every child."""
    value = job if len(job) <= 63 else f"{job[:54].rstrip('-')}-{short_hash(job)}"
    return {
        "app.kubernetes.io/name": "kubeautoml",
        "app.kubernetes.io/instance": value,
        "app.kubernetes.io/component": component.value,
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
        LABEL_JOB: value,
        LABEL_JOB_UID: uid,
        LABEL_COMPONENT: component.value,
    }


def service_url(job: str, namespace: str) -> str:
    """Address of the endpoint inside the cluster."""
    return f"http://{server_name(job)}.{namespace}.svc.cluster.local"


class ArtifactPaths:
    """URIs of everything a job leaves in object storage, under <output.uri>/<namespace>/<name>/<uid>/."""

    def __init__(self, output_uri: str, namespace: str, name: str, uid: str) -> None:
        self.root = f"{output_uri.rstrip('/')}/{namespace}/{name}/{uid}"

    @property
    def profile(self) -> str:
        """Column types and statistics, JSON."""
        return f"{self.root}/data/profile.json"

    @property
    def folds(self) -> str:
        """Row, fold, hold-out membership; Parquet."""
        return f"{self.root}/data/folds.parquet"

    def trial(self, number: int, file: str = "") -> str:
        """A trial's folder, or a file in it."""
        return f"{self.root}/trials/{number}/{file}"

    def checkpoint(self, origin: int | None = None, fold: int | None = None) -> str:
        """Folder of all checkpoints, of one trial (the number of its first attempt), or the file of one of its folds."""
        folder = f"{self.root}/checkpoints/" if origin is None else f"{self.root}/checkpoints/{origin}/"
        return folder if fold is None else f"{folder}{fold}.tar"

    def fit_state(self, origin: int, fold: int) -> str:
        """State of a fit that was interrupted, beside the checkpoints of its trial."""
        return f"{self.checkpoint(origin)}{fold}.state"

    @property
    def leaderboard(self) -> str:
        return f"{self.root}/leaderboard.csv"

    @property
    def metrics(self) -> str:
        return f"{self.root}/metrics.json"

    @property
    def report(self) -> str:
        return f"{self.root}/report.html"

    @property
    def pipeline(self) -> str:
        return f"{self.root}/pipeline.py"

    @property
    def model(self) -> str:
        """Folder of the finished bundle."""
        return f"{self.root}/model"
