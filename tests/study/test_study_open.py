"""Opening a study by URL: what is refused, what survives a kill, and what an import costs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from kubeautoml.api.errors import StudyError
from kubeautoml.study import create_study, load_summary, open_study_storage
from kubeautoml.study.base import shown
from real.postgres import PostgresServer

HOLD_LOCK = """
import fcntl, sys, time
lock = open(sys.argv[1] + ".lock", "a")
fcntl.flock(lock, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    "url", ["mysql://u:hidden@h/d", "journal://relative", "sqlite:///", "grpc://host", "study.db", ""]
)
def test_another_url_is_refused(url: str):
    """The message says which are possible, and holds no password."""
    with pytest.raises(StudyError, match="must be") as caught:
        open_study_storage(url)

    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("postgresql://me:p@ss:w/rd@db:5432/x", "postgresql://me:***@db:5432/x"),
        ("postgresql://db/x?user=me&password=secret", "postgresql://db/x?user=me&password=***"),
        ("grpc://host:13000", "grpc://host:13000"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, safe: str):
    """In user information and in the query."""
    assert shown(url) == safe


@pytest.mark.postgres
def test_a_wrong_password_is_explained_without_it(postgres_server: PostgresServer):
    """The server's own words, the place, what to check."""
    url = postgres_server.create_database().replace(postgres_server.password, "not-this-one")

    with pytest.raises(StudyError, match=r"password authentication failed .*check host, port") as caught:
        open_study_storage(url)

    assert "not-this-one" not in str(caught.value)


def test_half_a_line_in_the_journal_is_cut_off(tmp_path: Path, name: str):
    """A worker killed while it wrote costs its own last write, and nobody else anything."""
    path = tmp_path / "study.log"
    study = create_study(open_study_storage(f"journal://{path}"), name, "maximize")
    study.tell(study.ask(), 1.0)
    with path.open("ab") as journal:
        journal.write(b'{"op_code":4,"worker_id":"x","study_')

    other = create_study(open_study_storage(f"journal://{path}"), name, "maximize")
    other.tell(other.ask(), 2.0)

    assert [t.value for t in study.get_trials()] == [1.0, 2.0]
    summary = load_summary(open_study_storage(f"journal://{path}"), name)
    assert summary is not None
    assert summary.completed == 2


def test_a_damaged_journal_is_named(tmp_path: Path):
    """A file that is no journal is refused with a sentence."""
    (tmp_path / "study.log").write_text("a,b\n1,2\n3,4\n")

    with pytest.raises(StudyError, match=r"study\.log is damaged: .*move the file away"):
        open_study_storage(f"journal://{tmp_path}/study.log")


def test_the_lock_of_a_killed_worker_holds_nobody_up(tmp_path: Path, name: str):
    """The journal's lock goes with the process that held it."""
    path = tmp_path / "study.log"
    study = create_study(open_study_storage(f"journal://{path}"), name, "maximize")
    holder = subprocess.Popen([sys.executable, "-c", HOLD_LOCK, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"locked\n"
    holder.kill()
    holder.communicate()
    started = time.monotonic()

    study.ask()

    assert time.monotonic() - started < 5


def test_a_summary_of_twenty_thousand_trials_is_quick(name: str):
    """The operator makes one on every pass."""
    storage = optuna.storages.InMemoryStorage()
    study = create_study(storage, name, "maximize")
    distribution = {"x": optuna.distributions.FloatDistribution(0, 1)}
    template = optuna.trial.create_trial(params={"x": 0.5}, distributions=distribution, value=0.5)
    for _ in range(20_000):
        storage.create_new_trial(study._study_id, template)
    started = time.monotonic()

    summary = load_summary(storage, name)

    assert summary is not None
    assert (summary.completed, len(summary.best)) == (20_000, 10)
    assert time.monotonic() - started < 2


def test_importing_the_study_is_quiet_and_light(tmp_path: Path):
    """Neither drivers nor gRPC nor metrics come with the import, and optuna prints nothing."""
    code = (
        "import sys, kubeautoml.study as study\n"
        "heavy = ('grpc', 'psycopg', 'prometheus_client', 'torch', 'pandas', 'kopf', 'kubernetes', 'boto3')\n"
        "print([name for name in heavy if name in sys.modules])\n"
        "study.create_study(study.open_study_storage('journal://' + sys.argv[1]), 'a', 'maximize').ask()\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "study.log")], capture_output=True, text=True, check=True
    )

    assert (done.stdout.strip(), done.stderr) == ("[]", "")
