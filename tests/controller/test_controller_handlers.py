"""What wakes whom, and that kopf is set up to write nothing."""

from __future__ import annotations

from typing import Any

import kopf

from kubeautoml.api.names import Component, labels
from kubeautoml.api.objects import Ref
from kubeautoml.controller.handlers import CHILD_RESOURCES, Wakes, make_registry, make_settings

CHURN = Ref("AutoMLJob", "team-a", "churn")


def make_object(name: str, uid: str = "u1", generation: int = 1, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "team-a", "uid": uid, "generation": generation, **metadata},
        "status": {"observedGeneration": generation},
    }


def make_wakes() -> tuple[Wakes, list[Ref]]:
    woken: list[Ref] = []
    return Wakes(woken.append), woken


def test_a_change_of_the_spec_wakes_and_a_change_of_the_status_does_not() -> None:
    """The operator's own status writes never wake it, or it would never rest."""
    wakes, woken = make_wakes()

    wakes.job(None, make_object("churn"))
    wakes.job("MODIFIED", make_object("churn"))
    assert woken == [CHURN]
    wakes.job("MODIFIED", make_object("churn", generation=2))
    wakes.job("MODIFIED", make_object("churn", generation=2, deletionTimestamp="2026-01-01T12:00:00Z"))
    wakes.job("DELETED", make_object("churn", generation=2))

    assert woken == [CHURN] * 4


def test_a_job_made_again_under_the_same_name_wakes() -> None:
    """The uid tells incarnations apart, although both have generation 1."""
    wakes, woken = make_wakes()
    wakes.job("ADDED", make_object("churn", uid="u1"))

    wakes.job("ADDED", make_object("churn", uid="u2"))

    assert woken == [CHURN, CHURN]


def test_a_child_wakes_its_job() -> None:
    """By the uid in its labels, also when the job's name is too long for a label."""
    wakes, woken = make_wakes()
    name = "a" * 200
    wakes.job("ADDED", make_object(name, uid="long"))

    wakes.child(make_object("pod", uid="p1", labels=labels(name, "long", Component.WORKER)))

    assert woken == [Ref("AutoMLJob", "team-a", name)] * 2


def test_a_child_seen_before_its_job_wakes_it_by_name() -> None:
    """After a start the lists of kinds come in any order."""
    wakes, woken = make_wakes()

    wakes.child(make_object("pod", uid="p1", labels=labels("churn", "u1", Component.WORKER)))
    wakes.child(make_object("stranger", uid="p2"))

    assert woken == [CHURN]


def test_a_profile_wakes_every_job() -> None:
    """Any job may use it."""
    wakes, woken = make_wakes()
    wakes.job("ADDED", make_object("churn", uid="u1"))
    wakes.job("ADDED", make_object("price", uid="u2"))
    woken.clear()

    wakes.profile()

    assert woken == [CHURN, Ref("AutoMLJob", "team-a", "price")]


def test_there_are_only_event_handlers() -> None:
    """Change handlers and daemons would make kopf write annotations and finalizers into users' objects."""
    registry = make_registry(make_wakes()[0])

    assert len(registry._watching.get_all_handlers()) == 5
    assert not registry._changing.get_all_handlers()
    assert not registry._spawning.get_all_handlers()
    assert not registry._indexing.get_all_handlers()
    assert not registry._webhooks.get_all_handlers()


def test_children_are_selected_by_the_server() -> None:
    """Watching every pod of a cluster would cost its memory; the label selector is sent along."""
    settings = make_settings()

    selectors = {s.plural or s.any_name: label for s, label in settings.watching.label_selectors.items()}
    assert set(selectors) == {plural for _, _, plural in CHILD_RESOURCES}
    assert set(selectors.values()) == {"kubeautoml.dev/job-uid"}
    assert isinstance(settings, kopf.OperatorSettings)
    assert settings.peering.standalone and settings.scanning.disabled and not settings.posting.enabled
