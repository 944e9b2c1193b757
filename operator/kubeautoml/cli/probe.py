"""`kubeautoml probe URL...`: does what is there answer? Exit code 0 when everything does. `helm test` and images use it.

http:// and https:// must answer with a status below 400; grpc:// and grpcs:// must be a study server whose database answers.
"""

from __future__ import annotations

import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from kubeautoml.api.errors import KubeAutoMLError, UsageError
from kubeautoml.cli.parser import VerbParser

_PAUSE_SECONDS = 1.0
_TIMEOUT_SECONDS = 5.0


class NoAnswer(KubeAutoMLError):
    """What was asked did not answer, or said no."""

    default_reason = "NoAnswer"


def main(argv: list[str]) -> int:
    """Ask one after the other. Exit codes: 0 all answer, 1 one does not, 2 misuse."""
    parser = VerbParser(
        "probe",
        __doc__,
        "kubeautoml probe http://127.0.0.1:8082/readyz grpc://127.0.0.1:13000 --patience 60",
        program="kubeautoml",
    )
    parser.add_argument("url", nargs="+", help="what to ask, such as http://127.0.0.1:8082/readyz")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="authority of https:// and grpcs://, PEM")
    parser.add_argument(
        "--patience", type=float, default=0.0, metavar="SECONDS", help="ask again for so long; default: once"
    )
    args = parser.parse_args(argv)
    for url in args.url:
        if urlsplit(url).scheme not in ("http", "https", "grpc", "grpcs"):
            raise UsageError(f"a URL must begin with http://, https://, grpc:// or grpcs://, got {url!r}")
    deadline = time.monotonic() + args.patience
    for url in args.url:
        ask_until(url, args.ca_file, deadline)
        print(f"{url}: ok")
    return 0


def ask_until(url: str, ca_file: Path | None, deadline: float) -> None:
    """Ask until there is a good answer.

    Args:
        deadline: of time.monotonic.

    Raises:
        KubeAutoMLError: the last answer, when there was none in time.
    """
    while True:
        try:
            ask(url, ca_file)
            return
        except UsageError:
            raise
        except KubeAutoMLError:
            if time.monotonic() + _PAUSE_SECONDS > deadline:
                raise
        time.sleep(_PAUSE_SECONDS)


def ask(url: str, ca_file: Path | None) -> None:
    """Ask once.

    Raises:
        KubeAutoMLError: no answer, or one that says no, in its own words.
    """
    if urlsplit(url).scheme in ("grpc", "grpcs"):
        from kubeautoml.study.health import check_study_server

        check_study_server(url, ca_file, _TIMEOUT_SECONDS)
        return
    try:
        trust = ssl.create_default_context(cafile=str(ca_file)) if url.startswith("https:") and ca_file else None
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS, context=trust):
            return
    except urllib.error.HTTPError as error:
        said = error.read(500).decode(errors="replace")
        raise NoAnswer(f"{url} answers {error.code}: {said}") from error
    except OSError as error:
        raise NoAnswer(f"{url} does not answer: {getattr(error, 'reason', error)}") from error
