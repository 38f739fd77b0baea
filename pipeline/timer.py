"""What a worker does every few seconds beside its chunks; a step that fails holds up no other."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import structlog

from pipeline.assignment import Assignment, Partition
from pipeline.clock_guard import ClockGuard
from pipeline.compose import Pipeline
from pipeline.deliver import KafkaOutlet
from pipeline.dispatch import Dispatch
from pipeline.flow import Flow
from pipeline.store import outbox
from pipeline.store.rule_sets import remember_rules
from pipeline.sweep import sweep
from pipeline.times import now
from schemas.errors import BundleError, ContradictionError, SalienceError

log = structlog.get_logger("salience.worker")

# Seconds between two rounds; rounds between two looks at whether the topics are still the same, and between two
# notes of which rules are in use.
_ROUND = 2.0
_TOPICS = 5
_RULES = 30
# Seconds of a round that decisions of a stream may take: one that catches up must not hold up the rest.
_DECIDING = 1.0


class Timer:
    """Writes what was confirmed and that the worker lives, closes ticks, sends leftovers, loads bundles ahead."""

    def __init__(
        self,
        pipeline: Pipeline,
        flows: Mapping[str, Flow],
        outlet: KafkaOutlet,
        assignment: Assignment,
        fetched: Callable[[Partition], int | None],
        refuse: Callable[[BaseException], None],
    ) -> None:
        self._pipeline = pipeline
        self._flows = flows
        self._outlet = outlet
        self._assignment = assignment
        self._fetched = fetched
        self._refuse = refuse

    async def run(self) -> None:
        """Go on until cancelled."""
        pipeline = self._pipeline
        dispatch = Dispatch(pipeline.database, lambda: pipeline.watch.rules.receivers, now, pipeline.observer)
        guard = ClockGuard(pipeline.database)
        try:
            await self._rounds(dispatch, guard)
        finally:
            await dispatch.close(pipeline.settings.worker.shutdown_timeout * 0.5)

    async def _rounds(self, dispatch: Dispatch, guard: ClockGuard) -> None:
        rounds = 0
        while True:
            await asyncio.sleep(_ROUND)
            rounds += 1
            await self._step("progress", self._pipeline.flush)
            if self._assignment.reading:
                await self._step("beat", lambda: self._assignment.beat(self._fetched))
                await self._step("close", partial(self._close, guard))
            await self._step("outbox", self._sweep)
            await self._step("rules", lambda: self._pipeline.watch.look(now()))
            await self._step("receivers", dispatch.round)
            await self._step("bundles", lambda: self._pipeline.active.refresh(now()))
            if rounds % _TOPICS == 0:
                await self._step("topics", self._assignment.check)
            if rounds % _RULES == 0:
                await self._step("rules in use", self._use_rules)

    async def _close(self, guard: ClockGuard) -> None:
        moment = now()
        if not await guard.agrees(moment):
            return
        for stream, flow in self._flows.items():
            await self._step(f"close {stream}", partial(self._close_stream, stream, flow, moment))

    async def _close_stream(self, stream: str, flow: Flow, moment: int) -> None:
        closed = await flow.close(stream, moment, _DECIDING)
        self._pipeline.observer.clock(stream, closed.watermark, len(closed.waits_for))

    async def _sweep(self) -> None:
        database = self._pipeline.database
        await sweep(database, self._outlet, now)
        self._pipeline.observer.outbox(*await outbox.waiting(database), now())

    async def _use_rules(self) -> None:
        await remember_rules(self._pipeline.database, self._pipeline.watch.rules, now())

    async def _step(self, what: str, step: Callable[[], Awaitable[object]]) -> None:
        try:
            await step()
        except (ContradictionError, BundleError) as error:
            self._refuse(error)
        except SalienceError as error:
            log.warning("timer", step=what, reason=error.reason, message=str(error))
        except Exception as error:
            # The next round may do better, and the chunks in work do not depend on it.
            log.exception("timer", step=what, reason="bug", message=str(error))
