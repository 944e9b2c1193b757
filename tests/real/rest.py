"""A few lines of REST against an API server, for the tests' own use: independent of the client that is under test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3

Json = dict[str, Any]
MERGE = "application/merge-patch+json"
STRATEGIC_MERGE = "application/strategic-merge-patch+json"


class ApiError(RuntimeError):
    """The API server refused; `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


@dataclass
class Rest:
    """One user of one API server. Threads may share it."""

    server: str
    ca_file: Path
    token: str
    _pool: urllib3.PoolManager = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._pool = urllib3.PoolManager(ca_certs=str(self.ca_file), maxsize=32, retries=False)

    def get(self, path: str) -> Json:
        return self._json("GET", path)

    def find(self, path: str) -> Json | None:
        """The object, or None when it is not there."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def items(self, path: str) -> list[Json]:
        """What a list holds."""
        return list(self.get(path).get("items") or [])

    def post(self, path: str, body: Json) -> Json:
        return self._json("POST", path, body)

    def ensure(self, path: str, body: Json) -> None:
        """Create it, or leave the one that is there."""
        try:
            self.post(path, body)
        except ApiError as error:
            if error.status != 409:
                raise

    def patch(self, path: str, body: Json, content_type: str = MERGE) -> Json:
        return self._json("PATCH", path, body, content_type)

    def delete(self, path: str, body: Json | None = None) -> None:
        """Delete it; one that is gone or has another uid is fine."""
        try:
            self._json("DELETE", path, body or {})
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    def watch(self, path: str, resource_version: str, timeout_seconds: int = 30) -> Iterator[Json]:
        """Events until the server ends the watch or the connection breaks."""
        mark = "&" if "?" in path else "?"
        url = f"{self.server}{path}{mark}watch=true&resourceVersion={resource_version}&timeoutSeconds={timeout_seconds}"
        timeout = urllib3.Timeout(connect=5, read=timeout_seconds + 30)
        response = self._pool.request("GET", url, headers=self._headers(), preload_content=False, timeout=timeout)
        rest = b""
        try:
            for chunk in response.stream(None):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (json.loads(line) for line in lines if line)
        except urllib3.exceptions.HTTPError:
            return
        finally:
            with suppress(urllib3.exceptions.HTTPError):
                response.close()

    def _headers(self, content_type: str = "application/json") -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": content_type,
            "Accept": "application/json",
            "User-Agent": "kubeautoml-test",
        }

    def _json(self, method: str, path: str, body: Json | None = None, content_type: str = "application/json") -> Json:
        data = None if body is None else json.dumps(body).encode()
        response = self._pool.request(
            method, self.server + path, body=data, headers=self._headers(content_type), timeout=30
        )
        if response.status >= 400:
            raise ApiError(response.status, _message(response.data))
        return dict(json.loads(response.data))


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError):
        return data.decode(errors="replace")
