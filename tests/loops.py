"""What tests of waiting need: turns of the event loop, counted."""

import asyncio
from collections.abc import Coroutine
from typing import Any


def finishes_at_once(coroutine: Coroutine[Any, Any, Any]) -> bool:
    """Whether it comes to its end without giving the loop a turn."""
    try:
        coroutine.send(None)
    except StopIteration:
        return True
    coroutine.close()
    return False


async def settle() -> None:
    """Until every task has come as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)
