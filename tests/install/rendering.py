"""The chart rendered with real Helm for a matrix of values, as lists of objects."""

from __future__ import annotations

from typing import Any

import helm_python as helm
import yaml

from install.conftest import CHART, HOME, RELEASE

Manifest = dict[str, Any]

DIGEST = "sha256:" + "ab" * 32
MATRIX: dict[str, dict[str, Any]] = {
    "default": {},
    "bundled": {"database": {"type": "Bundled"}, "optunaDashboard": {"enabled": True}},
    "external": {"database": {"type": "External", "external": {"existingSecret": "pg", "key": "dsn"}}},
    "namespaced": {"watchNamespaces": ["team-a", "team-b"]},
    "own certificate": {"studyServer": {"tls": {"existingSecret": "study-tls", "caConfigMap": "study-ca"}}},
    "watched": {
        "monitoring": {
            "podMonitors": {"enabled": True, "labels": {"release": "prometheus"}},
            "rules": {"enabled": True},
            "dashboards": {"enabled": True},
        },
        "networkPolicy": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
    },
    "bare": {
        "rbac": {"create": False},
        "crds": {"upgrade": False},
        "networkPolicy": {"enabled": False},
        "defaultProfile": {"create": False},
        "database": {"sqlite": {"persistent": False}},
        "operator": {"replicas": 1},
    },
    "everything placed": {
        "commonLabels": {"team": "ml"},
        "commonAnnotations": {"owner": "ml"},
        "database": {
            "type": "Bundled",
            "bundled": {
                "storageClassName": "fast",
                "nodeSelector": {"pool": "data"},
                "tolerations": [{"key": "data", "operator": "Exists"}],
                "priorityClassName": "high",
                "existingSecret": "pg",
            },
        },
        "images": {
            "registry": "registry.example/ml",
            "tag": "1.2.3",
            "pullSecrets": ["registry"],
            "operator": {"digest": DIGEST},
            "trainer": {"registry": "other.example", "tag": "cuda"},
        },
        "operator": {
            "concurrency": 8,
            "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
            "podLabels": {"tier": "control"},
            "podAnnotations": {"note": "yes"},
            "nodeSelector": {"pool": "control"},
            "tolerations": [{"key": "control", "operator": "Exists", "effect": "NoSchedule"}],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {"matchExpressions": [{"key": "arch", "operator": "In", "values": ["amd64"]}]}
                        ]
                    }
                }
            },
            "priorityClassName": "system-cluster-critical",
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "zone",
                    "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "kubeautoml-operator"}},
                }
            ],
            "serviceAccount": {"annotations": {"eks": "role"}},
        },
        "studyServer": {"replicas": 3, "logLevel": "debug", "logFormat": "text"},
    },
}


def render(values: dict[str, Any], *, upgrade: bool = False) -> list[Manifest]:
    """All objects, hooks and tests included, without NOTES."""
    with helm.Chart.load(CHART) as chart:
        files = chart.render(values, name=RELEASE, namespace=HOME, is_install=not upgrade, is_upgrade=upgrade)
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    return [m for text in texts for m in yaml.safe_load_all(text) if m]


def find(objects: list[Manifest], kind: str, name: str) -> Manifest:
    """The object of that kind and name; there must be exactly one."""
    [found] = [m for m in objects if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def pod_templates(objects: list[Manifest]) -> dict[str, Manifest]:
    """Pods and pod templates, by kind/name of what makes them."""
    named = {f"{m['kind']}/{m['metadata']['name']}": m for m in objects}
    made = {name: m["spec"]["template"] for name, m in named.items() if "template" in m.get("spec", {})}
    return made | {name: m for name, m in named.items() if m["kind"] == "Pod"}


def is_hook(manifest: Manifest) -> bool:
    return "helm.sh/hook" in manifest["metadata"].get("annotations", {})
