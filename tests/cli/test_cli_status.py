"""`kubectl automl status` on a real API server: drawn on a terminal, told without one, and what may be missing."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.clusters import JOBS, Cluster, conditions, finished, searching
from kubeautoml.cli import status
from kubeautoml.cli.main import main
from real.controlplane import ControlPlane

pytestmark = pytest.mark.controlplane

PATIENCE_SECONDS = 60.0


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, argv: list[str], columns: int, **settings: str) -> None:
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kubeautoml.cli.main", *argv],
            stdin=follower, stdout=follower, stderr=follower, start_new_session=True, env={**environment, "TERM": "xterm-256color", **settings},
            # a shell lets what it starts in the background ignore Ctrl-C, tests and all that they start; on a terminal nothing does
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        os.close(follower)
        self.text = ""

    def read_until(self, holds: Callable[[str], bool]) -> None:
        """Until what was written fulfils it, or the command has ended."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds(self.text):
            assert time.monotonic() < deadline, self.text
            if select.select([self._leader], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self._leader, 65536).decode()
                except OSError:  # the other side is closed
                    return

    def end(self) -> int:
        """Its exit code."""
        self.read_until(lambda text: self.process.poll() is not None)
        os.close(self._leader)
        return self.process.wait(PATIENCE_SECONDS)


def plain(text: str) -> list[str]:
    """Lines without what moves the cursor or colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").splitlines()


@pytest.mark.parametrize("columns", [80, 200])
def test_the_view_is_redrawn_until_the_job_has_ended(columns: int, cluster: Cluster, tmp_path: Path):
    """No line is longer than the terminal; at the end the whole of it stays, with where the model is."""
    cluster.create("churn", searching())

    terminal = Terminal(["status", "churn", *cluster.flags], columns)
    terminal.read_until(lambda text: text.count("Searching") >= 4)
    drawn = len(terminal.text)
    cluster.admin.patch(f"{JOBS.format(cluster.namespace)}/churn/status", {"status": finished(tmp_path)})

    assert terminal.end() == 0
    assert max(len(line) for line in plain(terminal.text[:drawn])) <= columns
    assert "\x1b[1A" in terminal.text, "the cursor goes back to draw over what was there"
    assert "Traceback" not in terminal.text
    assert f"Model:     file://{tmp_path}/model" in "".join(plain(terminal.text))


def test_ctrl_c_ends_the_view_without_a_word(cluster: Cluster):
    """What was seen last stays; exit 130."""
    cluster.create("churn", searching())
    terminal = Terminal(["status", "churn", *cluster.flags], 80)
    terminal.read_until(lambda text: "Searching" in text)

    terminal.process.send_signal(signal.SIGINT)

    assert terminal.end() == 130
    assert "Traceback" not in terminal.text
    assert "error" not in terminal.text


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(cluster: Cluster, tmp_path: Path):
    """As in an editor's shell, with TERM=dumb."""
    cluster.create("done", finished(tmp_path))

    terminal = Terminal(["status", "done", *cluster.flags], 80, TERM="dumb")

    assert terminal.end() == 0
    assert "\x1b" not in terminal.text
    assert "Serving; 5 completed" in terminal.text


