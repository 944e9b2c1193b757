"""A whole chaos run: jobs come, faults strike, everything ends, and the books must balance. `make chaos` runs this file.

python tests/chaos/run.py --seed 7 --kills 200
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos.faults import Faults
from chaos.observer import Journal, Observer, condition
from chaos.schedule import WEIGHTS, Kind, schedule
from chaos.verdict import Ended, counted_twice, leftovers, model_problems, problems
from chaos.world import STUDY_LOG, World, running_world
from real.controlplane import ControlPlane, running_control_plane
from real.kubelet import Kubelet, running_kubelet

ROOT = Path(__file__).resolve().parents[2]
DRAIN_SECONDS = 420.0
"""For jobs that are open when the last fault has struck, on a busy machine."""
MAX_PAUSE_SECONDS = 240.0
"""No job goes without progress for so long, faults or not."""
SAY_EVERY = 20
_STEP_SECONDS = 0.1


@dataclass(frozen=True)
class Course:
    """How long and how hard."""

    seed: int
    kills: int
    mean_seconds: float = 3.0
    jobs_at_once: int = 3
    max_trials: int = 14
    serves_every: int = 0
    """Every so-manieth job has an endpoint; 0: none."""
    limit_seconds: float = 3600.0
    kinds: dict[Kind, float] = field(default_factory=lambda: dict(WEIGHTS))


@dataclass
class Report:
    """What came of it."""

    course: Course
    faults: Counter[Kind] = field(default_factory=Counter)
    jobs: int = 0
    completed: int = 0
    preempted: int = 0
    twice: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    stuck: int = 0
    failed: int = 0
    longest_pause: tuple[float, str] = (0.0, "")
    study_errors: int = 0
    """Calls that the study server could not answer for another reason than that its database was away."""
    seconds: float = 0.0
    shown: str = ""
    """`kubectl get automljobs` at the end."""

    @property
    def kills(self) -> int:
        return sum(n for kind, n in self.faults.items() if kind.is_kill)

    @property
    def is_good(self) -> bool:
        return not self.violations and not self.twice

    def text(self) -> str:
        """The table."""
        rows: list[tuple[str, object]] = [(kind.value, self.faults[kind]) for kind in Kind if self.faults[kind]]
        lost = sum("is gone" in v or "and became" in v for v in self.violations)
        rows += [
            ("kills", self.kills),
            ("jobs", self.jobs),
            ("trials completed", self.completed),
            ("trials preempted", self.preempted),
            ("completed trials lost", lost),
            ("trials counted twice", len(self.twice)),
            ("trials failed", self.failed),
            ("jobs stuck", self.stuck),
            ("errors in the study server's log", self.study_errors),
            ("longest time without progress", f"{self.longest_pause[0]:.0f} s ({self.longest_pause[1]})"),
            ("run", f"{self.seconds:.0f} s, seed {self.course.seed}"),
        ]
        lines = [f"{name:<32} {value}" for name, value in rows]
        return "\n".join([*lines, *(f"VIOLATION: {v}" for v in [*self.twice, *self.violations])])


def chaos(
    plane: ControlPlane,
    kubelet: Kubelet,
    course: Course,
    folder: Path,
    tag: str,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Run a course; never raises for what the operator did wrong, which is in the report.

    Args:
        tag: makes names unique.
        say: told now and then how far it is.
    """
    report = Report(course)
    began = time.monotonic()
    journal = Journal(folder / "journal.jsonl")
    with running_world(plane, kubelet, folder, replicas=2, tag=tag) as world:
        observer = Observer(plane.admin, world.database_url, world.namespaces, journal)
        faults = Faults(world, journal)
        observer.start()
        try:
            _strike(world, observer, faults, course, report, began, say)
            say("all faults have struck; waiting for the jobs that are open")
            faults.settle()
            _drain(world, observer, report)
        finally:
            observer.stop()
        if not observer.violations:
            observer.look()
        report.violations += observer.violations + faults.problems
        report.longest_pause = observer.longest_pause
        _judge(world, observer, report, folder)
        report.shown = _kubectl(plane, world.namespaces)
    report.seconds = time.monotonic() - began
    return report


def _strike(
    world: World,
    observer: Observer,
    faults: Faults,
    course: Course,
    report: Report,
    began: float,
    say: Callable[[str], None],
) -> None:
    for strike in schedule(course.seed, course.mean_seconds, course.kinds):
        until = time.monotonic() + strike.after_seconds
        while True:
            _tend(world, observer, faults, course, report)
            if time.monotonic() >= until:
                break
            time.sleep(_STEP_SECONDS)
        if faults.strike(strike) is not None:
            report.faults[strike.kind] += 1
            if strike.kind.is_kill and report.kills % SAY_EVERY == 0:
                done = sum(t.state == "COMPLETE" for rows in list(observer.trials.values()) for t in rows.values())
                say(f"{report.kills} of {course.kills} kills, {report.jobs} jobs, {done} trials completed")
        if report.kills >= course.kills or observer.violations:
            return
        if time.monotonic() - began > course.limit_seconds:
            report.violations.append(f"only {report.kills} kills within {course.limit_seconds:.0f} s")
            return


