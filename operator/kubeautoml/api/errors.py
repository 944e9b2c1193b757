"""Every exception the project raises on purpose, and the sentence it shows.

    KubeAutoMLError
    ├── ManifestError        a manifest breaks a rule of the contract (field, rule, value)
    ├── DataError            the user's data cannot be used as asked (reason + message)
    ├── StorageError         an object cannot be read or written
    │   ├── ObjectNotFound
    │   ├── AccessDenied
    │   └── StorageUnavailable   no answer, or "not now": the same call may succeed later
    ├── StudyError           the shared study cannot be opened or used
    ├── BundleError          a saved model is damaged, foreign, or newer than this code
    ├── PredictionError      rows that the model cannot take (column, rule, value)
    ├── ClusterError         the API server refused or did not answer
    │   ├── Conflict
    │   └── Throttled        the API server said 429; `retry_after_seconds` is its wish
    └── UsageError           a command was called with arguments that do not fit

Each carries a `reason` (CamelCase, used in conditions) and a one-line message: what, where, the rule, the value, what to do next.
"""

from __future__ import annotations


class KubeAutoMLError(Exception):
    """Base class. `str(error)` is one line for a user."""

    default_reason = "InternalError"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(" ".join(message.split()))
        self.reason = reason or self.default_reason


class ManifestError(KubeAutoMLError):
    """A manifest breaks a rule of the contract."""

    default_reason = "InvalidSpec"


class DataError(KubeAutoMLError):
    """The user's data cannot be used as the manifest asks; `reason` is one of `conditions.Reason`."""

    default_reason = "InvalidData"


class StorageError(KubeAutoMLError):
    """An object cannot be read or written."""

    default_reason = "StorageUnavailable"


class ObjectNotFound(StorageError):
    """No object, bucket or folder at that URI."""

    default_reason = "DatasetNotFound"


class AccessDenied(StorageError):
    """The credentials are missing, wrong, or not allowed to do this."""

    default_reason = "AccessDenied"


class StorageUnavailable(StorageError):
    """The storage does not answer, or says that it cannot now; the same call may succeed later.

    Never a reason to end a job: wait, and then leave it to a new pod.
    """


class StudyError(KubeAutoMLError):
    """The shared study cannot be opened or used."""

    default_reason = "StudyUnavailable"


class BundleError(KubeAutoMLError):
    """A saved model is damaged, foreign, or newer than this code."""

    default_reason = "InvalidBundle"


class PredictionError(KubeAutoMLError):
    """Rows that the model cannot take: names the column, the rule and the value."""

    default_reason = "InvalidInput"


class ClusterError(KubeAutoMLError):
    """The API server refused a request or did not answer."""

    default_reason = "ClusterUnavailable"


class Conflict(ClusterError):
    """Somebody else owns the field, or the object changed meanwhile (409)."""

    default_reason = "Conflict"


class Throttled(ClusterError):
    """The API server answered 429."""

    default_reason = "Throttled"

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class UsageError(KubeAutoMLError):
    """A command was called with arguments that do not fit; exit code 2."""

    default_reason = "Usage"
