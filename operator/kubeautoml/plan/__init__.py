"""The pure core: decide what to do about one job."""

from kubeautoml.plan.plan import plan

__all__ = ["plan"]
