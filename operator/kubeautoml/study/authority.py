"""A certificate for the study server, and the authority that vouches for it. Called by `kubeautoml certificate`.

For installs without cert-manager: one authority, which signs one certificate and whose key is then forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=3650)
"""Of both. Pods carry the authority while they run, so it is not renewed under them: cert-manager is for shorter lives."""

RENEW_BEFORE = timedelta(days=365)
_SKEW = timedelta(hours=1)
"""Clocks of nodes differ."""


@dataclass(frozen=True)
class Pair:
    """What a TLS secret holds; PEM."""

    certificate: bytes
    key: bytes
    authority: bytes

    def to_data(self) -> dict[str, bytes]:
        """By the keys that Kubernetes and cert-manager use."""
        return {"tls.crt": self.certificate, "tls.key": self.key, "ca.crt": self.authority}


def make_pair(names: tuple[str, ...], now: datetime) -> Pair:
    """A new authority and a certificate for these DNS names, valid from now on for `LIFETIME`."""
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = _name("kubeautoml-study authority")
    ca = (
        _builder(ca_name, ca_name, ca_key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, SHA256())
    )
    leaf = (
        _builder(_name(names[0]), ca_name, key, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Pair(leaf.public_bytes(Encoding.PEM), pem, ca.public_bytes(Encoding.PEM))


def why_replace(data: Mapping[str, bytes], names: tuple[str, ...], now: datetime) -> str | None:
    """Why a secret's certificate must be made anew; None while it serves these names for long enough."""
    missing = [key for key in ("tls.crt", "tls.key", "ca.crt") if not data.get(key)]
    if missing:
        return f"it has no {' and no '.join(missing)}"
    try:
        found = x509.load_pem_x509_certificate(data["tls.crt"])
        held = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        return f"its tls.crt cannot be read: {error}"
    others = sorted(set(names) - set(held.get_values_for_type(x509.DNSName)))
    if others:
        return f"it is not for {', '.join(others)}"
    if found.not_valid_after_utc - now < RENEW_BEFORE:
        return f"it ends on {found.not_valid_after_utc:%Y-%m-%d}"
    return None


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + LIFETIME)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