def _tend(world: World, observer: Observer, faults: Faults, course: Course, report: Report) -> None:
    """Bring back what is due, keep operators running, and create the next job when one has ended."""
    faults.bring_back()
    for operator in world.operators:
        operator.keep_running()
    ended = sum(condition(job, "Succeeded") in ("True", "False") for job in list(observer.jobs.values()))
    if report.jobs - ended < course.jobs_at_once:
        number = report.jobs
        serves = bool(course.serves_every) and number % course.serves_every == course.serves_every - 1
        world.create_job(number, course.max_trials, parallelism=1 + number % 2, serve=serves)
        report.jobs += 1


def _drain(world: World, observer: Observer, report: Report) -> None:
    """Wait until all jobs have ended and their pods have left."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < deadline and not observer.violations:
        for operator in world.operators:
            operator.keep_running()
        jobs = list(observer.jobs.values())
        if len(jobs) == report.jobs and all(_has_settled(j) for j in jobs) and not [*leftovers(world, jobs)]:
            return
        time.sleep(0.5)


def _has_settled(job: dict[str, object]) -> bool:
    return condition(job, "Succeeded") in ("True", "False") and condition(job, "Ready") in ("True", "False")


def _judge(world: World, observer: Observer, report: Report, folder: Path) -> None:
    every = [Ended(job, observer.trials.get(study, {})) for study, job in observer.jobs.items()]
    report.completed = sum(e.count("COMPLETE") for e in every)
    report.preempted = sum(len(e.preempted) for e in every)
    report.failed = sum(e.count("FAIL") - len(e.preempted) for e in every)
    report.stuck = sum(condition(e.job, "Succeeded") != "True" for e in every)
    for ended in every:
        report.twice += counted_twice(ended)
        found = [*problems(ended)]
        if condition(ended.job, "Succeeded") == "True":
            found += model_problems(world, ended, folder)
            if condition(ended.job, "Ready") != "True":
                found.append(f"{ended.name} has a model and is not ready")
        report.violations += found
    report.violations += leftovers(world, [e.job for e in every])
    report.study_errors = (folder / STUDY_LOG).read_text(errors="replace").count('"level": "error"')
    for operator in world.operators:
        report.violations += operator.crashes
        report.violations += [f"{operator.name} logged: {line[:3000]}" for line in operator.errors()]
    if report.longest_pause[0] > MAX_PAUSE_SECONDS:
        report.violations.append("a job went without progress for {:.0f} s: {}".format(*report.longest_pause))


def _kubectl(plane: ControlPlane, namespaces: list[str]) -> str:
    command = ["kubectl", "--kubeconfig", str(plane.kubeconfig), "get", "automljobs", "-A"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = shown.stdout.splitlines()
    ours = [line for line in lines[1:] if line.split()[0] in namespaces]
    return "\n".join([*lines[:1], *ours]) or shown.stderr


def main() -> int:
    """Exit code 0 when the books balance, 1 when not: then seed and journal say how to see it again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--mean-seconds", type=float, default=3.0, help="between two faults")
    parser.add_argument("--jobs", type=int, default=3, help="at once")
    choices = {kind.name.lower().replace("_", "-"): kind for kind in Kind}
    parser.add_argument(
        "--without", action="append", default=[], choices=choices, metavar="KIND", help=", ".join(choices)
    )
    args = parser.parse_args()
    kinds = {kind: weight for kind, weight in WEIGHTS.items() if kind not in [choices[name] for name in args.without]}
    folder = Path(tempfile.mkdtemp(prefix="kubeautoml-chaos-"))
    course = Course(args.seed, args.kills, args.mean_seconds, args.jobs, serves_every=8, kinds=kinds)
    print(f"chaos: seed {course.seed}, {course.kills} kills; journal and logs in {folder}", flush=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # told to leave, leave in order: servers that are killed and started again outlive a parent that just ends
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with running_control_plane(ROOT / "crds") as plane, running_kubelet(plane) as kubelet:
        report = chaos(plane, kubelet, course, folder, "run", lambda line: print(line, flush=True))
        if not report.is_good:
            for namespace in ("chaos-run-a", "chaos-run-b"):
                (folder / f"pods-{namespace}.log").write_text(kubelet.all_logs(namespace))
    print(report.shown)
    print(report.text())
    if report.is_good:
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    print(f"again: make chaos SEED={course.seed} KILLS={course.kills}; what happened is in {folder}/journal.jsonl")
    return 1


if __name__ == "__main__":
    sys.exit(main())
