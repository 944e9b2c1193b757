"""Fixtures that every test folder shares; the real servers live in tests/real."""

pytest_plugins = ["real.controlplane_fixtures", "real.s3_fixtures", "real.postgres_fixtures"]