@pytest.mark.parametrize(("settings", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_can_be_switched_off(cluster: Cluster, settings: dict[str, str], coloured: bool):
    """no-color.org."""
    cluster.create("churn", searching())

    terminal = Terminal(["status", "churn", "--once", *cluster.flags], 80, **settings)

    assert terminal.end() == 0
    assert ("\x1b[36m" in terminal.text) is coloured


def test_without_a_terminal_it_is_printed_once(cluster: Cluster):
    """Whether the job has ended or not; so in a pipe and in a script."""
    cluster.create("churn", searching())

    assert "Searching" in cluster.out("status", "churn")
    assert "Searching" in cluster.out("status", "churn", "--once")
    assert "Searching" in cluster.out("status", "automljob/churn", "--watch=false", "-o", "wide")
    assert cluster.out("status", "churn", "-o", "name") == "automljob.kubeautoml.dev/churn\n"


def test_watching_without_a_terminal_is_a_line_for_each_piece_of_news(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A time and what is new; exit 0 with a model, 1 without one."""
    monkeypatch.setattr(status, "LOOK_SECONDS", 0.01)
    cluster.create("done", finished(tmp_path))
    failed = searching() | {"conditions": conditions(Accepted="True SpecValid", Succeeded="False WorkersFailed")}
    cluster.create("lost", failed)

    code, out, err = cluster.call("status", "done", "--watch")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"\S+Z Serving; 5 completed, 1 running; best RocAuc 0.8123 \(LightGBM\)\n", out)
    code, out, _ = cluster.call("status", "lost", "-w")
    assert code == 1
    assert "WorkersFailed" in out


def test_a_job_that_is_deleted_meanwhile_ends_the_watch(cluster: Cluster, monkeypatch: pytest.MonkeyPatch):
    """One line, exit 1."""
    cluster.create("churn", searching())
    monkeypatch.setattr(status, "LOOK_SECONDS", 0.01)
    look = status._look

    async def deleted(*about: Any) -> Any:
        seen = await look(*about)
        if cluster.admin.find(f"{JOBS.format(cluster.namespace)}/churn"):
            cluster.admin.delete(f"{JOBS.format(cluster.namespace)}/churn")
        return seen

    monkeypatch.setattr(status, "_look", deleted)

    code, _, err = cluster.call("status", "churn", "--watch")

    assert (code, err) == (1, f"error: AutoMLJob {cluster.namespace}/churn was deleted\n")


def test_who_may_not_see_pods_sees_the_rest(
    cluster: Cluster, control_plane: ControlPlane, capsys: pytest.CaptureFixture[str]
):
    """The built-in role `view` shows pods; a narrower one says what is missing."""
    cluster.create("churn", searching())
    rbac, ns = "/apis/rbac.authorization.k8s.io/v1", cluster.namespace
    rules = [{"apiGroups": ["kubeautoml.dev"], "resources": ["automljobs"], "verbs": ["get"]}]
    cluster.admin.post(f"{rbac}/namespaces/{ns}/roles", {"metadata": {"name": "r"}, "rules": rules})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
    who = [{"kind": "ServiceAccount", "name": "default", "namespace": ns}]
    cluster.admin.post(
        f"{rbac}/namespaces/{ns}/rolebindings", {"metadata": {"name": "r"}, "roleRef": role, "subjects": who}
    )
    file = control_plane.kubeconfig_for(f"narrow-{ns}", control_plane.token(ns, "default"), ns)

    assert main(["status", "churn", "--kubeconfig", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "Searching" in shown
    assert "pods are not shown: pods is forbidden" in shown

    assert main(["status", "chrun", "--kubeconfig", str(file)]) == 1
    assert capsys.readouterr().err == f"error: AutoMLJob 'chrun' is not in namespace '{ns}'; jobs there: none\n"
    assert main(["list", "--kubeconfig", str(file)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: automljobs.kubeautoml.dev is forbidden")
    assert said.count("\n") == 1


def test_jobs_are_chosen_by_labels(cluster: Cluster):
    """-l takes what kubectl takes; nonsense is one line."""
    for name, team in (("one", "risk"), ("two", "sales")):
        cluster.create(name)
        cluster.admin.patch(f"{JOBS.format(cluster.namespace)}/{name}", {"metadata": {"labels": {"team": team}}})

    assert cluster.out("list", "-l", "team=risk", "-o", "name") == "automljob.kubeautoml.dev/one\n"
    assert cluster.out("list", "--selector", "team notin (risk)", "-o", "name") == "automljob.kubeautoml.dev/two\n"
    code, out, err = cluster.call("list", "-l", "team=(")
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_job_that_breaks_rules_is_shown_too(cluster: Cluster):
    """What a newer version or a bare API server let in must not hide the others."""
    cluster.create("good", searching())
    cluster.create("odd", searching() | {"trials": {"total": 3}}, objective={"metric": "NoSuchMetric"})

    assert [line.split()[0] for line in cluster.out("list", "--no-headers").splitlines()] == ["good", "odd"]
    assert "odd" in cluster.out("status", "odd")


@pytest.mark.parametrize("words", ["list", "--help", "status job-0", "logs job-0 -f"])
def test_a_pipe_that_is_closed_is_no_error(words: str, cluster: Cluster):
    """`kubectl automl list | head -0`: not a word, exit 0 (1 where there is nothing to show)."""
    cluster.create("job-0", searching() | {"conditions": conditions(Succeeded="False WorkersFailed")})
    flags = "" if words.startswith("--") else " ".join(cluster.flags)
    command = f"set -o pipefail; {sys.executable} -m kubeautoml.cli.main {words} {flags} | true"

    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert done.returncode == (1 if "logs" in words else 0)


def test_a_full_disk_is_one_line(cluster: Cluster):
    """`kubectl automl list > /full/disk`."""
    cluster.create("churn")
    command = f"{sys.executable} -m kubeautoml.cli.main list {' '.join(cluster.flags)} > /dev/full"

    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (1, "error: there is no room for the output\n")
