"""How a job gets to each stage of its life in a `life.World`."""

from __future__ import annotations

from controller.life import FINALIZER, WORKERS, World


async def objects(world: World) -> list[str]:
    """Every object but pods, as "Kind namespace/name"."""
    return [o for o in (await world.snapshot())["objects"] if not o.startswith("Pod ")]


async def until_searching(world: World, **spec: object) -> list[str]:
    """Two workers run and have read the data; returns their uids."""
    await world.create(**spec)
    await world.settle()
    pods = await world.start_pods(WORKERS)
    world.report_data()
    await world.settle()
    return pods


def run_trials(world: World, *trials: tuple[str, float | None]) -> None:
    for pod, value in trials:
        world.finish_trial(world.begin_trial(pod), value)


async def until_finalizing(world: World) -> None:
    """All trials are done, one of them in a second attempt, and the finalizer runs."""
    first, second = await until_searching(world)
    run_trials(world, (first, 0.8), (second, 0.9))
    world.begin_trial(second)
    await world.lose_pod(f"{WORKERS.name}-1")
    await world.settle()
    run_trials(world, (first, 0.85), (first, 0.7))
    await world.settle()
    await world.end_pods(WORKERS)
    await world.settle()
    await world.start_pods(FINALIZER)
    await world.settle()


async def until_ready(world: World) -> None:
    """The whole life, to an endpoint that answers."""
    await until_finalizing(world)
    world.report_result()
    await world.end_pods(FINALIZER)
    await world.settle()
    await world.serve()
    await world.settle()
