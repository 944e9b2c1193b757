"""The contract: what a manifest may say, what a status says, and what crosses a pod's edge. Light to import."""

from kubeautoml.api.job import AutoMLJob, AutoMLJobSpec
from kubeautoml.api.job_status import AutoMLJobStatus
from kubeautoml.api.model import AutoMLModel
from kubeautoml.api.profile import AutoMLProfile

__all__ = ["AutoMLJob", "AutoMLJobSpec", "AutoMLJobStatus", "AutoMLModel", "AutoMLProfile"]
