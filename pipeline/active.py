"""Which bundle scores: the same at the same tick in every process, as the database says; else the settings'."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from models.scorer import Scorer
from pipeline.rules import RuleSet, check_served
from pipeline.store.bundles import Activation, Registered, in_force, read_activations
from pipeline.store.confusions import remember_confusions
from pipeline.store.database import Database
from schemas.errors import BundleError, ConfigError
from schemas.labels import STREAMS

log = structlog.get_logger("salience.bundles")

# All in microseconds. A decision must be stored this long before its tick begins ...
LEAD = 30 * 1_000_000
# ... and what was read of the decisions holds for this long; the rest is for clocks that differ and for a commit
# that had to wait.
_HOLDS = 15 * 1_000_000
# A bundle is loaded this long before its tick: the largest take a minute, and memory for two is not kept for days.
_AHEAD = 120 * 1_000_000
# A bundle is kept this long after its last tick, for chunks that are still on their way.
_BEHIND = 60 * 1_000_000

# What opens a bundle: given one that was promoted, or None for the settings' own.
Open = Callable[[Registered | None], Scorer]


class ActiveBundle:
    """Knows the decisions and keeps the scorers they ask for, each loaded in a thread of its own.

    Ticks are those of the clock by which a chunk came in, not of its events: workers that read at different
    places of the log change bundles at the same moment.
    """

    def __init__(self, database: Database, tick: int, open_bundle: Open) -> None:
        """`tick` is the width of a tick in microseconds."""
        self._database = database
        self._tick = tick
        self._open = open_bundle
        self._made: Sequence[Activation] = []
        self._holds_until = -1
        self._reading = asyncio.Lock()
        self._scorers: dict[str | None, asyncio.Task[Scorer]] = {}
        self._kept: Scorer | None = None
        # What was logged last: the bundle that scores, and what could not be loaded.
        self._last = self._told = ""
        # What a bundle must be able to serve.
        self.rules = RuleSet()

    async def at(self, now: int) -> Scorer:
        """The scorer of what came in at `now`, microseconds; waits until it is loaded.

        Raises:
            BundleError: it cannot be used here; nothing else may score in its place.
            DatabaseError: what was known of the decisions is too old, and the database is away.
        """
        if self._kept is not None:
            return self._kept
        if now >= self._holds_until:
            await self._read(now)
        made = in_force(self._made, now // self._tick)
        bundle = None if made is None else made.bundle
        task = self._scorers.get(_identity(bundle))
        if task is None or _failure(task) is not None:
            task = self._load(bundle)
        # The load serves others, too: a chunk that is given up must not end it.
        await asyncio.wait([task])
        failure = _failure(task)
        if failure is not None:
            raise self._explained(failure, made)
        scorer = task.result()
        if scorer.bundle != self._last:
            await remember_confusions(self._database, scorer)
            self._last = scorer.bundle
            log.info("scoring", bundle=scorer.bundle, since_tick=None if made is None else made.active_tick)
        return scorer

    async def refresh(self, now: int) -> None:
        """Read the decisions again, and load ahead what will be needed; never waits for a bundle.

        Raises:
            BundleError: the bundle that is in force at `now` cannot be used here.
            DatabaseError: the database is away.
        """
        await self._read(now)
        needed = self._needed(now)
        for identity in [name for name in self._scorers if name not in needed]:
            self._scorers.pop(identity)
        made = in_force(self._made, now // self._tick)
        current = self._scorers.get(None if made is None else made.identity)
        failure = None if current is None else _failure(current)
        if failure is not None:
            raise self._explained(failure, made)
        for identity, each in needed.items():
            task = self._scorers.get(identity)
            if task is None or _failure(task) is not None:
                self._load(None if each is None else each.bundle)

    async def keep(self, now: int) -> None:
        """Whatever is decided later, what is in force at `now` scores to the end."""
        self._kept = await self.at(now)

    def labels(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """What every bundle that is loaded can say, by stream and head: what a rule may name."""
        loaded = [labels_by_stream(each.result()) for each in self._scorers.values() if _loaded(each)]
        common: dict[str, dict[str, tuple[str, ...]]] = {stream: {} for stream in STREAMS}
        for stream, heads in (loaded[0] if loaded else {}).items():
            for name, labels in heads.items():
                if all(name in other[stream] for other in loaded):
                    common[stream][name] = tuple(
                        each for each in labels if all(each in other[stream][name] for other in loaded)
                    )
        return common

    def close(self) -> None:
        """Nothing waits for a bundle any more."""
        for task in self._scorers.values():
            task.cancel()

    async def _read(self, now: int) -> None:
        async with self._reading:
            self._made = await read_activations(self._database)
            self._holds_until = max(self._holds_until, now + _HOLDS)

    def _needed(self, now: int) -> dict[str | None, Activation | None]:
        first, last = (now - _BEHIND) // self._tick, (now + _AHEAD) // self._tick
        ticks = [first, *[each.active_tick for each in self._made if first < each.active_tick <= last]]
        found = [in_force(self._made, tick) for tick in ticks]
        return {None if each is None else each.identity: each for each in found}

    def _load(self, bundle: Registered | None) -> "asyncio.Task[Scorer]":
        for known in self._scorers.values():
            # The settings may name the bundle that was promoted.
            if bundle is not None and _loaded(known) and known.result().bundle == bundle.identity:
                self._scorers[bundle.identity] = known
                return known
        task = asyncio.create_task(asyncio.to_thread(self._opened, bundle))
        self._scorers[_identity(bundle)] = task
        task.add_done_callback(self._tell)
        return task

    def _opened(self, bundle: Registered | None) -> Scorer:
        scorer = self._open(bundle)
        if bundle is not None and scorer.bundle != bundle.identity:
            raise BundleError(f"{bundle.path or 'the packaged bundle'} is {scorer.bundle}, not {bundle.identity}")
        check_served(self.rules, labels_by_stream(scorer), scorer.bundle)
        return scorer

    def _tell(self, task: "asyncio.Task[Scorer]") -> None:
        failure = _failure(task)
        if _loaded(task):
            log.info("loaded", bundle=task.result().bundle)
        elif failure is not None and str(failure) != self._told:
            # It is tried again at every look, until its tick comes.
            self._told = str(failure)
            log.warning("loading", reason=getattr(failure, "reason", "bug"), message=self._told)

    @staticmethod
    def _explained(failure: BaseException, made: Activation | None) -> BaseException:
        if made is None or not isinstance(failure, ConfigError):
            return failure
        bundle = made.bundle
        name = "what SALIENCE_MODEL__BUNDLE names" if bundle is None else f"the bundle {bundle.identity}"
        where = "this installation" if bundle is None or not bundle.path else bundle.path
        return BundleError(
            f"{name} scores from tick {made.active_tick} on and cannot be used here: {str(failure).rstrip('.')}; "
            f"mend {where}, or take another one with `salience model promote`"
        )


def labels_by_stream(scorer: Scorer) -> dict[str, dict[str, tuple[str, ...]]]:
    """Labels of each head, those for entities included, by stream."""
    return {
        stream: {
            **scorer.labels(stream),
            **{name: each.labels for name, each in scorer.countable(stream).items()},
        }
        for stream in STREAMS
    }


def _identity(bundle: Registered | None) -> str | None:
    return None if bundle is None else bundle.identity


def _failure(task: "asyncio.Task[Scorer]") -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None


def _loaded(task: "asyncio.Task[Scorer]") -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
