"""Objects in S3 and everything that speaks its protocol: s3://bucket/key. The only importer of boto3."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import Boto3Error, RetriesExceededError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
)
from botocore.exceptions import ConnectionError as NoConnectionError

from kubeautoml.api.errors import (
    AccessDenied,
    KubeAutoMLError,
    ObjectNotFound,
    StorageError,
    StorageUnavailable,
    UsageError,
)
from kubeautoml.storage.base import StoredObject, glob_regex, glob_root, is_glob, is_hidden

_SCHEME = "s3://"
_NOT_FOUND = {"404", "NoSuchKey", "NotFound"}
_NO_BUCKET = {"NoSuchBucket"}
_DENIED = {
    "401",
    "403",
    "AccessDenied",
    "AllAccessDisabled",
    "ExpiredToken",
    "Forbidden",
    "InvalidAccessKeyId",
    "InvalidSecurity",
    "InvalidToken",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "UnauthorizedAccess",
}
_NOT_NOW = {
    "BandwidthLimitExceeded",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}
"""Beside every status of 500 and above, and 408 and 429: the server's own trouble, which passes."""
_NEVER = {"NotImplemented", "MethodNotAllowed"}
_SETTINGS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_CA_BUNDLE",
)
_DIGEST = "sha256"
"""Metadata of objects that `write` made; `read` compares."""
# Few streams at once: pods are small, and one stream of a large object already fills most links.
_TRANSFER = TransferConfig(multipart_threshold=16 * 2**20, multipart_chunksize=16 * 2**20, max_concurrency=4)


