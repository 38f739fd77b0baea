"""The course of the demo: set up, send, watch, account for everything, and leave nothing behind."""

import asyncio
import contextlib
import time
from collections.abc import Callable

from pipeline.demo import feed
from pipeline.demo.feed import Feed
from pipeline.demo.options import Options, Result
from pipeline.demo.show import shown
from pipeline.demo.signals import stopping
from pipeline.demo.stage import Stage
from pipeline.demo.view import State
from pipeline.demo.watch import Watch
from pipeline.rules_file import load_rules

# Of the duration, the part in which events are sent; the rest is for working them off.
SENDING = 2 / 3
# Seconds that a slow machine may take longer, as long as it gets on.
_LONGER, _STUCK = 60.0, 10.0
# Seconds between two looks at the database.
_LOOK = 0.4

# Called when all is done and everything stays up until Ctrl-C.
Kept = Callable[[Result], None]


class Demo:
    """One run."""

    def __init__(self, options: Options) -> None:
        options.check()
        self._options = options
        self._stop = asyncio.Event()
        self._begun = time.monotonic()
        # Streams that have rules that count.
        self._counted: set[str] = set()

    async def run(self, kept: Kept | None = None) -> Result:
        """Until everything is accounted for, the time is over, or Ctrl-C.

        Raises:
            SalienceError: something could not start, or ended by itself.
        """
        options = self._options
        stage = Stage(options.broker, options.keep)
        with stopping(self._stop, stage.hurry):
            async with stage:
                state = self._state(stage)
                with shown(state, self._elapsed):
                    result = await self._course(stage, state)
                if options.keep and not self._stop.is_set():
                    if kept is not None:
                        kept(result)
                    await self._keep(stage)
                return result

    def _state(self, stage: Stage) -> State:
        options = self._options
        rules = load_rules(stage.rules, receivers=False).rules
        self._counted = {rule.stream for rule in rules if rule.kind != "match"}
        sending = f"in {options.duration * SENDING:.0f} seconds"
        title = f"a market day, all invented, {sending}" if options.input is None else f"events of {options.input}"
        return State(options.duration, {rule.name: tuple(rule.when.heads) for rule in rules if rule.when}, title)

    async def _course(self, stage: Stage, state: State) -> Result:
        source: Feed | None = None
        try:
            state.phase = "starting broker and database"
            if not self._stop.is_set():
                await stage.start_broker()
            if not self._stop.is_set():
                await stage.start_worker()
                source = self._feed(stage)
                source.start()
            if source is not None:
                await self._follow(stage, state, source)
        finally:
            if source is not None:
                source.stop()
        if not self._options.keep or self._stop.is_set():
            state.phase = "stopping: what is in work is finished"
            await stage.stop_worker()
        return await self._result(stage, state, source)

    def _feed(self, stage: Stage) -> Feed:
        options = self._options
        seconds = max(1.0, options.duration * SENDING - self._elapsed())
        if options.input is None or options.stream is None:
            return Feed(stage.settings.broker, feed.scenario(seconds), seconds, paced=True)
        return Feed(stage.settings.broker, feed.file(options.input, options.stream), seconds, paced=False)

    async def _follow(self, stage: Stage, state: State, source: Feed) -> None:
        """Look until all is accounted for and rules have decided, or nothing gets on after the time is over."""
        assert stage.database is not None
        watch = Watch(stage.database)
        changed, before = self._elapsed(), -1
        while not self._stop.is_set():
            stage.check()
            state.snapshot = await watch.look()
            accounted = source.accounted = state.snapshot.total.accounted
            state.elapsed = self._elapsed()
            state.sent, state.market = dict(source.sent), source.market
            state.rates.note(state.elapsed, state.snapshot.streams)
            finished = source.finished
            state.phase = _phase(accounted, source, finished)
            if finished and accounted >= source.total and await watch.has_decided(self._counted):
                return
            if accounted != before:
                changed, before = state.elapsed, accounted
            late = state.elapsed - self._options.duration
            if late > 0 and (late > _LONGER or state.elapsed - changed > _STUCK):
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _LOOK)

    async def _result(self, stage: Stage, state: State, source: Feed | None) -> Result:
        seconds = round(self._elapsed(), 1)
        state.elapsed = seconds
        if stage.database is not None and source is not None:
            state.snapshot = await Watch(stage.database).look()
            state.sent = dict(source.sent)
        state.phase, state.done = "interrupted" if self._stop.is_set() else "done", not self._stop.is_set()
        total = state.snapshot.total
        sent = source.total if source is not None else 0
        counts = {
            "sent": sent,
            "stored": total.stored,
            "repeated": total.repeated,
            "dead": total.dead,
            "alerts": state.snapshot.alerts,
            "surges": state.snapshot.surges,
            "seconds": seconds,
        }
        cut = source is not None and source.cut
        addresses = stage.addresses if self._options.keep else {}
        return Result(counts, sent == total.accounted, self._stop.is_set(), cut, addresses)

    async def _keep(self, stage: Stage) -> None:
        while not self._stop.is_set():
            stage.check()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _LOOK)

    def _elapsed(self) -> float:
        return time.monotonic() - self._begun


def _phase(accounted: int, source: Feed, finished: bool) -> str:
    waiting = source.total - accounted
    if accounted == 0:
        return f"the worker loads its model and joins the group; {waiting:,} events wait in the broker"
    if finished and not waiting:
        return "all is stored; the rules that count look at the last of it"
    if finished:
        return f"all is sent; {waiting:,} events are still in work"
    return f"sending; {waiting:,} events under way"


async def run_demo(options: Options, kept: Kept | None = None) -> Result:
    """Run the demo; `kept` is called with the result when --keep leaves everything running.

    Raises:
        UsageError: the options do not go together.
        SalienceError: something could not start, or ended by itself.
    """
    return await Demo(options).run(kept)
