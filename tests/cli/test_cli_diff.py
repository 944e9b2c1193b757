"""`kubectl automl diff` on a real API server: what would change, what would be refused, and that nothing is stored."""

from __future__ import annotations

import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.clusters import Cluster, finished
from factories import as_written
from kubeautoml.cli.diff import immutable_changes, merge_patch_of
from real.controlplane import ControlPlane

pytestmark = pytest.mark.controlplane

MANIFEST = as_written(budget={"maxTrials": 500, "maxDurationSeconds": 3600})


class Applied:
    """A manifest in a file, applied as people do."""

    def __init__(self, cluster: Cluster, plane: ControlPlane, file: Path) -> None:
        self.cluster, self.file = cluster, file
        self._kubectl = ["kubectl", "--kubeconfig", str(plane.kubeconfig), "-n", cluster.namespace]
        self.manifest = deepcopy(MANIFEST)

    def write(self, **spec: Any) -> None:
        """The file with other fields of the spec; None takes one out."""
        self.manifest["spec"] = {k: v for k, v in {**self.manifest["spec"], **spec}.items() if v is not None}
        self.file.write_text(yaml.safe_dump(self.manifest))

    def kubectl(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*self._kubectl, *words, "-f", str(self.file)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def apply(self, *flags: str) -> None:
        self.write()
        done = self.kubectl("apply", *flags)
        assert done.returncode == 0, done.stderr

    def diff(self, *flags: str) -> tuple[int, list[str], str]:
        """Exit code, changed lines, stderr."""
        code, out, err = self.cluster.call("diff", "-f", str(self.file), *flags)
        lines = [line for line in out.splitlines() if line[0] in "+-" and line[:3] not in ("+++", "---")]
        return code, [f"{line[0]}{line[1:].strip()}" for line in lines], err


@pytest.fixture
def applied(cluster: Cluster, control_plane: ControlPlane, tmp_path: Path) -> Applied:
    return Applied(cluster, control_plane, tmp_path / "job.yaml")


@pytest.mark.parametrize("how", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_edits_are_shown_as_applying_them_would_make_them(applied: Applied, how: tuple[str, ...]):
    """Changed, added and removed fields, in whichever way the object was applied; nothing is stored by looking."""
    applied.apply(*how)
    assert applied.diff() == (0, [], "")
    before = applied.cluster.job("churn")

    applied.write(budget={"maxTrials": 50}, workers={"parallelism": 2})
    code, lines, err = applied.diff()

    assert (code, err) == (1, "")
    assert lines == ["-maxDurationSeconds: 3600", "-maxTrials: 500", "+maxTrials: 50", "+workers:", "+parallelism: 2"]
    assert applied.cluster.job("churn") == before
    applied.apply(*how)
    assert applied.diff() == (0, [], "")
    after = applied.cluster.job("churn")["spec"]
    assert after["budget"] == {"maxTrials": 50, "maxFailedTrials": 10}


def test_it_says_what_kubectl_diff_says(applied: Applied):
    """The same lines of the spec as the tool itself, whose diff has the server's own fields, too."""
    applied.apply()
    applied.write(budget={"maxTrials": 7}, suspend=True)

    theirs = applied.kubectl("diff")

    assert theirs.returncode == 1
    changed = {f"{line[0]}{line[1:].strip()}" for line in theirs.stdout.splitlines() if line[0] in "+-"}
    assert set(applied.diff()[1]) <= changed


def test_a_new_object_is_all_new(applied: Applied):
    """With the server's defaults."""
    applied.write()

    code, lines, _ = applied.diff()

    assert code == 1
    assert {line[0] for line in lines} == {"+"}
    assert "+preset: Balanced" in lines
    assert applied.cluster.out("list", "-o", "name") == ""


def test_immutable_fields_are_named_with_what_to_do(applied: Applied):
    """Also where the server is too old to refuse them; exit 2, as kubectl diff has it for what is refused."""
    applied.apply()
    applied.write(task={"type": "TabularClassification", "target": "gone"}, output={"uri": "s3://other"})

    code, lines, err = applied.diff()

    assert code == 2
    assert {"-target: churned", "+target: gone", "+uri: s3://other"} <= set(lines)
    ns = applied.cluster.namespace
    assert err == (
        f"error: AutoMLJob {ns}/churn: spec.task and spec.output cannot change after creation, so applying this would be refused; "
        "apply it under another metadata.name (spec.search.warmStartFrom: [{name: churn}] begins with the best trials of this "
        f"one), or delete the job first: kubectl delete automljob churn -n {ns}\n"
    )


def test_of_a_job_that_has_ended_it_says_what_has_no_effect(applied: Applied, tmp_path: Path):
    """An endpoint may be changed at any time; a budget is used up."""
    applied.apply()
    path = f"/apis/kubeautoml.dev/v1alpha1/namespaces/{applied.cluster.namespace}/automljobs/churn"
    applied.cluster.admin.patch(f"{path}/status", {"status": finished(tmp_path)})

    applied.write(serving={"replicas": 2})
    assert applied.diff()[2] == ""
    applied.write(budget={"maxTrials": 900})
    code, _, err = applied.diff()

    assert (code, err) == (1, "note: AutoMLJob 'churn' has ended: a change of spec.budget has no effect on it\n")


def test_profiles_are_compared_and_foreign_kinds_left_out(cluster: Cluster, tmp_path: Path):
    """A file often holds more than one thing."""
    profile = {
        "apiVersion": "kubeautoml.dev/v1alpha1",
        "kind": "AutoMLProfile",
        "metadata": {"name": "diffed"},
        "spec": {},
    }
    file = tmp_path / "many.yaml"
    file.write_text(yaml.safe_dump_all([profile, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}]))

    code, out, err = cluster.call("diff", "-f", str(file))

    assert code == 1
    assert out.splitlines()[1] == "+++ merged/kubeautoml.dev.v1alpha1.AutoMLProfile.diffed"
    assert err == "note: Secret left out; see kubectl diff for them\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: Secret\nmetadata: {name: x}\n", "holds no AutoMLJob, AutoMLModel or AutoMLProfile"),
        ("kind: AutoMLJob\napiVersion: kubeautoml.dev/v1alpha1\n", "AutoMLJob must have a metadata.name"),
        ("a: [", "is not YAML at line 1, column 5"),
        (yaml.safe_dump({**MANIFEST, "spec": {**MANIFEST["spec"], "budgets": 3}}), "spec.budgets"),
        (
            yaml.safe_dump({**MANIFEST, "metadata": {"name": "x", "namespace": "elsewhere"}}),
            "says metadata.namespace: elsewhere",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_exit_2(cluster: Cluster, tmp_path: Path, text: str, said: str):
    """More than 1, which means that there are differences."""
    file = tmp_path / "bad.yaml"
    file.write_text(text)

    code, out, err = cluster.call("diff", "-f", str(file))

    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_no_file_and_no_cluster_are_exit_2(cluster: Cluster, applied: Applied, tmp_path: Path):
    """As every failure of kubectl diff is more than 1."""
    assert cluster.call("diff", "-f", str(tmp_path / "gone.yaml"))[0] == 2
    applied.write()
    cluster.flags = ["--kubeconfig", str(tmp_path / "no-kubeconfig")]
    assert cluster.call("diff", "-f", str(applied.file))[0] == 2


def test_what_was_taken_out_is_null_in_the_patch():
    """Of the last manifest, at any depth; what others have set is not touched."""
    last = {"a": {"b": 1, "c": {"d": 2}}, "e": [1], "f": 3}

    assert merge_patch_of(last, {"a": {"c": {"g": 4}}, "e": [2]}) == {
        "a": {"b": None, "c": {"d": None, "g": 4}},
        "e": [2],
        "f": None,
    }


def test_a_default_that_is_left_out_is_no_change():
    """The server would fill it in."""
    live = {
        "kind": "AutoMLJob",
        "spec": {**MANIFEST["spec"], "objective": {"classWeight": "Auto"}, "search": {"seed": 42}},
    }

    assert immutable_changes(live, {"kind": "AutoMLJob", "spec": MANIFEST["spec"]}) == []
    assert immutable_changes(live, {"kind": "AutoMLJob", "spec": {**MANIFEST["spec"], "search": {"seed": 7}}}) == [
        "spec.search"
    ]
