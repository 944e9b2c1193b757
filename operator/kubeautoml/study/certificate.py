"""The server's certificate, read again when its files change: cert-manager renews it while the server runs."""

from __future__ import annotations

import logging
import ssl
import threading
from pathlib import Path
from typing import Any

import grpc

from kubeautoml.api.errors import StudyError

log = logging.getLogger(__name__)


class Certificate:
    """A chain and its key in two files. A pair that does not fit, such as one half replaced, is not taken."""

    def __init__(self, chain: Path, key: Path) -> None:
        self._chain, self._key = chain, key
        self._lock = threading.Lock()
        self._stamp = self._changed_at()
        self._current = self._read()

    def server_credentials(self) -> Any:
        """For a gRPC server's port: each new connection gets the newest certificate."""
        return grpc.dynamic_ssl_server_credentials(self._current, self._fetch, require_client_authentication=False)

    def _fetch(self) -> Any:
        """Called by gRPC for every handshake; None keeps what it has."""
        with self._lock:
            try:
                stamp = self._changed_at()
                if stamp == self._stamp:
                    return None
                self._current = self._read()
            except StudyError as error:
                log.warning("certificate was not renewed", extra={"error": str(error)})
                return None
            self._stamp = stamp
            log.info("certificate was renewed", extra={"file": str(self._chain)})
            return self._current

    def _changed_at(self) -> tuple[int, ...]:
        try:
            # the inode, too: a secret's mount changes by a new folder behind a link, whatever the times in it
            return tuple(n for path in (self._chain, self._key) for n in (path.stat().st_mtime_ns, path.stat().st_ino))
        except OSError as error:
            raise _unreadable(error) from error

    def _read(self) -> Any:
        try:
            key, chain = self._key.read_bytes(), self._chain.read_bytes()
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._chain, self._key)
        except ssl.SSLError as error:
            raise StudyError(
                f"--tls-cert {self._chain} and --tls-key {self._key} must be a PEM certificate and its key: {error.reason}"
            ) from error
        except OSError as error:
            raise _unreadable(error) from error
        return grpc.ssl_server_certificate_configuration([(key, chain)])


def _unreadable(error: OSError) -> StudyError:
    return StudyError(
        f"certificate file {error.filename} cannot be read: {error.strerror}; check --tls-cert and --tls-key"
    )
