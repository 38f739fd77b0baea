"""The one place where the parts are put together; a worker, a back-fill, the demo and the tests all call it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from models.runtime import load_scorer
from models.scorer import Scorer
from pipeline.active import ActiveBundle, labels_by_stream
from pipeline.caution import Caution
from pipeline.dead_share import DeadShare
from pipeline.decode import Decoder
from pipeline.deliver import Outlet
from pipeline.flow import Flow
from pipeline.gazetteer.match import load_gazetteer
from pipeline.gazetteer.mentions import Mentions
from pipeline.lane import Lane
from pipeline.observe import Observer
from pipeline.react import Reaction
from pipeline.react.alerts import MatchAlerts
from pipeline.react.counts import CountEvents
from pipeline.rule_watch import RuleWatch
from pipeline.rules import RuleSet
from pipeline.rules_file import load_rules
from pipeline.score import Scoring
from pipeline.settings import Settings
from pipeline.store.bundles import Registered
from pipeline.store.chunks import ChunkStore
from pipeline.store.database import ANSWER, Database
from pipeline.store.decide import Decisions
from pipeline.store.migrate import Instance, check
from pipeline.store.rule_sets import remember_rules
from pipeline.store.rulebook import Rulebook
from pipeline.times import Now, now
from pipeline.topics import Topics


class Pipeline:
    """All streams' flows over one database and the bundle that is active. Use as `async with`."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        instance: Instance,
        active: ActiveBundle,
        rules: RuleSet,
        clock: Now,
        mentions: Mentions | None = None,
    ) -> None:
        self.settings = settings
        self.database = database
        self.instance = instance
        self.active = active
        self.rules = rules
        self.observer = Observer()
        self.caution = Caution(database, settings.database.outage_deadline, clock, self.observer)
        self._now = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._scoring = Scoring(active, database, self._thread, mentions)
        self._topics = Topics(settings.broker.prefix)
        self._store = ChunkStore(database, instance, Rulebook(rules, instance.tick))
        self._decisions = Decisions(database, instance.tick, self._topics.alerts)
        self.watch = RuleWatch(database, instance.tick, settings.rules.file, rules, active.labels)

    def flow(self, stream: str, outlet: Outlet, notify: bool = True) -> Flow:
        """The way of one stream's chunks."""
        reactions: list[Reaction] = [MatchAlerts(self._topics.alerts), CountEvents()]
        return Flow(
            Decoder(stream, self.instance.hash_key, self.settings.events),
            self._scoring,
            self._store,
            self._decisions,
            reactions,
            outlet,
            topic=self._topics.inputs[stream],
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
        self.active.close()
        self._thread.shutdown(wait=False, cancel_futures=True)
        await self.database.close()


async def compose(
    settings: Settings, *, scorer: Scorer | None = None, clock: Now = now, announces: bool = True
) -> Pipeline:
    """Open the database, load the active bundle, the rules and the gazetteer.

    `scorer` takes the place of the bundle that the settings name. `announces`: the rules of the settings are to be
    in force; a back-fill goes by its own and changes nothing for workers.

    Raises:
        ConfigError: one of them is not usable, with the mend.
        DatabaseError: the database is away.
    """
    database = Database(settings.database, ANSWER)
    active = None

    def open_bundle(bundle: Registered | None) -> Scorer:
        if bundle is None and scorer is not None:
            return scorer
        return open_scorer(settings, None if bundle is None else bundle.path)

    try:
        instance = await check(database)
        moment = clock()
        active = ActiveBundle(database, instance.tick, open_bundle)
        labels = labels_by_stream(await active.at(moment))
        # Whoever runs no rules tells nobody, and may lack the secrets for it.
        active.rules = load_rules(settings.rules.file, labels, receivers=announces)
        gazetteer = await asyncio.to_thread(load_gazetteer, settings.entities.gazetteer)
        await remember_rules(database, active.rules, moment)
        mentions = None if gazetteer is None else Mentions(gazetteer)
        pipeline = Pipeline(settings, database, instance, active, active.rules, clock, mentions)
        if announces:
            await pipeline.watch.begin(moment)
        return pipeline
    except BaseException:
        if active is not None:
            active.close()
        await database.close()
        raise


def open_scorer(settings: Settings, bundle: str | None = None) -> Scorer:
    """Load a bundle, the one that the settings name when none is given, and run it once."""
    model = settings.model
    scorer = load_scorer(
        model.bundle if bundle is None else bundle,
        provider=model.provider,
        threads=model.threads,
        batch_tokens=model.batch_tokens,
        cache_size=model.cache,
        top_words=model.top_words,
    )
    scorer.warm_up()
    return scorer
