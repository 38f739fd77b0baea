"""A gate that many share or one has alone: what is handled with care has nothing beside it."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class Gate:
    """Many share it, or one has it alone; whoever has to wait is let in in the order of asking."""

    def __init__(self) -> None:
        self._sharing = 0
        self._taken = False
        self._waiting: deque[tuple[asyncio.Future[None], bool]] = deque()

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Hold it together with others; free, it is entered without a look at the loop."""
        await self._enter(False)
        try:
            yield
        finally:
            self._leave(False)

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Hold it with nobody else; who asks later waits until this is through."""
        await self._enter(True)
        try:
            yield
        finally:
            self._leave(True)

    async def _enter(self, alone: bool) -> None:
        if not self._waiting and self._is_free(alone):
            self._take(alone)
            return
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((admitted, alone))
        try:
            await admitted
        except BaseException:
            if admitted.cancelled():
                self._let_in()
            else:
                self._leave(alone)
            raise

    def _is_free(self, alone: bool) -> bool:
        return not self._taken and not (alone and self._sharing)

    def _take(self, alone: bool) -> None:
        self._taken = alone
        self._sharing += not alone

    def _leave(self, alone: bool) -> None:
        self._taken = False
        self._sharing -= not alone
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            admitted, alone = self._waiting[0]
            if not admitted.cancelled():
                if not self._is_free(alone):
                    return
                self._take(alone)
                admitted.set_result(None)
            self._waiting.popleft()
