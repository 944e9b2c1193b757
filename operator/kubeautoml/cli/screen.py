"""What `kubeautoml run` shows on stderr: a live view on a terminal, a line for every piece of news elsewhere."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live

from kubeautoml.api.conditions import ConditionStatus, find_condition
from kubeautoml.api.job import AutoMLJob
from kubeautoml.cli.view import counts, leaderboard_table, live_view, metric_of, short_number, state


class Screen:
    """A context manager while the job runs; `say` and `ended` also work outside."""

    def __init__(self, logs: Path) -> None:
        self._console = Console(stderr=True)
        self._logs = logs
        self._job: AutoMLJob | None = None
        self._said = ""
        self._live = Live(console=self._console, get_renderable=self._view, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def _view(self):  # type: ignore[no-untyped-def]  # rich's union of renderables
        return live_view(self._job) if self._job else "starting"

    def show(self, job: AutoMLJob) -> None:
        """Take in a new status."""
        self._job = job
        if not self._console.is_terminal:
            best = job.status.best
            news = f"{state(job)}" + (
                f", best {metric_of(job)} {short_number(best.value)} ({best.family})" if best else ""
            )
            if news != self._said:
                self._said = news
                self.say(f"{news}; {counts(job)}")

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def finished_before(self, job: AutoMLJob) -> None:
        """The same manifest over the same data has its model already."""
        self.say("this job is finished already; raise its budget or change the manifest to search on")
        self.ended(job)

    def not_served(self, job: AutoMLJob) -> None:
        """There is a model, and no endpoint."""
        ready = find_condition(job.status.conditions, "Ready")
        self.say(f"error: {ready.reason}: {ready.message}" if ready else "error: the model is not served")

    def ended(self, job: AutoMLJob) -> None:
        """The outcome, and what to do with it."""
        succeeded = find_condition(job.status.conditions, "Succeeded")
        if succeeded is None or succeeded.status is not ConditionStatus.TRUE or job.status.model is None:
            refused = find_condition(job.status.conditions, "Accepted")
            said = succeeded if refused is None or refused.status is not ConditionStatus.FALSE else refused
            reason, message = (said.reason, said.message) if said else ("Unknown", "the job did not end")
            self.say(f"logs: {self._logs}")
            self.say(f"error: {reason}: {message}")
            return
        self._console.print(leaderboard_table(job))
        if job.status.model.metrics:
            metrics = _metrics(job, job.status.model.metrics)
            self.say(fill(metrics, self._console.width, initial_indent="hold-out: ", subsequent_indent=" " * 10))
        elif job.status.best:
            value = f"{metric_of(job)} {short_number(job.status.best.value, 4)}"
            self.say(f"hold-out: none was set aside; cross-validation says {value} of the best trial")
        self.say(f"model:    {_place(job.status.model.uri)}")
        if job.status.artifacts and job.status.artifacts.report_uri:
            self.say(f"report:   {_place(job.status.artifacts.report_uri)}")
        self.say(f"next:     kubeautoml serve --model {_place(job.status.model.uri)}")


def _metrics(job: AutoMLJob, metrics: dict[str, str]) -> str:
    """All of them, the objective's first."""
    ordered = sorted(metrics.items(), key=lambda item: item[0] != metric_of(job))
    return ", ".join(f"{name} {short_number(value, 4)}" for name, value in ordered)


def _place(uri: str) -> str:
    """A path from here where the URI is a file below this folder: shorter to read, and what commands take as well."""
    path = Path(uri.removeprefix("file://"))
    here = Path.cwd()
    return str(path.relative_to(here)) if uri.startswith("file://") and path.is_relative_to(here) else uri
