"""The shared Optuna study: opening it by URL, the study server, the summary the operator reads."""

from kubeautoml.study.housekeeping import delete_study, latest_study, list_studies
from kubeautoml.study.orders import carry_out_orders
from kubeautoml.study.storage import open_study_storage
from kubeautoml.study.study import create_study, is_fenced, read_limits, set_study_attr, study_attr
from kubeautoml.study.summary import load_summary

__all__ = [
    "carry_out_orders",
    "create_study",
    "delete_study",
    "is_fenced",
    "latest_study",
    "list_studies",
    "load_summary",
    "open_study_storage",
    "read_limits",
    "set_study_attr",
    "study_attr",
]
