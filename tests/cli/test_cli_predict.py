"""`kubectl automl predict`: tables and records to a real model server, by its address and through the real API server's proxy."""

from __future__ import annotations

import csv
import io
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cli.clusters import Cluster, conditions, finished, searching
from kubeautoml.api.errors import UsageError
from kubeautoml.cli import main as entry
from kubeautoml.cli.rows import Form, Writer, flat, read_rows
from real.controlplane import ControlPlane
from serve.bundles import Trained, train_every_type
from serve.running import Running, running


@pytest.mark.parametrize(
    ("text", "form", "rows"),
    [
        ("age,plan\n42,basic\n,\n", None, [{"age": "42", "plan": "basic"}, {"age": None, "plan": None}]),
        ('age,plan\n1,"a, b\nc"\n\n', Form.CSV, [{"age": "1", "plan": "a, b\nc"}]),
        ("age\tplan\n1\tx\n", Form.TSV, [{"age": "1", "plan": "x"}]),
        ('{"age": 1}', None, [{"age": 1}]),
        ('\n [{"age": 1}, {"age": 2}]', None, [{"age": 1}, {"age": 2}]),
        ('{"age": 1}\n{"age": 2}\n', None, [{"age": 1}, {"age": 2}]),
        ('{"instances": [{"age": 1}]}', Form.JSON, [{"age": 1}]),
        ('{"age": 1}\n\n{"age": 2}', Form.JSONL, [{"age": 1}, {"age": 2}]),
    ],
)
def test_rows_are_read_in_every_form(text: str, form: Form | None, rows: list[dict[str, Any]]):
    """By what is said, or by the first sign; an empty cell is missing."""
    _, found = read_rows(io.StringIO(text), "rows", form)

    assert list(found) == rows


@pytest.mark.parametrize(
    ("text", "form", "said"),
    [
        ("", Form.CSV, "rows must begin with a line of column names"),
        ("a,b\n1\n", Form.CSV, "rows, line 2: must have 2 cells as the header has, got 1"),
        ('a,b\n1,"x\n', Form.CSV, "rows, line 2: unexpected end of data"),
        ("[1]", Form.JSON, 'rows must hold records such as {"age": 42}, or a list of them'),
        ("[]", Form.JSON, 'rows must hold records such as {"age": 42}, or a list of them'),
        ("age,1", Form.JSON, "rows must hold JSON records: Expecting value: line 1 column 1 (char 0)"),
        ('{"a": 1}\nb', Form.JSONL, "rows, line 2: must hold a JSON record: Expecting value: line 1 column 1 (char 0)"),
        ('{"a": 1}\n3', Form.JSON, 'rows, line 2: must be a record such as {"age": 42}'),
    ],
)
def test_what_is_no_table_is_one_line(text: str, form: Form, said: str):
    """With the file and the line."""
    with pytest.raises(UsageError) as raised:
        list(read_rows(io.StringIO(text), "rows", form)[1])

    assert str(raised.value) == said


def test_predictions_become_a_table():
    """The same columns as of `kubeautoml predict --model`."""
    prediction = {"churned": "yes", "probabilities": {"no": 0.25, "yes": 0.75}, "set": ["yes"]}
    out = io.StringIO()

    Writer(out, Form.CSV).write([prediction])

    assert flat(prediction) == {"churned": "yes", "churned_no": 0.25, "churned_yes": 0.75, "churned_set": '["yes"]'}
    assert out.getvalue() == 'churned,churned_no,churned_yes,churned_set\nyes,0.25,0.75,"[""yes""]"\n'


