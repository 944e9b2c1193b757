"""The contract suite lives in a plain module, so pytest must be told to explain its asserts."""

import pytest

pytest.register_assert_rewrite("cluster.contract", "cluster.local_factories")
