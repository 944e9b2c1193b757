"""Credentials that stand in a URL: refused in every object, and never repeated in a message.

Whoever may look at an AutoMLJob, a pod or an Event sees its text; a Secret is where credentials belong.
"""

from __future__ import annotations

import re

from pydantic import AfterValidator

_SIGNING = (
    r"x-amz-(?:signature|credential|security-token)|awsaccesskeyid|signature|sig|token|access_token"
    r"|password|sslpassword|secret|secret_key|aws_secret_access_key"
)
_SIGNED = re.compile(rf"([?&;](?:{_SIGNING})=)[^&;\s]*", re.IGNORECASE)
_USER_AND_PASSWORD = re.compile(r"(://)[^\s@/]*:[^\s]*@")
"""Up to the last @, since keys of cloud storage hold slashes."""

_USER = re.compile(r"(://)[^\s/?#@]*@")


def masked(text: str) -> str:
    """The text with the credentials of its URLs blotted out.

    >>> masked("s3://key:a/b@bucket/x"), masked("https://b/x?X-Amz-Signature=ab&part=1")
    ('s3://***@bucket/x', 'https://b/x?X-Amz-Signature=***&part=1')
    """
    return _SIGNED.sub(r"\1***", _USER_AND_PASSWORD.sub(r"\1***@", text))


def holds_credentials(url: str, *, may_name_user: bool = False) -> bool:
    """Whether a URL carries a password, keys or a signature; a user's name alone counts unless it `may_name_user`."""
    return masked(url) != url or (not may_name_user and _USER.search(url) is not None)


def _without_credentials(url: str) -> str:
    if holds_credentials(url):
        raise ValueError("must hold no credentials; put them into a Secret and name that in secretRef")
    return url


def _without_password(url: str) -> str:
    if holds_credentials(url, may_name_user=True):
        raise ValueError(
            "must hold no password; put the URL into a Secret under the key STUDY_URL, and name it in secretName"
        )
    return url


NO_CREDENTIALS = AfterValidator(_without_credentials)
"""On a location of data or artifacts, or on the address of its storage."""

NO_PASSWORD = AfterValidator(_without_password)
"""On a study's URL, which may name a user."""
