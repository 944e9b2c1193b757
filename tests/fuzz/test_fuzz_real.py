"""Two hundred generated specs on a real API server with the real operator: each is refused by the server, or answered by us.

And edits: what the operator cannot accept leaves what runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from controller.life import make_churn
from fuzz.fuzz_specs import specs
from fuzz.test_fuzz_specs import complaints
from kubeautoml.api.conditions import find_condition
from kubeautoml.cluster.resources import RESOURCES
from kubeautoml.controller.observe import parse_status
from real.controlplane import ControlPlane
from real.operator_process import running_operator
from real.rest import ApiError

pytestmark = [pytest.mark.controlplane, pytest.mark.slow]

COUNT = 200
PATIENCE_SECONDS = 180.0


def generated(count: int) -> list[Any]:
    """Always the same specs, with few workers each: a Job controller would make all the pods that are asked for."""
    found: list[Any] = []

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(specs)
    def collect(spec: Any) -> None:
        spec = deepcopy(spec)
        workers = spec.get("workers") if isinstance(spec, dict) else None
        if isinstance(workers, dict) and isinstance(workers.get("parallelism"), int) and workers["parallelism"] > 2:
            workers["parallelism"] = 2
        found.append(spec)

    collect()
    return found[:count]


def test_every_generated_spec_is_refused_by_the_server_or_answered_by_the_operator(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """The operator lives, its log holds no traceback, and what it refuses it refuses in words."""
    path, log = RESOURCES["AutoMLJob"].path(namespace), tmp_path / "operator.log"
    refused, asked = 0, {}
    with running_operator(control_plane, log, "-n", namespace, lease_namespace=namespace) as operator:
        operator.wait_said("leading")
        for number, spec in enumerate(generated(COUNT)):
            name = f"job-{number}"
            manifest = {"apiVersion": "kubeautoml.dev/v1alpha1", "kind": "AutoMLJob", "metadata": {"name": name}}
            try:
                control_plane.admin.post(path, {**manifest, "spec": spec})
                asked[name] = spec
            except ApiError as error:
                assert error.status in (400, 422), error
                refused += 1

        def answers() -> dict[str, Any]:
            found = control_plane.admin.items(path)
            said = {m["metadata"]["name"]: find_condition(parse_status(m).conditions, "Accepted") for m in found}
            return {name: condition for name, condition in said.items() if condition is not None}

        wait_until(lambda: asked.keys() <= answers().keys(), log)
        said = answers()
        assert operator.process.poll() is None
        assert operator.ask("/healthz")[0] == 200
    assert "Traceback" not in log.read_text()
    assert refused > COUNT // 4 and len(asked) > COUNT // 4, (refused, len(asked))
    for name, condition in said.items():
        if condition.status == "False":
            assert complaints(condition.message, {"spec": asked[name]}) == [], condition.message
    assert {str(c.status) for c in said.values()} == {"True", "False"}


def test_an_edit_that_the_operator_refuses_leaves_what_runs(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """What an API server can take (a metric that does not fit) is told in Accepted=False, and the workers' Job stays; put right
    again, the job is accepted again."""
    path, log = RESOURCES["AutoMLJob"].path(namespace, "churn"), tmp_path / "operator.log"
    manifest = make_churn()
    manifest["metadata"] = {"name": "churn", "namespace": namespace}

    def accepted() -> str | None:
        condition = find_condition(parse_status(control_plane.admin.get(path)).conditions, "Accepted")
        return None if condition is None else str(condition.status)

    def jobs() -> list[tuple[str, dict[str, Any]]]:
        found = control_plane.admin.items(RESOURCES["Job"].path(namespace))
        return [(m["metadata"]["uid"], m["spec"]) for m in found]

    with running_operator(control_plane, log, "-n", namespace, lease_namespace=namespace) as operator:
        operator.wait_said("leading")
        control_plane.admin.post(RESOURCES["AutoMLJob"].path(namespace), manifest)
        wait_until(lambda: accepted() == "True" and len(jobs()) == 1, log)
        before = jobs()

        control_plane.admin.patch(path, {"spec": {"serving": {"gate": {"metric": "Rmse", "min": "0.5"}}}})
        wait_until(lambda: accepted() == "False", log)
        message = find_condition(parse_status(control_plane.admin.get(path)).conditions, "Accepted")
        time.sleep(1)  # a pass or two more

        assert jobs() == before
        assert message is not None and message.message.startswith("spec.serving.gate.metric must be a metric that fits")
        control_plane.admin.patch(path, {"spec": {"serving": {"gate": {"metric": "RocAuc"}}}})
        wait_until(lambda: accepted() == "True", log)
        assert jobs() == before


def wait_until(holds: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.3)
