"""What every part of the study shares: how its URLs are shown in messages."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(://[^:/@]*):.*@")
_QUERY_SECRET = re.compile(r"([?&](?:password|sslpassword|passfile)=)[^&]*", re.IGNORECASE)


def shown(url: str) -> str:
    """The URL without its password, for messages.

    >>> shown("postgresql://me:secret@db:5432/studies")
    'postgresql://me:***@db:5432/studies'
    """
    return _QUERY_SECRET.sub(r"\1***", _PASSWORD.sub(r"\1:***@", url))
