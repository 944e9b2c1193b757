"""What operator, study server and users may do: printed for kubectl, and no more than is needed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from kubeautoml.api import rights
from kubeautoml.api.errors import UsageError
from kubeautoml.cli.rbac import main
from real.controlplane import ControlPlane


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict[str, Any]]:
    """What the command prints."""
    assert main(list(argv)) == 0
    return list(yaml.safe_load_all(capsys.readouterr().out))


def every_rule(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rule for m in objects for rule in m.get("rules", ())]


@pytest.mark.parametrize("argv", [[], ["-n", "team-a", "-n", "team-b"]])
def test_nothing_is_allowed_on_secrets_or_by_wildcard(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    """Jobs name secrets and the kubelet mounts them; neither the operator nor the study server ever reads one."""
    for rule in every_rule(printed(capsys, *argv)):
        named = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
        assert not named & {"*", "secrets", "pods/exec", "nodes", "escalate", "bind", "impersonate"}


def test_the_jobs_of_an_install_can_read_no_secret_but_the_one_they_make() -> None:
    """Create, which cannot be given by name, and get and patch of one name; nobody may list them. The other Job has three CRDs."""
    objects = rights.setup_objects("automl")

    given = [(r["resources"], r["verbs"], r.get("resourceNames")) for r in every_rule(objects)]
    assert given == [
        (["secrets"], ["create"], None),
        (["secrets"], ["get", "patch"], ["kubeautoml-study-tls"]),
        (["customresourcedefinitions"], ["create"], None),
        (["customresourcedefinitions"], ["get", "patch"], list(rights.DEFINITIONS)),
    ]
    kinds = {(m["kind"], m["metadata"].get("namespace")) for m in objects if "ertificate" in m["metadata"]["name"]}
    assert kinds == {("ServiceAccount", "automl"), ("Role", "automl"), ("RoleBinding", "automl")}


def test_in_namespaced_mode_the_operator_has_roles_only(capsys: pytest.CaptureFixture[str]) -> None:
    """No right reaches beyond the namespaces given; only the study server may ask whose token it is, and the operator may look at
    our own definitions, which have no namespace."""
    objects = printed(capsys, "-n", "team-a", "-n", "team-b", "--operator-namespace", "automl")

    wide = [m for m in objects if m["kind"].startswith("ClusterRole")]
    assert {m["metadata"]["name"] for m in wide} == {"kubeautoml-study-server-tokens", "kubeautoml-operator-crds"}
    roles = {(m["metadata"]["namespace"], m["metadata"]["name"]) for m in objects if m["kind"] == "Role"}
    assert roles == {
        ("automl", "kubeautoml-operator-lease"),
        ("team-a", "kubeautoml-operator"),
        ("team-a", "kubeautoml-study-server"),
        ("team-b", "kubeautoml-operator"),
        ("team-b", "kubeautoml-study-server"),
    }
    subjects = {(s["name"], s["namespace"]) for m in objects for s in m.get("subjects", ())}
    assert subjects == {("kubeautoml-operator", "automl"), ("kubeautoml-study-server", "automl")}


def test_what_is_no_namespace_is_refused() -> None:
    """With the option, the rule and the value."""
    with pytest.raises(UsageError, match="--namespace must be the name of a namespace, such as team-a, got 'Team_A'"):
        main(["-n", "Team_A"])


@pytest.mark.controlplane
@pytest.mark.parametrize("argv", [[], ["-n", "rights-team"]])
def test_kubectl_takes_what_is_printed(
    control_plane: ControlPlane, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    """As the README says: kubeautoml rbac | kubectl apply -f -"""
    control_plane.create_namespace("rights-operator")
    control_plane.create_namespace("rights-team")
    main([*argv, "--operator-namespace", "rights-operator"])
    text = capsys.readouterr().out
    if not argv:
        # the cluster-wide roles are those that the other tests' operators work with
        text = text.replace("name: kubeautoml-", "name: rights-test-")

    command = ["kubectl", "--kubeconfig", str(control_plane.kubeconfig), "apply", "-f", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("created") + done.stdout.count("configured") == text.count("\nkind:")


def can(plane: ControlPlane, account: tuple[str, str], verb: str, group: str, resource: str, namespace: str) -> bool:
    """What the API server says to a question about an account."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{account[0]}:{account[1]}",
            "resourceAttributes": {"verb": verb, "group": group, "resource": resource, "namespace": namespace},
        },
    }
    answer = plane.admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


@pytest.mark.controlplane
def test_the_server_allows_the_operator_what_it_needs_and_no_secrets(control_plane: ControlPlane) -> None:
    """Asked of RBAC itself, not of our own reading of the rules."""
    operator = (rights.OPERATOR_NAMESPACE, rights.OPERATOR_ACCOUNT)

    for right in (*rights.OPERATOR, *rights.OPERATOR_CLUSTER):
        for resource in right.resources:
            for verb in right.verbs:
                assert can(control_plane, operator, verb, right.group, resource, "team-x"), (verb, resource)
    for verb in ("get", "list", "watch", "create", "update", "patch", "delete"):
        assert not can(control_plane, operator, verb, "", "secrets", "team-x")
        assert not can(control_plane, operator, verb, "", "secrets", rights.OPERATOR_NAMESPACE)
    assert not can(control_plane, operator, "update", "kubeautoml.dev", "automljobs", "team-x")
    assert not can(control_plane, operator, "create", "", "pods", "team-x")


@pytest.mark.controlplane
def test_who_may_edit_a_namespace_may_have_jobs_in_it(control_plane: ControlPlane) -> None:
    """Our kinds join the built-in roles; profiles stay the platform team's, and a status is nobody's but the operator's."""
    control_plane.create_namespace("rights-users")
    bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/rights-users/rolebindings"
    for name in ("view", "edit"):
        control_plane.admin.ensure(
            bindings,
            {
                "metadata": {"name": name},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": f"{name}er", "namespace": "rights-users"}],
            },
        )
    viewer, editor, kind = ("rights-users", "viewer"), ("rights-users", "editer"), "automljobs"

    def allowed(account: tuple[str, str], verb: str, resource: str = kind) -> bool:
        return can(control_plane, account, verb, "kubeautoml.dev", resource, "rights-users")

    wait_until(lambda: allowed(editor, "create"))
    assert [allowed(viewer, v) for v in ("get", "watch", "create", "patch")] == [True, True, False, False]
    assert [allowed(editor, v) for v in ("get", "create", "patch", "delete")] == [True, True, True, True]
    assert not allowed(editor, "create", "automlprofiles")
    assert not allowed(editor, "patch", "automljobs/status")


def wait_until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Aggregation happens in the controller manager, a moment later."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
