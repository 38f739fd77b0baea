"""Chunks of one stream on their way: a bounded number at once, overlapping, acknowledged in order."""

import asyncio
from collections.abc import Callable

from pipeline.caution import Caution
from pipeline.flow import Flow
from pipeline.observe import Observer
from pipeline.turn import OvertakenError, Turn
from pipeline.work import Applied
from schemas.events import Chunk, Place

Acknowledge = Callable[[Applied], object]

# Seconds that chunks may take to notice that they are to stop.
_STOPPING = 2.0


class Lane:
    """Runs chunks through a flow. Its tasks are its own: cancelling whoever submits does not reach them."""

    def __init__(self, flow: Flow, depth: int, observer: Observer, caution: Caution) -> None:
        self.flow = flow
        self._observer = observer
        self._caution = caution
        self._slots = asyncio.Semaphore(depth)
        # Order is kept within a partition; others need not wait while one waits for its commit.
        self._last: dict[Place, Turn] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def submit(
        self, chunk: Chunk, acknowledge: Acknowledge, ours: Callable[[], bool] = lambda: True
    ) -> None:
        """Take a chunk in; waits while as many as allowed are in work, which slows the reading.

        After a failure, or when after the waiting its partition is not `ours` any more, it is dropped: what is
        not acknowledged comes again.
        """
        await self._slots.acquire()
        await self._open.wait()
        if self.failed.done() or not ours():
            self._slots.release()
            return
        turn = self._last[chunk.place] = Turn(self._last.get(chunk.place))
        self._observer.chunk_begun()
        task = asyncio.create_task(self._run(chunk, turn, acknowledge))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, chunk: Chunk, turn: Turn, acknowledge: Acknowledge) -> None:
        try:
            applied = await self._caution.process(self.flow.process, chunk, turn)
            async with turn("acknowledge"):
                acknowledge(applied)
            self._observer.acknowledged()
        except (OvertakenError, asyncio.CancelledError):
            turn.give_up()
        except BaseException as error:
            turn.give_up()
            if not self.failed.done():
                self.failed.set_result(error)
        finally:
            self._observer.chunk_done()
            self._slots.release()

    def hold(self) -> None:
        """Take nothing in for now: whoever submits waits, so that what is in work can come to its end."""
        self._open.clear()

    def go_on(self) -> None:
        """Take chunks in again."""
        self._open.set()

    async def drain(self, timeout: float) -> bool:
        """Wait until nothing is in work, `timeout` seconds at most; says whether that was reached."""
        end = asyncio.get_running_loop().time() + timeout
        while self._tasks and (left := end - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left)
        return not self._tasks

    async def clear(self) -> None:
        """Stop what is in work, and keep nothing of it: it was not acknowledged and comes again."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOPPING)
        self._last.clear()
