"""The fence around writes: who does not lead writes nothing, and who leaves waits for what is under way."""

from __future__ import annotations

import asyncio
import logging

import pytest

from controller.life import make_churn
from kubeautoml.api.errors import ClusterError
from kubeautoml.api.objects import EventOrder, Ref
from kubeautoml.cluster.memory import MemoryCluster
from kubeautoml.controller.fence import Fence, FencedCluster

CHURN = Ref("AutoMLJob", "team-a", "churn")


@pytest.mark.anyio
async def test_every_write_passes_the_fence_and_no_read_does() -> None:
    """A process that was stopped for a minute finds out before it writes."""
    cluster, holds = MemoryCluster(), True
    fenced = FencedCluster(cluster, Fence(lambda: holds))
    await cluster.put(make_churn())
    await fenced.patch_status(CHURN, {"observedGeneration": 1})
    holds, cluster.calls = False, []

    for write in (
        lambda: fenced.apply(make_churn()),
        lambda: fenced.delete(CHURN),
        lambda: fenced.patch_status(CHURN, {}),
        lambda: fenced.emit(CHURN, "uid", EventOrder("Normal", "Searching", "it searches")),
    ):
        with pytest.raises(ClusterError) as error:
            await write()  # type: ignore[no-untyped-call]
        assert error.value.reason == "NotLeading"
    found = await fenced.get(CHURN)
    listed = await fenced.list("AutoMLJob")

    assert found is not None and len(listed) == 1
    assert cluster.calls == [("get", "AutoMLJob"), ("list", "AutoMLJob")]


@pytest.mark.anyio
async def test_closing_waits_for_writes_even_when_their_callers_are_gone() -> None:
    """A cancelled pass may have a request on its way; the lease must not be released before it has arrived."""
    fence, arrive, arrived = Fence(), asyncio.Event(), []

    async def write() -> None:
        await arrive.wait()
        arrived.append("write")

    caller = asyncio.create_task(fence.pass_(write))
    await asyncio.sleep(0)
    caller.cancel()
    closing = asyncio.create_task(fence.close(30))
    await asyncio.sleep(0)
    before = list(arrived)
    arrive.set()
    await closing

    assert (before, arrived, caller.cancelled()) == ([], ["write"], True)
    with pytest.raises(ClusterError, match="does not lead any more"):
        await fence.pass_(write)


@pytest.mark.anyio
async def test_closing_does_not_wait_for_ever() -> None:
    """A server that hangs must not keep the lease with us."""
    fence = Fence()
    task = asyncio.create_task(fence.pass_(lambda: asyncio.sleep(3600)))
    await asyncio.sleep(0)

    await asyncio.wait_for(fence.close(0.01), 10)

    assert not task.done()
    task.cancel()


@pytest.mark.anyio
async def test_the_failure_of_a_write_is_its_callers() -> None:
    """As without a fence."""
    cluster = MemoryCluster()
    cluster.fail_next(ClusterError("down"), verb="apply")

    with pytest.raises(ClusterError, match="down"):
        await FencedCluster(cluster, Fence()).apply(make_churn())


@pytest.mark.anyio
async def test_what_was_done_to_children_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """With the job it was for, which the pass adds to every line."""
    caplog.set_level(logging.INFO, "kubeautoml.controller.fence")
    fenced = FencedCluster(MemoryCluster(), Fence())

    await fenced.apply(make_churn())
    await fenced.delete(CHURN)
    await fenced.delete(CHURN)

    said = [(r.message, r.kind, r.object, getattr(r, "was_there", None)) for r in caplog.records]  # type: ignore[attr-defined]
    assert said == [
        ("object applied", "AutoMLJob", "churn", None),
        ("object deleted", "AutoMLJob", "churn", True),
        ("object deleted", "AutoMLJob", "churn", False),
    ]
