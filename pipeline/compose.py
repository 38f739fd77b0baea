"""The one place where the parts are put together; a worker, a back-fill, the demo and the tests all call it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from models.runtime import load_scorer
from models.scorer import Scorer
from pipeline.caution import Caution
from pipeline.dead_share import DeadShare
from pipeline.decode import Decoder
from pipeline.deliver import Outlet
from pipeline.flow import Flow
from pipeline.lane import Lane
from pipeline.observe import Observer
from pipeline.react.alerts import MatchAlerts
from pipeline.rules import RuleSet, load_rules
from pipeline.score import Scoring
from pipeline.settings import Settings
from pipeline.store.chunks import ChunkStore
from pipeline.store.database import ANSWER, Database
from pipeline.store.migrate import Instance, check
from pipeline.store.rule_sets import remember_rules
from pipeline.times import Now, now
from pipeline.topics import Topics
from schemas.labels import STREAMS


class Pipeline:
    """All streams' flows over one model and one database. Use as `async with`."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        instance: Instance,
        scorer: Scorer,
        rules: RuleSet,
        clock: Now,
    ) -> None:
        self.settings = settings
        self.database = database
        self.instance = instance
        self.scorer = scorer
        self.rules = rules
        self.observer = Observer()
        self.caution = Caution(database, settings.database.outage_deadline, clock, self.observer)
        self._now = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._scoring = Scoring(scorer, database, self._thread)
        self._store = ChunkStore(database, instance)
        self._topics = Topics(settings.broker.prefix)

    def flow(self, stream: str, outlet: Outlet, notify: bool = True) -> Flow:
        """The way of one stream's chunks."""
        reactions = [MatchAlerts(self.rules, stream, self._topics.alerts, self.scorer.bundle)]
        return Flow(
            Decoder(stream, self.instance.hash_key, self.settings.events),
            self._scoring,
            self._store,
            reactions,
            outlet,
            topic=self._topics.inputs[stream],
            rules=self.rules.version if self.rules.rules else None,
            deadline=self.settings.database.outage_deadline,
            now=self._now,
            observer=self.observer,
            dead_share=DeadShare(self.settings.events.dead_share),
            notify=notify,
        )

    def lane(self, stream: str, outlet: Outlet, notify: bool = True) -> Lane:
        """A flow with several chunks in work."""
        depth = self.settings.worker.chunks_in_work
        return Lane(self.flow(stream, outlet, notify), depth, self.observer, self.caution)

    async def flush(self) -> None:
        """Write down what the broker has confirmed."""
        await self._store.flush(self._now())

    def drop_confirmed(self) -> None:
        """Forget what of it is not written down: the partitions have gone."""
        self._store.drop_confirmed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        await self.database.close()


async def compose(settings: Settings, *, scorer: Scorer | None = None, clock: Now = now) -> Pipeline:
    """Open the database, load the model and the rules.

    Raises:
        ConfigError: one of them is not usable, with the mend.
        DatabaseError: the database is away.
    """
    database = Database(settings.database, ANSWER)
    try:
        instance = await check(database)
        model = await asyncio.to_thread(open_scorer, settings) if scorer is None else scorer
        rules = load_rules(settings.rules.file, {stream: model.labels(stream) for stream in STREAMS})
        await remember_rules(database, rules, clock())
        return Pipeline(settings, database, instance, model, rules, clock)
    except BaseException:
        await database.close()
        raise


def open_scorer(settings: Settings) -> Scorer:
    """Load the model and run it once."""
    model = settings.model
    scorer = load_scorer(
        model.bundle,
        provider=model.provider,
        threads=model.threads,
        batch_tokens=model.batch_tokens,
        cache_size=model.cache,
        top_words=model.top_words,
    )
    scorer.warm_up()
    return scorer
