"""What model families cost beside each other, before anything is known of the data at hand."""

from __future__ import annotations

from kubeautoml_trainer.models import EVERY_FAMILY, PRETRAINED_FAMILIES, own_families

UNKNOWN_FAMILY = 5.0
_COSTS = {f.name: f.relative_cost for f in (*EVERY_FAMILY, *PRETRAINED_FAMILIES)}


def relative_cost(family: str) -> float:
    """What a trial of a family costs before anything is known, in trials of LightGBM; 5 for one that nobody here knows."""
    if family in _COSTS:
        return _COSTS[family]
    return next((f.relative_cost for f in own_families() if f.name == family), UNKNOWN_FAMILY)
