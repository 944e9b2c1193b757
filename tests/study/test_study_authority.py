"""The certificate that an install makes for its study server."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kubeautoml.api.errors import StudyError
from kubeautoml.study.authority import LIFETIME, make_pair, why_replace
from kubeautoml.study.certificate import Certificate
from kubeautoml.study.database import open_backend
from kubeautoml.study.health import check_study_server
from kubeautoml.study.server import StudyServer

NOW = datetime(2026, 11, 26, tzinfo=UTC)
NAMES = ("kubeautoml-study.kubeautoml-system.svc", "kubeautoml-study", "localhost")


def test_openssl_takes_the_pair_for_every_name_and_no_other(tmp_path: Path) -> None:
    """Its own verdict, as a server's certificate: chain, purpose and names."""
    for name, data in make_pair(NAMES, datetime.now(UTC)).to_data().items():
        (tmp_path / name).write_bytes(data)

    def verdict(host: str) -> int:
        command = ["openssl", "verify", "-purpose", "sslserver", "-verify_hostname", host, "-x509_strict"]
        files = ["-CAfile", str(tmp_path / "ca.crt"), str(tmp_path / "tls.crt")]
        return subprocess.run([*command, *files], capture_output=True, check=False).returncode

    assert [verdict(name) for name in NAMES] == [0, 0, 0]
    assert verdict("kubeautoml-study.elsewhere.svc") != 0


def test_a_server_speaks_tls_with_it(tmp_path: Path) -> None:
    """To whom trusts the authority; another authority's clients are outside."""
    data = make_pair(NAMES, datetime.now(UTC)).to_data()
    for name, content in data.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "other.crt").write_bytes(make_pair(NAMES, datetime.now(UTC)).authority)
    certificate = Certificate(tmp_path / "tls.crt", tmp_path / "tls.key")
    server = StudyServer(open_backend(f"sqlite:///{tmp_path}/study.db"), "127.0.0.1:0", certificate)
    server.start()
    try:
        check_study_server(f"grpcs://localhost:{server.port}", tmp_path / "ca.crt")
        with pytest.raises(StudyError, match="does not answer: UNAVAILABLE"):
            check_study_server(f"grpcs://localhost:{server.port}", tmp_path / "other.crt", 1.0)
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("data", "names", "age", "said"),
    [
        ({}, NAMES, timedelta(), None),
        ({}, NAMES[:1], timedelta(), None),
        ({}, NAMES, LIFETIME - timedelta(days=366), None),
        ({}, NAMES, LIFETIME - timedelta(days=364), "it ends on 2036-11-23"),
        ({}, (*NAMES, "other"), timedelta(), "it is not for other"),
        ({"ca.crt": b"", "tls.key": b""}, NAMES, timedelta(), "it has no tls.key and no ca.crt"),
        ({"tls.crt": b"nothing"}, NAMES, timedelta(), "its tls.crt cannot be read"),
    ],
)
def test_a_certificate_is_kept_as_long_as_it_serves(
    data: dict[str, bytes], names: tuple[str, ...], age: timedelta, said: str | None
) -> None:
    """Damaged, for other names, or in its last year: then, and only then, it is made anew."""
    found = make_pair(NAMES, NOW).to_data() | data

    why = why_replace(found, names, NOW + age)

    assert why is None if said is None else said in (why or "")
