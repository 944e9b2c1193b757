"""Watches the truth from outside while faults strike: PostgreSQL's tables and the API server's objects, past every proxy.

What it sees goes into a log that is only ever appended to. What must never happen is noticed at once.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import urllib3

from real.rest import ApiError, Json, Rest

POLL_SECONDS = 0.4
MAX_OBJECT_BYTES = 32 * 1024
JOBS = "/apis/kubeautoml.dev/v1alpha1/namespaces/{}/automljobs"

_TRIALS = """
SELECT s.study_name, t.number, t.state::text, v.value, t.trial_id
FROM trials t JOIN studies s USING (study_id) LEFT JOIN trial_values v ON v.trial_id = t.trial_id
"""
_ATTRS = """
SELECT trial_id, key, value_json FROM trial_user_attributes
WHERE key IN ('pod_uid', 'attempt', 'retry_of', 'preempted', 'portfolio', 'error')
"""
FINISHED = ("COMPLETE", "PRUNED", "FAIL")


@dataclass(frozen=True)
class TrialRow:
    """One trial as the database has it."""

    number: int
    state: str
    value: float | None
    attrs: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def is_preempted(self) -> bool:
        return self.state == "FAIL" and bool(self.attrs.get("preempted"))


def read_trials(url: str) -> dict[str, dict[int, TrialRow]]:
    """Study name -> number -> trial, by plain SQL.

    Raises:
        psycopg.Error: the database does not answer.
    """
    with psycopg.connect(url, connect_timeout=5) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        if connection.execute("SELECT to_regclass('trials')").fetchone() == (None,):
            return {}
        attrs: dict[int, dict[str, Any]] = {}
        rows = connection.execute(_TRIALS).fetchall()
        for trial_id, key, value in connection.execute(_ATTRS).fetchall():
            attrs.setdefault(trial_id, {})[key] = json.loads(value)
    studies: dict[str, dict[int, TrialRow]] = {}
    for study, number, state, value, trial_id in rows:
        studies.setdefault(study, {})[number] = TrialRow(number, state, value, attrs.get(trial_id, {}))
    return studies


def condition(job: Json, kind: str) -> str:
    """Status of a condition; empty while it is not there."""
    found = [c["status"] for c in job.get("status", {}).get("conditions", []) if c["type"] == kind]
    return str(found[0]) if found else ""


def study_of(job: Json) -> str:
    meta = job["metadata"]
    return f"{meta['namespace']}/{meta['name']}/{meta['uid']}"


class Journal:
    """The append-only log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._began = time.monotonic()
        self._lock = threading.Lock()

    def write(self, event: str, **facts: Any) -> None:
        line = {"t": round(time.monotonic() - self._began, 2), "event": event, **facts}
        with self._lock, self.path.open("a") as out:
            out.write(json.dumps(line, default=str) + "\n")


class Observer(threading.Thread):
    """Polls until `stop`; `violations` holds what must not have happened."""

    def __init__(self, admin: Rest, database_url: str, namespaces: list[str], journal: Journal) -> None:
        super().__init__(name="observer", daemon=True)
        self.violations: list[str] = []
        self.trials: dict[str, dict[int, TrialRow]] = {}
        self.jobs: dict[str, Json] = {}
        """By study name."""
        self.longest_pause: tuple[float, str] = (0.0, "")
        """Seconds without progress of a job that had not ended, and which one."""
        self._admin, self._url, self._namespaces, self._journal = admin, database_url, namespaces, journal
        self._progress: dict[str, tuple[Any, float]] = {}
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()
        self.join(timeout=30)

    def run(self) -> None:
        while not self._stopping.is_set():
            with suppress(psycopg.Error, ApiError, urllib3.exceptions.HTTPError):
                self.look()
            self._stopping.wait(POLL_SECONDS)

    def look(self) -> None:
        """Read everything once. Statuses first: what they count must be in the database that is read after them."""
        jobs = {study_of(j): j for n in self._namespaces for j in self._admin.items(JOBS.format(n))}
        trials = read_trials(self._url)
        self._compare_trials(trials)
        for study, job in jobs.items():
            self._compare_job(study, job, trials.get(study, {}))
        self.trials, self.jobs = trials, jobs

    # What must never happen

    def _compare_trials(self, now: dict[str, dict[int, TrialRow]]) -> None:
        for study, before in self.trials.items():
            for number, old in before.items():
                new = now.get(study, {}).get(number)
                if new is None:
                    self._violated(f"trial {number} of {study} is gone; it was {old}")
                elif old.state in FINISHED and new != old:
                    self._violated(f"trial {number} of {study} was {old} and became {new}")
        for study, rows in now.items():
            for number, row in rows.items():
                if self.trials.get(study, {}).get(number) != row:
                    self._journal.write("trial", study=study, **asdict(row))

    def _compare_job(self, study: str, job: Json, rows: dict[int, TrialRow]) -> None:
        before = self.jobs.get(study, {})
        size = len(json.dumps(job, separators=(",", ":")))
        if size >= MAX_OBJECT_BYTES:
            self._violated(f"{study} has {size} bytes")
        counts, old = job.get("status", {}).get("trials", {}), before.get("status", {}).get("trials", {})
        for name, state in (("completed", "COMPLETE"), ("pruned", "PRUNED")):
            if counts.get(name, 0) < old.get(name, 0):
                self._violated(f"{study}: status.trials.{name} went back from {old.get(name)} to {counts.get(name, 0)}")
            if counts.get(name, 0) > sum(r.state == state for r in rows.values()):
                self._violated(f"{study}: status.trials.{name} is {counts[name]}, more than the database has")
        if counts.get("failed", 0):
            self._violated(f"{study}: {counts['failed']} trials count as failed; preemptions are no failures")
        if condition(job, "Succeeded") == "False":
            words = next(c for c in job["status"]["conditions"] if c["type"] == "Succeeded")
            self._violated(f"{study} failed: {words.get('reason')}: {words.get('message')}")
        if condition(before, "Succeeded") == "True" and condition(job, "Succeeded") != "True":
            self._violated(f"{study} had succeeded, and is {condition(job, 'Succeeded') or 'nothing'} now")
        if before.get("status") != job.get("status"):
            self._journal.write("status", study=study, status=job.get("status"))
        self._note_progress(study, job, rows)

    def _note_progress(self, study: str, job: Json, rows: dict[int, TrialRow]) -> None:
        is_over = condition(job, "Succeeded") in ("True", "False")
        ended = sum(r.state in ("COMPLETE", "PRUNED") for r in rows.values())
        reasons = tuple(c["reason"] for c in job.get("status", {}).get("conditions", []) if c["type"] == "Succeeded")
        mark, now = (ended, reasons, job["spec"].get("suspend", False)), time.monotonic()
        old, since = self._progress.get(study, (None, now))
        if mark != old:
            if old is not None:
                self.longest_pause = max(self.longest_pause, (now - since, study))
            self._progress[study] = (mark, now)
        elif not is_over:
            self.longest_pause = max(self.longest_pause, (now - since, study))

    def _violated(self, what: str) -> None:
        if what not in self.violations:
            self.violations.append(what)
            self._journal.write("violation", violation=what)
