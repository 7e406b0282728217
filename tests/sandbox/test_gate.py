"""Admission, without a server."""

import asyncio
from collections.abc import Coroutine

import pytest

from sandbox.gate import Ending, Full, Gate, Late


def play(scene: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 20))


async def waiting(gate: Gate, count: int) -> list["asyncio.Task[None]"]:
    """Tasks that wait for a place, in this order."""
    tasks = [asyncio.create_task(gate.enter(60)) for _ in range(count)]
    await asyncio.sleep(0)
    assert gate.waiting == count
    return tasks


def test_places_are_handed_on_in_order():
    async def scene() -> None:
        gate = Gate(2, 5)
        await gate.enter(0)
        await gate.enter(0)
        first, second, third = await waiting(gate, 3)
        gate.leave()
        await first
        assert not second.done() and (gate.running, gate.waiting) == (2, 2)
        gate.leave()
        gate.leave()
        await asyncio.gather(second, third)
        assert (gate.running, gate.waiting) == (2, 0)
        gate.leave()
        gate.leave()
        assert gate.running == 0

    play(scene())


def test_too_many_and_too_long_are_turned_away():
    async def scene() -> None:
        gate = Gate(1, 1)
        await gate.enter(0)
        with pytest.raises(Late, match=r"no place after 0\.01 s"):
            await gate.enter(0.01)
        (task,) = await waiting(gate, 1)
        with pytest.raises(Full, match="1 jobs wait already"):
            await gate.enter(60)
        gate.leave()
        await task
        assert (gate.running, gate.waiting) == (1, 0)

    play(scene())


def test_who_gives_up_waiting_takes_no_place_along():
    async def scene() -> None:
        gate = Gate(1, 5)
        await gate.enter(0)
        first, second, third = await waiting(gate, 3)
        first.cancel()
        await asyncio.sleep(0)
        gate.leave()
        second.cancel()  # in the very moment in which its turn has come
        await third
        assert (gate.running, gate.waiting) == (1, 0)
        gate.leave()
        assert gate.running == 0

    play(scene())


def test_closed_it_turns_away_all_but_those_inside():
    async def scene() -> None:
        gate = Gate(1, 5)
        await gate.enter(0)
        tasks = await waiting(gate, 2)
        gate.close()
        assert {type(one) for one in await asyncio.gather(*tasks, return_exceptions=True)} == {
            Ending
        }
        with pytest.raises(Ending):
            await gate.enter(60)
        gate.leave()
        assert (gate.running, gate.waiting) == (0, 0)

    play(scene())
