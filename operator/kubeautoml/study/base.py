"""What every part of the study shares: how its URLs are shown, and the refusal that fences a zombie worker."""

from __future__ import annotations

import re

from kubeautoml.api.errors import StudyError

_PASSWORD = re.compile(r"(://[^:/@]*):.*@")
_QUERY_SECRET = re.compile(r"([?&](?:password|sslpassword|passfile)=)[^&]*", re.IGNORECASE)


class TrialRetired(StudyError):
    """The trial was finished by somebody else, usually because its pod was thought gone: stop working on it."""

    default_reason = "Preempted"


def shown(url: str) -> str:
    """The URL without its password, for messages.

    >>> shown("postgresql://me:secret@db:5432/studies")
    'postgresql://me:***@db:5432/studies'
    """
    return _QUERY_SECRET.sub(r"\1***", _PASSWORD.sub(r"\1:***@", url))
