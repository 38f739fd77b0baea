"""/metrics, /healthz and /readyz of a worker, each worker on its own port."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from pipeline.observe import Observer
from schemas.errors import ConfigError


class Pages:
    """A small web server in the worker's own loop: it answers only while the worker lives."""

    def __init__(self, observer: Observer, stalled_after: float) -> None:
        self._observer = observer
        self._stalled_after = stalled_after
        self.assigned = False
        self.stopping = False
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self, host: str, port: int) -> None:
        """Listen.

        Raises:
            ConfigError: the port is taken.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(
                f"{host}:{port} cannot be listened on ({error.strerror or error}); "
                "another worker may have it: set SALIENCE_WORKER__PORT, or 0 for no pages"
            ) from None

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._observer.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        stalled = self._observer.stalled()
        if self.stopping:
            return web.Response(status=503, text="stopping\n")
        if not self.assigned:
            return web.Response(status=503, text="no partitions assigned yet\n")
        if stalled > self._stalled_after:
            return web.Response(status=503, text=f"no chunk was acknowledged for {stalled:.0f} s\n")
        return web.Response(text="ready\n")
