"""Files that follow from others are as their sources say."""

from __future__ import annotations

import subprocess
import sys

import helm_python as helm

from install.conftest import CHART, ROOT


def test_generated_files_are_up_to_date() -> None:
    """CRDs, the chart's rights: what `make generated` would write is what is there."""
    command = [sys.executable, str(ROOT / "scripts" / "generate"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_helm_lint_finds_nothing() -> None:
    """But that there is no icon."""
    report = helm.lint(CHART, {}, strict=True, namespace="kubeautoml-system", kube_version="v1.29.0")

    assert report["errors"] == []
    assert [m["error"] for m in report["messages"]] == ["icon is recommended"]
