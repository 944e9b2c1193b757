"""What model families cost beside each other, before anything is known of the data at hand."""

from __future__ import annotations

from kubeautoml_trainer.models import EVERY_FAMILY, PRETRAINED_FAMILIES, own_families

UNKNOWN_FAMILY = 5.0
_KNOWN = {f.name: f for f in (*EVERY_FAMILY, *PRETRAINED_FAMILIES)}


def relative_cost(family: str, *, accelerated: bool = False) -> float:
    """What a trial of a family costs before anything is known, in trials of LightGBM; 5 for one that nobody here knows.

    accelerated: whether networks are trained on an accelerator, which makes some families cheaper.
    """
    found = _KNOWN.get(family) or next((f for f in own_families() if f.name == family), None)
    if found is None:
        return UNKNOWN_FAMILY
    return getattr(found, "accelerated_cost", found.relative_cost) if accelerated else found.relative_cost
