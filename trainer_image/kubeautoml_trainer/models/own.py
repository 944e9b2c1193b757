"""Model families of other packages: each names its family in the entry point group `kubeautoml.families`, and is found by being
installed, in the trainer's image as in the server's. trainer_image/README.md shows one whole.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from importlib.metadata import EntryPoint

from kubeautoml.api.errors import UsageError
from kubeautoml_trainer.models.base import Family

GROUP = "kubeautoml.families"
MEMBERS = ("name", "interpretable", "relative_cost", "fits", "space", "portfolio", "fit", "load")
"""What every family has."""


def families_of(points: Iterable[EntryPoint], taken: Collection[str] = ()) -> tuple[Family, ...]:
    """The families that these entry points name, in the order of the entry points' names.

    Args:
        taken: names that are kubeautoml's own.

    Raises:
        UsageError: one cannot be imported, is no family, or has a name that another one has; says which package's.
    """
    found: dict[str, Family] = {}
    for point in sorted(points, key=lambda p: p.name):
        family = _loaded(point)
        if family.name in taken or family.name in found:
            whose = "kubeautoml's own" if family.name in taken else "another package's"
            raise UsageError(f"{_where(point)}: {family.name} is the name of one of {whose} families; rename it")
        found[family.name] = family
    return tuple(found.values())


def _loaded(point: EntryPoint) -> Family:
    where = _where(point)
    try:
        loaded = point.load()
        family = loaded() if isinstance(loaded, type) else loaded
    except Exception as error:  # a package that is not ours may fail in any way
        raise UsageError(f"{where} cannot be loaded: {error}; mend the package or uninstall it") from error
    missing = [member for member in MEMBERS if not hasattr(family, member)]
    if missing:
        raise UsageError(
            f"{where} must be a model family (kubeautoml_trainer.models.base.Family), but has no {', '.join(missing)}"
        )
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", str(family.name)):
        raise UsageError(f"{where}: a family's name must be CamelCase, such as PowerForest, got {family.name!r}")
    own: Family = family
    return own


def _where(point: EntryPoint) -> str:
    return f"entry point {point.name} = {point.value} of {point.dist.name if point.dist else 'a package'} ({GROUP})"
