"""Greedy selection over stored out-of-fold predictions."""

from kubeautoml_trainer.ensemble.base import Candidate, Cost, Selection
from kubeautoml_trainer.ensemble.candidates import choose_candidates, most_members
from kubeautoml_trainer.ensemble.greedy import select

__all__ = ["Candidate", "Cost", "Selection", "choose_candidates", "most_members", "select"]
