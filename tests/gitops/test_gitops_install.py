"""The chart by Argo CD and by Flux: the values that they give it are ones that it takes, and what they do themselves is switched off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from docs.manifest_rules import trouble

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "kubeautoml"
GITOPS = ROOT / "docs" / "gitops"


def application() -> dict[str, Any]:
    return dict(yaml.safe_load((GITOPS / "argocd" / "application.yaml").read_text()))


def flux() -> tuple[dict[str, Any], dict[str, Any]]:
    source, release = yaml.safe_load_all((GITOPS / "flux" / "helm-release.yaml").read_text())
    return source, release


@pytest.mark.parametrize("document", [application(), *flux()], ids=lambda d: d["kind"])
def test_its_fields_are_known(document: dict[str, Any]) -> None:
    assert trouble(document) is None


@pytest.mark.parametrize(
    "values",
    [application()["spec"]["source"]["helm"]["valuesObject"], flux()[1]["spec"]["values"]],
    ids=["argocd", "flux"],
)
def test_the_chart_takes_the_values_and_renders_the_same_every_time(values: dict[str, Any]) -> None:
    """No generated password and no Job for the CRDs, since both tools render the chart again and again."""
    with helm.Chart.load(CHART) as chart:
        first, second = (chart.render(values, name="kubeautoml", namespace="kubeautoml-system") for _ in range(2))

    assert first == second
    kinds = [m["kind"] for text in first.values() for m in _objects(text)]
    assert "Secret" not in kinds
    names = [m["metadata"]["name"] for text in first.values() for m in _objects(text)]
    assert "kubeautoml-crds" not in names


def _objects(text: str) -> list[dict[str, Any]]:
    if not text.lstrip().startswith(("apiVersion", "---", "#")):
        return []
    return [m for m in yaml.safe_load_all(text) if isinstance(m, dict) and "kind" in m]


def test_versions_and_places_agree() -> None:
    """Both name the chart's own version, where it is published, and the namespace that the docs know."""
    with helm.Chart.load(CHART) as chart:
        version = chart.version
    source, release = flux()

    assert application()["spec"]["source"]["targetRevision"] == source["spec"]["ref"]["tag"] == version
    own = application()["spec"]["source"]
    assert source["spec"]["url"] == f"oci://{own['repoURL']}/{own['chart']}"
    assert (
        application()["spec"]["destination"]["namespace"] == release["spec"]["targetNamespace"] == "kubeautoml-system"
    )


def test_kueues_queue_admits_the_job_beside_it() -> None:
    """The label names the LocalQueue of the job's namespace, and its fewest workers fit into the quota."""
    flavor, cluster_queue, local_queue = yaml.safe_load_all((ROOT / "examples" / "kueue" / "queues.yaml").read_text())
    job = yaml.safe_load((ROOT / "examples" / "kueue" / "job.yaml").read_text())

    assert [trouble(d) for d in (flavor, cluster_queue, local_queue, job)] == [None] * 4
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local_queue["metadata"]["name"]
    assert job["metadata"]["namespace"] == local_queue["metadata"]["namespace"]
    assert local_queue["spec"]["clusterQueue"] == cluster_queue["metadata"]["name"]
    [group] = cluster_queue["spec"]["resourceGroups"]
    [quota] = group["flavors"]
    assert quota["name"] == flavor["metadata"]["name"]
    assert [r["name"] for r in quota["resources"]] == group["coveredResources"]
    cpus = job["spec"]["workers"]["minParallelism"] * int(job["spec"]["workers"]["resources"]["requests"]["cpu"])
    assert cpus <= quota["resources"][0]["nominalQuota"]
