"""What the chart renders for a matrix of values: known to Kubernetes, secure, consistent in itself, and what was asked for."""

from __future__ import annotations

from typing import Any

import helm_python as helm
import pytest

from install.conftest import CHART, HOME
from install.known_fields import problems
from install.rendering import DIGEST, MATRIX, Manifest, find, is_hook, pod_templates, render
from kubeautoml.api.profile import AutoMLProfile
from kubeautoml.api.rights import role_objects, setup_objects
from kubeautoml.controller.settings import OperatorEnv, OperatorSettings
from kubeautoml.study.server import _parser
from security.pod_security import containers_of, violations

CUSTOM = ("AutoMLProfile", "PodMonitor", "PrometheusRule")
KINDS_OF_RBAC = ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding", "ServiceAccount")


@pytest.fixture(scope="module", params=MATRIX)
def objects(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(MATRIX[request.param])


def test_kubernetes_knows_every_field(objects: list[Manifest]) -> None:
    """Names, types and required fields, by the models of the newest client."""
    found = [p for m in objects if m["kind"] not in CUSTOM for p in problems(m)]

    assert found == []


def test_a_misspelt_field_would_be_found() -> None:
    """The check itself: wrong names, types and missing fields."""
    [service] = [m for m in render({}) if m["kind"] == "Service" and m["metadata"]["name"] == "kubeautoml-study"]

    assert problems({**service, "spec": {**service["spec"], "clusterIp": "None"}}) == [
        "Service.spec: no field clusterIp"
    ]
    assert problems({**service, "spec": {"ports": [{"name": "grpc"}]}}) == ["Service.spec.ports[0]: port is missing"]
    template = {"metadata": {}, "spec": {"containers": [{"name": "a"}], "serviceAccount": "a"}}
    assert problems({"apiVersion": "v1", "kind": "PodTemplate", "template": template}) == [
        "PodTemplate.template.spec.serviceAccount: is deprecated"
    ]
    assert problems({**service, "spec": {"ports": [{"port": "1"}]}}) == [
        "Service.spec.ports[0].port: must be a int, got '1'"
    ]


def test_every_pod_passes_the_restricted_level(objects: list[Manifest]) -> None:
    """With a root that cannot be written, limits of memory, and images that name a version."""
    for name, template in pod_templates(objects).items():
        assert violations(template) == [], name
        for where, container in containers_of(template["spec"]):
            assert container["securityContext"]["readOnlyRootFilesystem"], (name, where)
            assert "memory" in container["resources"]["limits"], (name, where)
            version = container["image"].rpartition("/")[2]
            assert ("@sha256:" in version or ":" in version) and not version.endswith(":latest"), (name, where)


def test_mounts_volumes_selectors_and_accounts_fit_together(objects: list[Manifest]) -> None:
    """What a pod mounts is a volume of it; what selects pods selects some; accounts are of this release."""
    templates = pod_templates(objects)
    accounts = {m["metadata"]["name"] for m in objects if m["kind"] == "ServiceAccount"}
    for name, template in templates.items():
        volumes = {v["name"] for v in template["spec"].get("volumes", [])}
        volumes |= {"data"} if name.startswith("StatefulSet/") else set()
        for where, container in containers_of(template["spec"]):
            assert {m["name"] for m in container.get("volumeMounts", [])} <= volumes, (name, where)
        account = template["spec"].get("serviceAccountName")
        assert account in accounts or template["spec"]["automountServiceAccountToken"] is False, name
    for m in objects:
        selector = m.get("spec", {}).get("selector") or m.get("spec", {}).get("podSelector") or {}
        wanted = selector.get("matchLabels", selector if m["kind"] == "Service" else {})
        if wanted and "kubeautoml.dev/component" not in wanted:
            labels = [t["metadata"]["labels"] for t in templates.values()]
            assert any(wanted.items() <= own.items() for own in labels), (m["kind"], m["metadata"]["name"])


def test_selectors_never_change(objects: list[Manifest]) -> None:
    """Kubernetes refuses another selector of a Deployment that is there: no version, release or value is part of it."""
    for m in objects:
        if m["kind"] in ("Deployment", "StatefulSet"):
            assert m["spec"]["selector"] == {"matchLabels": {"app.kubernetes.io/name": m["metadata"]["name"]}}


def test_every_object_is_where_it_belongs_and_labelled(objects: list[Manifest]) -> None:
    """In the release's namespace, but for Roles in the namespaces that it watches."""
    for m in objects:
        labels = m["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "kubeautoml" and labels["app.kubernetes.io/managed-by"] == "Helm"
        if m["kind"].startswith("Role") and m["metadata"]["namespace"] in ("team-a", "team-b"):
            continue
        assert m["metadata"].get("namespace", HOME) == HOME


def test_the_operator_reads_every_variable_and_has_enough(objects: list[Manifest]) -> None:
    """Together with the file that its CA variable names, which the kubelet mounts."""
    [container] = find(objects, "Deployment", "kubeautoml-operator")["spec"]["template"]["spec"]["containers"]
    given = {e["name"]: e.get("value", "") for e in container["env"]}
    extra = {"HTTPS_PROXY"}

    assert set(given) - extra <= {e.value for e in OperatorEnv}
    settings = OperatorSettings.from_env(given | {"KUBEAUTOML_STUDY_CA_FILE": ""})
    assert settings.study_url_for(None) == f"grpcs://kubeautoml-study.{HOME}.svc:13000"


def test_the_study_server_understands_its_flags(objects: list[Manifest]) -> None:
    """And lets the operator's account touch every study."""
    [container] = find(objects, "Deployment", "kubeautoml-study")["spec"]["template"]["spec"]["containers"]
    verb, *flags = container["args"]

    parsed = _parser().parse_args(flags)

    assert verb == "study-server"
    assert parsed.operator_account == [f"system:serviceaccount:{HOME}:kubeautoml-operator"]
    assert bool(parsed.database_url) != bool(parsed.database_url_file)


def bare(manifest: Manifest) -> Manifest:
    """Without labels and annotations, which Helm adds to."""
    metadata = {k: v for k, v in manifest["metadata"].items() if k in ("name", "namespace")}
    return {**manifest, "metadata": metadata}


@pytest.mark.parametrize("namespaces", [(), ("team-a", "team-b")])
def test_rights_are_those_of_kubeautoml_rbac(namespaces: tuple[str, ...]) -> None:
    """Accounts, roles and bindings are equal, object by object: the chart grants nothing more and nothing less."""
    rendered = [m for m in render({"watchNamespaces": list(namespaces)}) if m["kind"] in KINDS_OF_RBAC]

    def by_name(objects: list[Manifest]) -> dict[tuple[str, str, str], Manifest]:
        return {(m["kind"], m["metadata"].get("namespace", ""), m["metadata"]["name"]): bare(m) for m in objects}

    kept = by_name([m for m in rendered if not is_hook(m)])
    assert kept == by_name(role_objects(HOME, namespaces))
    assert by_name([m for m in rendered if is_hook(m)]) == by_name(setup_objects(HOME))


def test_users_roles_join_the_built_in_ones() -> None:
    """By the labels that `kubeautoml rbac` sets, too."""
    objects = render({})
    for m in role_objects(HOME):
        if m["metadata"]["name"] in ("kubeautoml-view", "kubeautoml-edit"):
            labels = find(objects, "ClusterRole", m["metadata"]["name"])["metadata"]["labels"]
            assert m["metadata"]["labels"].items() <= labels.items() | {("app.kubernetes.io/name", "kubeautoml")}


def test_without_rbac_no_role_is_made() -> None:
    """But the hooks', which go with them: the platform team applies the rest."""
    assert {m["metadata"]["name"] for m in render(MATRIX["bare"]) if m["kind"] in ("Role", "ClusterRole")} == {
        "kubeautoml-certificate"
    }


def test_the_default_profile_is_one_and_allows_the_readmes_manifest() -> None:
    [profile] = [m for m in render({}) if m["kind"] == "AutoMLProfile"]

    read = AutoMLProfile.model_validate(profile)

    assert read.metadata.name == "default"
    assert (read.spec.limits.max_parallelism, read.spec.limits.max_trials) == (16, 2000)


def test_two_operators_are_spread_and_one_may_go() -> None:
    objects = render({})
    operator = find(objects, "Deployment", "kubeautoml-operator")["spec"]

    assert operator["replicas"] == 2
    [spread] = operator["template"]["spec"]["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["maxSkew"]) == ("kubernetes.io/hostname", 1)
    assert find(objects, "PodDisruptionBudget", "kubeautoml-operator")["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize(
    ("database", "replicas", "strategy"),
    [({"type": "SQLite"}, 1, "Recreate"), ({"type": "Bundled"}, 2, None), ({"type": "External"}, 2, None)],
)
def test_study_servers_share_postgresql_and_nothing_else(
    database: dict[str, str], replicas: int, strategy: str | None
) -> None:
    """One process has the SQLite file; two stand before PostgreSQL."""
    spec = find(render({"database": database}), "Deployment", "kubeautoml-study")["spec"]

    assert (spec["replicas"], spec.get("strategy", {}).get("type")) == (replicas, strategy)


def test_the_claim_and_the_password_outlive_the_release() -> None:
    """Trials are in one, and the other opens them."""
    claim = find(render({}), "PersistentVolumeClaim", "kubeautoml-study")
    secret = find(render(MATRIX["bundled"]), "Secret", "kubeautoml-database")

    for m in (claim, secret):
        assert m["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert set(secret["data"]) == {"password", "url"}


def test_images_come_from_where_the_values_say() -> None:
    """A digest wins over a tag, an image's own registry and tag over those of all."""
    objects = render(MATRIX["everything placed"])
    [container] = find(objects, "Deployment", "kubeautoml-operator")["spec"]["template"]["spec"]["containers"]
    env = {e["name"]: e.get("value") for e in container["env"]}

    assert container["image"] == f"registry.example/ml/kubeautoml-operator@{DIGEST}"
    assert env["KUBEAUTOML_TRAINER_IMAGE"] == "other.example/kubeautoml-trainer:cuda"
    assert env["KUBEAUTOML_SERVER_IMAGE"] == "registry.example/ml/kubeautoml-server:1.2.3"
    pods = pod_templates(objects).values()
    assert all(p["spec"]["imagePullSecrets"] == [{"name": "registry"}] for p in pods)


def test_common_labels_and_annotations_are_on_everything() -> None:
    """Objects and pods, hooks as well."""
    objects = render(MATRIX["everything placed"])

    for metadata in [m["metadata"] for m in objects] + [t["metadata"] for t in pod_templates(objects).values()]:
        assert metadata["labels"]["team"] == "ml" and metadata["annotations"]["owner"] == "ml"


def test_who_may_reach_whom() -> None:
    """The database only the study server and its dashboard; the study server only jobs and the operator; metrics whom one says."""
    objects = render({**MATRIX["bundled"], **MATRIX["watched"]})
    policies = {m["metadata"]["name"]: m["spec"] for m in objects if m["kind"] == "NetworkPolicy"}

    assert policies["kubeautoml-optuna-dashboard"].get("ingress", []) == []
    [database] = policies["kubeautoml-database"]["ingress"]
    assert database["from"][0]["podSelector"]["matchExpressions"][0]["values"] == [
        "kubeautoml-study",
        "kubeautoml-optuna-dashboard",
    ]
    assert (
        "egress" not in policies["kubeautoml-database"] and "Egress" in policies["kubeautoml-database"]["policyTypes"]
    )
    grpc, metrics = policies["kubeautoml-study"]["ingress"]
    assert [peer.get("namespaceSelector") for peer in grpc["from"]] == [None, {}]
    assert metrics["from"] == MATRIX["watched"]["networkPolicy"]["metricsFrom"]


def test_in_namespaced_mode_only_their_pods_reach_the_studies() -> None:
    policies = {m["metadata"]["name"]: m["spec"] for m in render(MATRIX["namespaced"]) if m["kind"] == "NetworkPolicy"}

    [_, jobs] = policies["kubeautoml-study"]["ingress"][0]["from"]
    assert jobs["namespaceSelector"]["matchExpressions"][0]["values"] == ["team-a", "team-b"]


def test_monitoring_is_made_of_the_files_that_are_tested() -> None:
    """Alerts and dashboards are the chart's files, unchanged by templating."""
    import json

    import yaml

    objects = render(MATRIX["watched"])

    rules = yaml.safe_load((CHART / "rules" / "kubeautoml.rules.yaml").read_text())
    assert find(objects, "PrometheusRule", "kubeautoml")["spec"]["groups"] == rules["groups"]
    dashboards = find(objects, "ConfigMap", "kubeautoml-dashboards")
    files = {path.name: json.loads(path.read_text()) for path in (CHART / "dashboards").glob("*.json")}
    assert {name: json.loads(text) for name, text in dashboards["data"].items()} == files
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    monitors = {m["metadata"]["name"] for m in objects if m["kind"] == "PodMonitor"}
    assert monitors == {"kubeautoml-operator", "kubeautoml-study", "kubeautoml-model-servers"}


def test_monitoring_is_left_out_where_the_cluster_does_not_know_it() -> None:
    assert not [m for m in render({}) if m["apiVersion"].startswith("monitoring.coreos.com")]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"operater": {}}, "additional properties 'operater' not allowed"),
        ({"operator": {"replica": 3}}, "at '/operator': additional properties 'replica' not allowed"),
        ({"operator": {"replicas": "two"}}, "at '/operator/replicas': got string, want integer"),
        ({"database": {"type": "MySQL"}}, "at '/database/type': value must be one of 'SQLite', 'Bundled', 'External'"),
        (
            {"defaultProfile": {"spec": {"limits": {"maxTrails": 3}}}},
            "at '/defaultProfile/spec/limits': additional properties 'maxTrails' not allowed",
        ),
        ({"images": {"operator": {"digest": "abc"}}}, "at '/images/operator/digest': 'abc' does not match pattern"),
        ({"watchNamespaces": ["Team_A"]}, "at '/watchNamespaces/0': 'Team_A' does not match pattern"),
        ({"operator": {"extraEnv": [{"value": "x"}]}}, "at '/operator/extraEnv/0': missing property 'name'"),
        (
            {"optunaDashboard": {"enabled": True}},
            "optunaDashboard.enabled needs a database that two servers can read: set database.type to Bundled or External, got SQLite",
        ),
    ],
)
def test_a_wrong_value_is_refused_by_name(values: dict[str, Any], said: str) -> None:
    """Before anything is sent to a cluster."""
    with pytest.raises(helm.HelmError) as error:
        render(values)

    assert said in str(error.value)


def test_every_value_is_explained_and_every_default_is_valid() -> None:
    """The schema has exactly the keys that values.yaml has, two levels deep, and values.yaml says something of each part."""
    with helm.Chart.load(CHART) as chart:
        schema, values = chart.schema, chart.values
        chart.validate_schema({})

    assert schema is not None
    own = {k: v for k, v in schema["properties"].items() if k != "global"}
    assert set(own) == set(values)
    for name, part in own.items():
        if "properties" in part:
            assert set(part["properties"]) == set(values[name]), name
