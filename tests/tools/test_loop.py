"""The loop that waits for servers ends whatever it runs."""

import asyncio

import pytest

from torl_jax.tools import loop


def test_a_lost_cancellation_is_repeated(monkeypatch):
    monkeypatch.setattr(loop, "AGAIN", 0.01)
    seen = []

    async def deaf() -> None:
        while len(seen) < 3:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                seen.append("cancelled")

    mine = loop.Loop("mine")
    deafly = mine.submit(deaf())
    mine.submit(asyncio.sleep(0)).result()  # it has begun
    mine.close()
    assert seen == ["cancelled"] * 3 and deafly.done() and mine.closed
    with pytest.raises(RuntimeError):
        mine.submit(asyncio.sleep(0))
