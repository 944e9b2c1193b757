"""A line of a pod's log for people: `kubeautoml.api.logs` writes JSON, libraries write what they like."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

_SAID_ELSEWHERE = frozenset({"time", "level", "logger", "message", "job", "pod", "trial", "traceback"})

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
"""What would move the cursor or ring the bell of whoever reads; tabs may stay."""


@dataclass(frozen=True)
class LogLine:
    """One line, and what could be read of it."""

    pod: str
    raw: str
    fields: dict[str, Any]
    """Empty for a line that is not JSON of ours."""

    @classmethod
    def of(cls, pod: str, raw: str) -> LogLine:
        try:
            fields = json.loads(raw) if raw.startswith("{") else {}
        except ValueError:
            fields = {}
        return cls(pod, raw, fields if isinstance(fields, dict) and "message" in fields else {})

    @property
    def trial(self) -> int | None:
        """Number of the trial that it is about."""
        number = self.fields.get("trial")
        return number if isinstance(number, int) and not isinstance(number, bool) else None

    @property
    def time(self) -> float | None:
        """Unix time at which it was written; None where the line does not say."""
        try:
            return datetime.fromisoformat(str(self.fields["time"])).timestamp()
        except (KeyError, ValueError):
            return None

    @property
    def source(self) -> str:
        """The pod, and the trial that it is at."""
        return f"[{self.pod}]" if self.trial is None else f"[{self.pod} trial {self.trial}]"

    def text(self) -> list[str]:
        """For people: time, level, message, name=value; a traceback on lines of its own."""
        if not self.fields:
            return [_CONTROL.sub("", self.raw)]
        time = str(self.fields.get("time", "")).partition(".")[0]
        level = str(self.fields.get("level", "info")).upper()
        given = (f"{name}={_shown(value)}" for name, value in self.fields.items() if name not in _SAID_ELSEWHERE)
        words = [*([f"{time}Z"] if time else []), level, str(self.fields["message"]), *given]
        traceback = str(self.fields.get("traceback", "")).splitlines()
        return [_CONTROL.sub("", line) for line in (" ".join(words), *(f"    {line}" for line in traceback))]

    def json(self) -> str:
        """For programs: one JSON object, with the pod."""
        fields = self.fields or {"message": self.raw}
        return json.dumps({**fields, "pod": self.pod}, ensure_ascii=False)


def in_order(logs: list[list[LogLine]]) -> list[LogLine]:
    """The lines of several pods by time; a line that does not say when belongs to the one before it."""
    timed: list[tuple[float, int, int, LogLine]] = []
    for pod, lines in enumerate(logs):
        first = next((line.time for line in lines if line.time is not None), 0.0)
        moment = first or 0.0
        for number, line in enumerate(lines):
            moment = max(moment, line.time or 0.0)
            timed.append((moment, pod, number, line))
    return [line for *_, line in sorted(timed, key=lambda t: t[:3])]


def _shown(value: object) -> str:
    """A value without quotes unless it has blanks."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str) and re.search(r"[\s=\"]", text) else text


def seconds_of(text: str) -> int:
    """Seconds of a duration as kubectl takes it: 45s, 10m, 1h30m, 1.5h.

    Raises:
        ValueError: it is none.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(text)
    seconds = sum(float(number) * {"h": 3600, "m": 60, "s": 1, "ms": 0.001}[unit] for number, unit in parts)
    if seconds <= 0:
        raise ValueError(text)
    return max(1, round(seconds))
