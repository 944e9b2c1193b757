"""What model families cost beside each other, before anything is known of the data at hand."""

from __future__ import annotations

from kubeautoml_trainer.models import EVERY_FAMILY, PRETRAINED_FAMILIES

UNKNOWN_FAMILY = 5.0
_COSTS = {f.name: f.relative_cost for f in (*EVERY_FAMILY, *PRETRAINED_FAMILIES)}


def relative_cost(family: str) -> float:
    """What a trial of a family costs before anything is known, in trials of LightGBM; 5 for one that is not ours."""
    return _COSTS.get(family, UNKNOWN_FAMILY)