class S3Store:
    """Buckets of one endpoint under one set of credentials.

    `credentials_dir` holds one file a setting (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, ...),
    as the kubelet mounts a secret. Without it boto3 looks where it always does: environment, profile, web identity.
    """

    def __init__(self, credentials_dir: Path | None = None) -> None:
        self._settings = _mounted_settings(credentials_dir) if credentials_dir else {}

    @cached_property
    def _client(self) -> Any:
        mounted = self._settings
        endpoint = mounted.get("AWS_ENDPOINT_URL_S3") or mounted.get("AWS_ENDPOINT_URL")
        custom = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        session = boto3.session.Session(
            aws_access_key_id=mounted.get("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=mounted.get("AWS_SECRET_ACCESS_KEY"),
            aws_session_token=mounted.get("AWS_SESSION_TOKEN"),
        )
        region = mounted.get("AWS_REGION") or mounted.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION")
        return session.client(
            "s3",
            endpoint_url=endpoint,
            region_name=region or session.region_name or "us-east-1",
            verify=mounted.get("AWS_CA_BUNDLE"),
            config=_client_config(bool(custom)),
        )

    def find(self, uri: str, hidden: bool = False) -> list[StoredObject]:
        bucket, key = _split(uri)
        with self._translated(uri):
            if is_glob(key):
                regex = glob_regex(key, hidden)
                found = [stored for name, stored in self._below(bucket, glob_root(key)) if regex.fullmatch(name)]
            elif key.endswith("/") or not key:
                listed = self._below(bucket, key)
                found = [stored for name, stored in listed if hidden or not is_hidden(name.removeprefix(key))]
            else:
                found = self._one(uri, bucket, key)
        return sorted(found, key=lambda stored: stored.uri)

    def read(self, uri: str) -> bytes:
        bucket, key = _split_object(uri)
        with self._translated(uri):
            answer = self._client.get_object(Bucket=bucket, Key=key)
            data: bytes = answer["Body"].read()  # fails when the connection ends before the length that was promised
        wanted = answer.get("Metadata", {}).get(_DIGEST)
        if wanted and hashlib.sha256(data).hexdigest() != wanted:
            raise StorageUnavailable(
                f"{uri} did not arrive as it was written: its sha256 must be {wanted}; "
                "try again, or check the server's disks"
            )
        return data

    def write(self, uri: str, data: bytes) -> None:
        bucket, key = _split_object(uri)
        digest = {_DIGEST: hashlib.sha256(data).hexdigest()}
        with self._translated(uri):
            self._client.put_object(Bucket=bucket, Key=key, Body=data, Metadata=digest)

    def exists(self, uri: str) -> bool:
        bucket, key = _split_object(uri)
        with self._translated(uri):
            return bool(self._one(uri, bucket, key))

    def download(self, uri: str, path: Path) -> None:
        bucket, key = _split_object(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._translated(uri):
            self._client.download_file(bucket, key, str(path), Config=_TRANSFER)

    def upload(self, path: Path, uri: str) -> None:
        bucket, key = _split_object(uri)
        with self._translated(uri):
            self._client.upload_file(str(path), bucket, key, Config=_TRANSFER)

    def delete(self, uri: str) -> int:
        bucket, key = _split(uri)
        with self._translated(uri):
            if not key.endswith("/"):
                existed = self._one(uri, bucket, key)
                self._client.delete_object(Bucket=bucket, Key=key)
                return len(existed)
            keys = [name for name, _ in self._below(bucket, key)]
            for start in range(0, len(keys), 1000):
                batch = [{"Key": name} for name in keys[start : start + 1000]]
                answer = self._client.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
                _raise_partial(uri, answer.get("Errors", []))
            return len(keys)

    def _below(self, bucket: str, prefix: str) -> Iterator[tuple[str, StoredObject]]:
        """Keys and objects below a prefix; folder markers (keys that end in "/") are no objects."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for item in page.get("Contents", []):
                if not item["Key"].endswith("/"):
                    uri = f"{_SCHEME}{bucket}/{item['Key']}"
                    yield item["Key"], StoredObject(uri, int(item["Size"]), item["ETag"].strip('"'))

    def _one(self, uri: str, bucket: str, key: str) -> list[StoredObject]:
        try:
            head = self._client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if _code(error) not in _NOT_FOUND:
                raise
            # The answer to HEAD has no body, so it does not say whether the key or the bucket is missing.
            self._client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
            return []
        return [StoredObject(uri, int(head["ContentLength"]), head["ETag"].strip('"'))]

    @contextmanager
    def _translated(self, uri: str) -> Iterator[None]:
        try:
            yield
        except KubeAutoMLError:
            raise
        except ClientError as error:
            raise _from_answer(uri, error, self._endpoint) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise AccessDenied(
                f"{uri} needs credentials and none were found; name a secret with AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY in secretRef, or set both in the environment"
            ) from error
        except SSLError as error:
            raise _from_tls(uri, error, self._endpoint) from error
        except (HTTPClientError, NoConnectionError) as error:
            raise StorageUnavailable(
                f"{uri} cannot be reached at {self._endpoint} ({type(error).__name__}); "
                "check AWS_ENDPOINT_URL, the network and that the server runs"
            ) from error
        except (IncompleteReadError, RetriesExceededError) as error:
            raise StorageUnavailable(
                f"{uri}: {self._endpoint} ended its answer too early ({type(error).__name__}); "
                "check the network and that the server runs"
            ) from error
        except ParamValidationError as error:
            raise StorageError(
                f"{uri}: bucket {_split(uri)[0]!r} must be 3 to 63 lower-case letters, digits, '-' and '.'; "
                "correct the URI"
            ) from error
        except Boto3Error as error:
            cause = error.__cause__ or error.__context__
            if isinstance(cause, ClientError):
                raise _from_answer(uri, cause, self._endpoint) from error
            raise StorageError(f"{uri} cannot be transferred: {error}; try again") from error
        except (BotoCoreError, ValueError) as error:
            raise StorageError(
                f"{uri} cannot be used: {error}; check the URI, AWS_ENDPOINT_URL and AWS_REGION"
            ) from error
        except OSError as error:
            raise StorageError(f"{uri} cannot be copied: {error.strerror or error}; check the local disk") from error

    @property
    def _endpoint(self) -> str:
        return str(self._client.meta.endpoint_url)


def _client_config(custom_endpoint: bool) -> Config:
    """Retries for all; for other servers than Amazon's also the plain addressing and checksums that they understand."""
    plain: dict[str, Any] = {
        "s3": {"addressing_style": "path"},
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    return Config(
        # a server that hangs is given up within a minute and a half; `PatientStore` decides how long to try altogether
        retries={"mode": "standard", "total_max_attempts": 3},
        connect_timeout=5,
        read_timeout=30,
        tcp_keepalive=True,
        **(plain if custom_endpoint else {}),
    )


def _mounted_settings(folder: Path) -> dict[str, str]:
    """The settings in a mounted secret.

    Raises:
        AccessDenied: the folder is missing, or holds no or half a key pair.
    """
    try:
        found = {name: (folder / name).read_text().strip() for name in _SETTINGS if (folder / name).is_file()}
    except OSError as error:
        raise AccessDenied(
            f"credentials in {folder} cannot be read: {error.strerror}; check the secret's mount"
        ) from error
    missing = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not found.get(name)]
    if len(missing) == 1 or not found:
        raise AccessDenied(
            f"the secret mounted at {folder} must hold AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; "
            f"missing: {', '.join(missing)}; add them to the secret that secretRef names"
        )
    return {name: value for name, value in found.items() if value}


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix(_SCHEME).partition("/")
    if not uri.startswith(_SCHEME) or not bucket:
        raise UsageError(f"{uri} must be s3://bucket/key, such as s3://lake/churn/train.csv")
    return bucket, key


def _split_object(uri: str) -> tuple[str, str]:
    bucket, key = _split(uri)
    if not key or key.endswith("/"):
        raise UsageError(f"{uri} must name one object here, not a prefix; leave out the '/' at its end")
    return bucket, key


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _from_answer(uri: str, error: ClientError, endpoint: str) -> StorageError:
    """The exception for an error that the server answered; its own text is left out where it may quote a key."""
    code = _code(error)
    bucket, _ = _split(uri)
    if code in _NO_BUCKET:
        return ObjectNotFound(f"{uri}: bucket {bucket} does not exist at {endpoint}; create it or correct the URI")
    if code in _NOT_FOUND:
        return ObjectNotFound(f"{uri} does not exist; check the key, upper and lower case count")
    if code in _DENIED:
        return AccessDenied(
            f"{uri}: access denied by {endpoint} ({code}); "
            "check the keys in the secret and that they may read, list and write there"
        )
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    passes = (status >= 500 or status in (408, 429) or code in _NOT_NOW) and code not in _NEVER
    kind = StorageUnavailable if passes else StorageError
    return kind(f"{uri}: {endpoint} answered {code or status} to {error.operation_name}; try again, or ask its owner")


def _from_tls(uri: str, error: SSLError, endpoint: str) -> StorageError:
    """A certificate that is not trusted stays so; a handshake that broke off is a matter of the network."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return StorageError(
            f"{uri}: the certificate of {endpoint} is not trusted; set AWS_CA_BUNDLE, "
            "or objectStorage.caConfigMap of the profile, to its authority"
        )
    return StorageUnavailable(f"{uri}: no TLS connection to {endpoint}; check the network and that the server runs")


def _raise_partial(uri: str, errors: list[dict[str, str]]) -> None:
    if not errors:
        return
    code = errors[0].get("Code", "unknown")
    kind = AccessDenied if code in _DENIED else StorageUnavailable if code in _NOT_NOW else StorageError
    raise kind(f"{uri}: {len(errors)} objects could not be deleted ({code}); check that the keys may delete there")
