"""Which definition in a cluster is good enough for which version."""

from __future__ import annotations

from typing import Any

import pytest

from kubeautoml.api import definitions
from kubeautoml.api.crd import make_crds
from kubeautoml.api.definitions import ANNOTATION_SCHEMA, ANNOTATION_VERSION, Standing, complaint, standing
from kubeautoml.api.rights import DEFINITIONS

OURS = make_crds()[0]
SERVED = {"conditions": [{"type": "Established", "status": "True"}]}


def found(version: str | None, schema: str | None, status: dict[str, Any] | None = None) -> dict[str, Any]:
    marks = {ANNOTATION_VERSION: version, ANNOTATION_SCHEMA: schema}
    annotations = {name: value for name, value in marks.items() if value is not None}
    return {"metadata": {"name": OURS["metadata"]["name"], "annotations": annotations}, "status": status or SERVED}


def own_schema() -> str:
    return str(OURS["metadata"]["annotations"][ANNOTATION_SCHEMA])


@pytest.mark.parametrize(
    ("own", "seen", "expected"),
    [
        ("0.2.0", "0.1.0", Standing.OLDER),
        ("0.2.0", "0.2.0", Standing.OLDER),
        ("0.2.0", None, Standing.OLDER),
        ("0.2.0", "nonsense", Standing.OLDER),
        ("0.2.0", "0.3.0", Standing.NEWER),
        ("0.9.0", "0.10.0", Standing.NEWER),
        ("0.2.0", "0.2.0rc1", Standing.OLDER),
        ("0.2.0rc1", "0.2.0", Standing.NEWER),
        ("1.0", "1.0.1", Standing.NEWER),
    ],
)
def test_another_schema_is_judged_by_its_version(own: str, seen: str | None, expected: Standing) -> None:
    """Of the same version but with another schema it is a build of another day: it must be brought up to date, too."""
    marks = {ANNOTATION_VERSION: own, ANNOTATION_SCHEMA: own_schema()}
    ours = {**OURS, "metadata": {**OURS["metadata"], "annotations": marks}}

    assert standing(ours, found(seen, "another")) is expected


def test_the_same_schema_serves_whatever_made_it() -> None:
    """A release that changes no field asks nobody to apply anything."""
    assert standing(OURS, found("0.0.1", own_schema())) is Standing.SAME
    assert standing(OURS, found("9.9.9", own_schema())) is Standing.SAME
    assert complaint(OURS, found("9.9.9", own_schema())) is None
    assert complaint(OURS, found("9.9.9", "another")) is None


def test_what_is_wrong_is_said_with_what_to_do() -> None:
    """Missing, older, or not served: name, versions, command."""
    name, version = OURS["metadata"]["name"], definitions.__version__
    mend = f"run `kubeautoml crds --apply` (its image does, too), or `kubectl apply --server-side --force-conflicts -f crds/` of version {version}"

    assert complaint(OURS, None) == f"CustomResourceDefinition {name} is missing; {mend}"
    assert complaint(OURS, found("0.0.9", "another")) == (
        f"CustomResourceDefinition {name} is older than this operator: it is of version 0.0.9 and must be of {version}; {mend}"
    )
    assert complaint(OURS, found(version, own_schema(), {"conditions": []})) == (
        f"CustomResourceDefinition {name} is not served yet; see its conditions: kubectl describe crd {name}"
    )


def test_the_rights_name_every_definition() -> None:
    assert set(DEFINITIONS) == {crd["metadata"]["name"] for crd in make_crds()}
