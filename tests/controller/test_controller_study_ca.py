"""The authority that pods carry: the operator's own, read again when it is renewed."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubeautoml.api.errors import UsageError
from kubeautoml.controller.settings import OperatorSettings

URL = {"KUBEAUTOML_STUDY_URL": "grpcs://study:13000"}


def test_pods_carry_the_operators_own_authority(tmp_path: Path) -> None:
    """Unless something copies it into their namespaces, or the operator reaches the studies at another address."""
    file = tmp_path / "ca.crt"
    file.write_text("PEM")
    given = {**URL, "KUBEAUTOML_STUDY_CA_FILE": str(file)}

    assert OperatorSettings.from_env(given).plan.study_ca == "PEM"
    assert OperatorSettings.from_env(URL).plan.study_ca is None
    copied = OperatorSettings.from_env({**given, "KUBEAUTOML_STUDY_CA_CONFIG_MAP": "study-ca"}).plan
    assert (copied.study_ca, copied.study_ca_config_map) == (None, "study-ca")
    other = {**given, "KUBEAUTOML_OPERATOR_STUDY_URL": "grpcs://localhost:1"}
    assert OperatorSettings.from_env(other).plan.study_ca is None


def test_a_renewed_authority_is_taken_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    """At the next pass; the mount changes under the operator's feet."""
    file = tmp_path / "ca.crt"
    file.write_text("first")
    settings = OperatorSettings.from_env({**URL, "KUBEAUTOML_STUDY_CA_FILE": str(file)})

    assert settings.with_present_ca() is settings
    file.write_text("second")
    renewed = settings.with_present_ca()
    file.unlink()

    assert renewed.plan.study_ca == "second"
    assert renewed.with_present_ca() is renewed


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"KUBEAUTOML_STUDY_CA_FILE must name a PEM file .* cannot be read: No such file"
    ):
        OperatorSettings.from_env({**URL, "KUBEAUTOML_STUDY_CA_FILE": str(tmp_path / "nothing")})
