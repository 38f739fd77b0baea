"""A TCP proxy in front of the broker: cutting it off is dropping its connections and refusing new ones."""

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from pipeline.child import free_port

HOST = "127.0.0.1"
_BLOCK = 1 << 16


class Proxy:
    """Listens on `port` and passes everything on to `target`, both of this machine; runs inside `with`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.target = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def servers(self) -> str:
        """HOST:PORT, for clients."""
        return f"{HOST}:{self.port}"

    def cut(self) -> None:
        """Drop all connections and refuse new ones."""
        self._do(self._cut())

    def restore(self) -> None:
        """Take connections again."""
        self._do(self._listen())

    def __enter__(self) -> Self:
        self._thread.start()
        self.restore()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, HOST, self.port)

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._open:
            writer.transport.abort()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._through(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            there, back = await asyncio.open_connection(HOST, self.target)
        except OSError:  # the broker is away
            self._open.discard(writer)
            writer.transport.abort()
            return
        self._open.add(back)
        try:
            await asyncio.gather(_pass(reader, back), _pass(there, writer))
        finally:
            for each in (writer, back):
                each.transport.abort()
                self._open.discard(each)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until either side ends; then the other ends too."""
    try:
        while block := await reader.read(_BLOCK):
            writer.write(block)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.transport.abort()
