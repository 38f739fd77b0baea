"""Keeps successive chunks in order while they overlap: each stage is entered in the order of the chunks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

STAGES = ("score", "store", "deliver", "acknowledge")


class OvertakenError(Exception):
    """An earlier chunk failed, so this one may not go on."""


class Turn:
    """A chunk's place in the queue. Leaving a stage lets the next chunk enter it."""

    def __init__(self, previous: "Turn | None" = None) -> None:
        loop = asyncio.get_running_loop()
        self._previous = previous
        self._left: dict[str, asyncio.Future[bool]] = {stage: loop.create_future() for stage in STAGES}

    @contextlib.asynccontextmanager
    async def __call__(self, stage: str) -> AsyncIterator[None]:
        """Wait until the chunk before has left `stage`, then hold it."""
        if self._previous is not None and not await asyncio.shield(self._previous._left[stage]):
            raise OvertakenError
        yield
        self._left[stage].set_result(True)
        if stage == STAGES[-1]:
            self._previous = None

    def give_up(self) -> None:
        """The chunk failed: whoever waits behind it must not overtake it."""
        for left in self._left.values():
            if not left.done():
                left.set_result(False)