def host() -> str:
    """An address of this machine that is not the loopback, to which API servers do not go."""
    found = [a.address for n in psutil.net_if_addrs().values() for a in n if a.family.name == "AF_INET"]
    others = [address for address in found if not address.startswith(("127.", "169.254."))]
    assert others, "this machine must have an IPv4 address beside 127.0.0.1"
    return others[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_every_type(tmp_path_factory.mktemp("trained"), ["Linear"], classes=True)


@pytest.fixture(scope="module")
def server(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(str(trained.folder), tmp_path_factory.mktemp("server"), "--host", host()) as found:
        yield found


@pytest.fixture
def served(cluster: Cluster, server: Running, tmp_path: Path) -> Cluster:
    """A job whose Service leads to the model server, as the endpoints controller would write it."""
    cluster.create("churn", finished(tmp_path), serving={"replicas": 1})
    path, meta = f"/api/v1/namespaces/{cluster.namespace}", {"name": "churn-server"}
    ports = [{"name": "http", "port": server.port}]
    cluster.admin.post(f"{path}/services", {"metadata": meta, "spec": {"ports": ports}})
    # the proxy goes only to addresses of pods; this one is on a node that nobody runs
    spec = {"containers": [{"name": "serve", "image": "none"}], "nodeName": "elsewhere"}
    cluster.admin.post(f"{path}/pods", {"metadata": meta, "spec": spec})
    running = {"phase": "Running", "podIP": host(), "podIPs": [{"ip": host()}]}
    cluster.admin.patch(f"{path}/pods/churn-server/status", {"status": running})
    target = {"kind": "Pod", "name": "churn-server", "namespace": cluster.namespace}
    subset = {"addresses": [{"ip": host(), "targetRef": target}], "ports": ports}
    cluster.admin.post(f"{path}/endpoints", {"metadata": meta, "subsets": [subset]})
    return cluster


def write_csv(trained: Trained, file: Path, rows: int) -> None:
    trained.raw.iloc[:rows].to_csv(file, index=False)


@pytest.mark.controlplane
def test_a_table_is_predicted_through_the_api_server(served: Cluster, trained: Trained, tmp_path: Path):
    """Batch by batch, in their order, and the same as the trainer itself predicts."""
    write_csv(trained, tmp_path / "new.csv", 7)
    target = tmp_path / "predicted.csv"

    code, out, err = served.call("predict", "churn", "-i", str(tmp_path / "new.csv"), "-o", str(target), "--batch", "3")

    assert (code, out, err) == (0, "", f"7 predictions written to {target}\n")
    with target.open() as stream:
        rows = list(csv.DictReader(stream))
    expected = trained.expected.iloc[:7]
    assert list(rows[0]) == list(expected.columns)
    for row, (_, wanted) in zip(rows, expected.iterrows(), strict=True):
        for name, value in wanted.items():
            got = row[str(name)]
            assert got == value if isinstance(value, str) else float(got) == pytest.approx(float(value), rel=1e-6)


@pytest.mark.controlplane
def test_records_are_answered_in_the_endpoint_s_own_words(
    served: Cluster, server: Running, trained: Trained, tmp_path: Path
):
    """JSON in, JSON out; JSON lines a line each; by --url the same."""
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(trained.records[:2]))
    lines = tmp_path / "rows.jsonl"
    lines.write_text("\n".join(json.dumps(r) for r in trained.records[:2]))

    answer = json.loads(served.out("predict", "churn", "-i", str(rows)))

    assert len(answer["predictions"]) == 2
    assert json.loads(served.out("predict", "churn", "-i", str(rows), "--url", server.url)) == answer
    told = served.out("predict", "churn", "-i", str(lines)).splitlines()
    assert [json.loads(line) for line in told] == answer["predictions"]
    table = served.out("predict", "churn", "-i", str(lines), "--to", "csv").splitlines()
    assert len(table) == 3


@pytest.mark.controlplane
def test_rows_that_the_model_cannot_take_are_refused_in_its_words(
    served: Cluster, server: Running, trained: Trained, tmp_path: Path
):
    """Through the proxy and by the address; of a later batch it says which rows."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join([json.dumps(trained.records[0]), '{"nothing": 1}']))

    for words in ([], ["--url", server.url]):
        code, _, err = served.call("predict", "churn", "-i", str(rows), "--batch", "1", *words)
        assert (code, err.count("\n")) == (1, 1)
        assert err.startswith(f"error: rows 1 to 1 of {rows}: ")
        assert "must be given" in err
    kept = tmp_path / "out.csv"
    assert served.call("predict", "churn", "-i", str(rows), "--batch", "1", "-o", str(kept))[0] == 1
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".csv" or p.name.startswith("tmp")] == []


@pytest.mark.controlplane
def test_jobs_without_an_endpoint_say_why(cluster: Cluster, tmp_path: Path):
    """No model yet, not served at all, not good enough; a Service with nobody behind it; nothing at an address."""
    rows = tmp_path / "rows.json"
    rows.write_text('{"age": 1}')
    done = finished(tmp_path)
    cluster.create("busy", searching())
    cluster.create("stored", {k: v for k, v in done.items() if k != "serving"})
    gate = {"conditions": conditions(Succeeded="True ModelTrained", Ready="False GateNotPassed")}
    cluster.create("poor", {k: v for k, v in done.items() if k != "serving"} | gate, serving={"replicas": 1})
    cluster.create("late", done, serving={"replicas": 1})

    for name, said in (
        ("busy", "AutoMLJob 'busy' has no model yet (Pending); wait for it with: kubectl automl status busy --watch"),
        (
            "stored",
            "AutoMLJob 'stored' is not served; set spec.serving in its manifest, or predict from its bundle: kubeautoml predict --model ",
        ),
        ("poor", "AutoMLJob 'poor' is not served (GateNotPassed: about Ready)"),
        ("late", "the endpoint of AutoMLJob 'late' does not answer: "),
    ):
        code, out, err = cluster.call("predict", name, "-i", str(rows))
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith(f"error: {said}")
    code, _, err = cluster.call("predict", "late", "-i", str(rows), "--url", "http://127.0.0.1:9")
    assert code == 1
    assert err.startswith("error: nothing answers at http://127.0.0.1:9/v1/predict: ")


@pytest.mark.controlplane
def test_who_may_not_use_the_proxy_is_told_the_way_round(
    served: Cluster, control_plane: ControlPlane, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """`view` may read jobs and no more; the message has the command."""
    ns = served.namespace
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
    who = [{"kind": "ServiceAccount", "name": "default", "namespace": ns}]
    served.admin.post(
        f"{rbac}/namespaces/{ns}/rolebindings", {"metadata": {"name": "v"}, "roleRef": role, "subjects": who}
    )
    file = control_plane.kubeconfig_for(f"viewer-{ns}", control_plane.token(ns, "default"), ns)
    rows = tmp_path / "rows.json"
    rows.write_text('{"age": 1}')

    code = entry.main(["predict", "churn", "-i", str(rows), "--kubeconfig", str(file)])

    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (1, 1)
    assert "ask for the right to create services/proxy, or go round it with --port-forward" in err


@pytest.mark.controlplane
def test_kubectl_may_open_the_way(
    served: Cluster, server: Running, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """--port-forward: a kubectl that says where it listens is asked there and ended; what it complains of is told.

    Not the real one, since the test kubelet forwards no ports; its words are those of kubectl 1.37.
    """
    rows, kubectl, calls = tmp_path / "rows.json", tmp_path / "bin" / "kubectl", tmp_path / "calls"
    rows.write_text(json.dumps(trained.records[:1]))
    kubectl.parent.mkdir()
    forward = (
        f"import socket, sys, threading\nopen({str(calls)!r}, 'w').write(' '.join(sys.argv[1:]))\n"
        + textwrap.dedent(f"""
        def pump(a, b):
            while data := a.recv(65536):
                b.sendall(data)
            b.shutdown(socket.SHUT_WR)
        listening = socket.create_server(("127.0.0.1", 0))
        print(f"Forwarding from 127.0.0.1:{{listening.getsockname()[1]}} -> 8080", flush=True)
        while True:
            near, far = listening.accept()[0], socket.create_connection(({host()!r}, {server.port}))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=pump, args=pair, daemon=True).start()
    """)
    )
    kubectl.write_text(f"#!{sys.executable}\n{forward}")
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(kubectl.parent))

    answer = json.loads(served.out("predict", "churn", "-i", str(rows), "--port-forward"))

    assert len(answer["predictions"]) == 1
    flags = f"--kubeconfig={served.flags[1]} -n {served.namespace}"
    assert calls.read_text() == f"port-forward {flags} service/churn-server :http"

    kubectl.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('error: pods \"churn-server\" is forbidden')\n")
    code, _, err = served.call("predict", "churn", "-i", str(rows), "--port-forward")
    assert (code, err) == (
        1,
        "error: kubectl port-forward cannot reach AutoMLJob 'churn': pods \"churn-server\" is forbidden\n",
    )
    kubectl.unlink()
    assert served.call("predict", "churn", "-i", str(rows), "--port-forward")[2] == (
        "error: --port-forward needs kubectl on the PATH; leave it out to go through the API server\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-i", "gone.csv"], "cannot read gone.csv: No such file or directory"),
        (["--batch", "0"], "--batch must be between 1 and 100000, got 0"),
        (["-o", "x.parquet"], "--output must end in .csv, .tsv or .jsonl, or --to must say its form, got x.parquet"),
    ],
)
def test_misuse_is_exit_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    """Before anything is asked."""
    assert entry.main(["predict", "churn", "--url", "http://127.0.0.1:9", *words]) == 2

    assert capsys.readouterr().err == f"error: {said}\n"
