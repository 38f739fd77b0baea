"""Sends notifications to receivers, each by itself: a slow or failing one holds up no other, and no topic."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from pipeline.notify import Notice
from pipeline.observe import Observer
from pipeline.receivers import Receiver, Receivers
from pipeline.retry import through_outage
from pipeline.store import notices, reposts
from pipeline.store.database import Database
from pipeline.times import Now
from pipeline.transports import Transport, open_transport
from schemas.errors import NotSentError, SalienceError

log = structlog.get_logger("salience.receivers")

# Notices of one receiver claimed at once, and sent at once.
BATCH = 8
CONCURRENT = 4
# Seconds for which it is tried to write down what was sent. The lease outlasts this and the timeouts of a batch.
MARKING = 15.0
# A re-post that failed is tried again after this part of the time between re-posts: before Alertmanager takes the
# alert for resolved.
_SOONER = 4


class Dispatch:
    """One task for each receiver that has something to be told. `receivers` is asked at each round."""

    def __init__(
        self, database: Database, receivers: Callable[[], Receivers], now: Now, observer: Observer | None = None
    ) -> None:
        self._database = database
        self._receivers = receivers
        self._now = now
        self._observer = observer or Observer()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._transports: dict[str, tuple[Receiver, Transport]] = {}
        self._unknown: set[str] = set()
        self._closing = False

    async def round(self) -> None:
        """Begin to send what is due; returns before it is sent.

        Raises:
            DatabaseError: the database is away.
        """
        waiting = await notices.due(self._database, self._now())
        self._observer.untold(waiting)
        known = self._receivers()
        self._drop_changed(known)
        for name, count in waiting.items():
            if name not in known:
                await self._explain_unknown(name, count)
            elif name not in self._running:
                self._unknown.discard(name)
                task = asyncio.create_task(self._serve(name, known[name], count))
                self._running[name] = task
                task.add_done_callback(lambda _, name=name: self._running.pop(name, None))  # type: ignore[misc]

    async def idle(self) -> None:
        """Wait until what was begun is done."""
        await asyncio.gather(*self._running.values())

    async def close(self, seconds: float = 2.0) -> None:
        """Begin nothing more, and let what is being sent end, for some seconds; what is left is sent again."""
        self._closing = True
        tasks = list(self._running.values())
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=seconds)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        for _, transport in self._transports.values():
            transport.close()
        self._transports.clear()

    async def _explain_unknown(self, name: str, count: int) -> None:
        if count:
            await notices.explain_unknown(self._database, name, self._now())
        if name not in self._unknown:
            self._unknown.add(name)
            log.warning("no such receiver", receiver=name, waiting=count, reason="unknown_receiver")

    def _drop_changed(self, known: Mapping[str, Receiver]) -> None:
        """Close the transports of receivers that were taken out, or are other ones now."""
        for name, (receiver, transport) in list(self._transports.items()):
            if known.get(name) != receiver and name not in self._running:
                transport.close()
                del self._transports[name]

    def _transport(self, name: str, receiver: Receiver) -> Transport:
        held = self._transports.get(name)
        if held is None or held[0] != receiver:
            if held is not None:
                held[1].close()
            held = (receiver, open_transport(receiver))
            self._transports[name] = held
        return held[1]

    async def _serve(self, name: str, receiver: Receiver, waiting: int) -> None:
        try:
            transport = self._transport(name, receiver)
            await self._tell(name, receiver, transport)
            if receiver.alertmanager:
                await self._tell_again(name, receiver, transport)
            elif not waiting:
                # It was Alertmanager's when it was told first.
                await reposts.drop(self._database, name)
        except SalienceError as error:
            log.warning("receiver", receiver=name, reason=error.reason, message=str(error))
        except Exception as error:
            # The next round may do better, and no other receiver depends on it.
            log.exception("receiver", receiver=name, reason="bug", message=str(error))

    async def _tell(self, name: str, receiver: Receiver, transport: Transport) -> None:
        while not self._closing:
            claimed = await notices.claim(self._database, name, receiver, self._now(), BATCH)
            self._observer.notified(name, "withheld", claimed.withheld)
            if not claimed.notices:
                return
            sent = await self._all(lambda each: self._send(name, receiver, transport, each), claimed.notices)
            # Where nothing of a batch arrives, the rest would only use up its attempts.
            if not any(sent):
                return

    async def _tell_again(self, name: str, receiver: Receiver, transport: Transport) -> None:
        while not self._closing and (found := await reposts.claim(self._database, name, self._now(), BATCH)):
            await self._all(lambda each: self._send_again(name, receiver, transport, each), found)

    async def _all(self, send: Callable[[Notice], Awaitable[bool]], found: list[Notice]) -> list[bool]:
        gate = asyncio.Semaphore(CONCURRENT)

        async def one(notice: Notice) -> bool:
            async with gate:
                return await send(notice)

        done = await asyncio.gather(*map(one, found), return_exceptions=True)
        # Each comes to its end before the failure of one is told.
        failures = [each for each in done if isinstance(each, BaseException)]
        if failures:
            raise failures[0]
        return [each is True for each in done]

    async def _send(self, name: str, receiver: Receiver, transport: Transport, notice: Notice) -> bool:
        failure = await self._try(name, receiver, transport, notice)
        repost = receiver.repost if receiver.alertmanager else None

        async def mark() -> None:
            if failure is None:
                await notices.mark_told(self._database, name, notice, self._now(), repost)
            else:
                reached = sorted(failure.reached)
                await notices.mark_missed(self._database, name, notice, str(failure), reached, self._now())

        await through_outage(mark, MARKING, self._observer.outage)
        return failure is None

    async def _send_again(self, name: str, receiver: Receiver, transport: Transport, notice: Notice) -> bool:
        assert notice.alert is not None
        alert = notice.alert
        failure = await self._try(name, receiver, transport, notice)

        async def mark() -> None:
            if failure is None:
                await reposts.told(self._database, name, alert, self._now(), receiver.repost)
            else:
                sooner = receiver.repost // _SOONER
                await reposts.missed(self._database, name, alert, str(failure), self._now(), sooner)

        await through_outage(mark, MARKING, self._observer.outage)
        return failure is None

    async def _try(
        self, name: str, receiver: Receiver, transport: Transport, notice: Notice
    ) -> NotSentError | None:
        """Send a notice; returns why the receiver does not have it, without what is secret, or None."""
        try:
            await transport.send(notice, self._now())
        except NotSentError as error:
            failure = NotSentError(receiver.hide(str(error)), error.reached)
        except Exception as error:
            # A fault of ours in one notice must not hold up the others for as long as leases last.
            failure = NotSentError(receiver.hide(f"{type(error).__name__}: {error}"), notice.reached)
        else:
            self._observer.notified(name, "sent")
            return None
        self._observer.notified(name, "failed")
        log.warning("not sent", receiver=name, reason=failure.reason, message=str(failure))
        return failure
