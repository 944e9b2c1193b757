"""The contract is light: a pod, a notebook or a CI check can import it for the price of pydantic."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ["kopf", "torch", "optuna", "kubernetes", "pandas", "numpy", "sklearn", "boto3", "sqlalchemy", "grpc", "yaml"]
MODULES = [
    "check",
    "conditions",
    "crd",
    "errors",
    "job",
    "metrics",
    "model",
    "names",
    "objects",
    "pod",
    "profile",
    "trials",
]


def test_importing_the_contract_loads_nothing_heavy() -> None:
    imports = "; ".join(f"import kubeautoml.api.{name}" for name in MODULES)
    code = f"import sys, json; {imports}; print(json.dumps(sorted(set({HEAVY}) & set(sys.modules))))"

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert json.loads(out) == []
