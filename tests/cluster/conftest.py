"""The contract suite lives in a plain module, so pytest must be told to explain its asserts; and a cluster of this machine's processes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kubeautoml.cluster.local import LocalCluster

pytest.register_assert_rewrite("cluster.contract", "cluster.local_factories")


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path, backoff_seconds=0.05, max_grace_seconds=2) as cluster:
        yield cluster
