"""A person is forgotten: what they said and who they are goes, the counted rows stay, readers get tombstones."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType
from sqlalchemy import ColumnElement, bindparam, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store import quotes
from pipeline.store.clock import alone
from pipeline.store.database import Database
from pipeline.store.forget_letters import blank_letters, sought
from pipeline.store.outbox import TOPIC, put
from pipeline.store.retention import BATCH, step
from pipeline.store.rows import conversation_hash, subject_hash
from pipeline.store.subjects import forgotten_moments, remember_forgotten
from pipeline.topics import Topics
from pipeline.work import PARTITION_HEADER, Message, ScoredEvent, alert_name, encode_heads
from schemas.errors import UsageError
from schemas.events import Line
from schemas.messages import BehaviorData, ChatData
from schemas.scores import EntityResult, HeadResult
from schemas.tables import alerts, events, instance, outbox, progress, scores

# Columns of an event that tell what was said, or by whom.
_TELLING = (
    *("text", "title", "url", "entities", "attributes"),
    *("subject", "signature", "session", "language"),
)
# Handles a batch of rows after the given one; returns the last of them, None where there are none, and counts.
_Batch = Callable[..., Awaitable[tuple[int | None, "Counter[str]"]]]


class Forgotten(Struct):
    """How many rows of each kind were blanked, the conversations they were in, and the tombstones to be sent."""

    events: int
    conversations: int
    alerts: int
    messages: int
    tombstones: int
    dead_letters: int


class _Task(Struct, frozen=True):
    """Who is forgotten, at which moment. Rows after `last` came later; tombstones wait until `free_at`."""

    subject: str
    moment: int
    topics: Topics
    key: bytes
    last: int
    conversations: Sequence[str]
    free_at: int

    @property
    def theirs(self) -> ColumnElement[bool]:
        """Rows that name the person."""
        return (events.c.subject == self.subject) & (events.c.id <= self.last)

    @property
    def around(self) -> ColumnElement[bool]:
        """Rows of the person's conversations that do not name them."""
        conversations = select(events.c.conversation).where(self.theirs, events.c.stream == "chat")
        return (
            (events.c.stream == "chat")
            & (events.c.id <= self.last)
            & events.c.forgotten_at.is_(None)
            & events.c.conversation.in_(conversations)
            & or_(events.c.subject.is_(None), events.c.subject != self.subject)
        )


async def forget(database: Database, subject: str, now: int, topics: Topics, settle: int) -> Forgotten:
    """Blank what is stored of a user or customer, and remember them, so that a replay of the log comes in blank.

    Called again, after an interruption or when the person came back, it does what is still to be done.
    `settle` is how long a message that was read before may be on its way to the broker (microseconds): where
    there may be such messages, tombstones wait for it.

    Raises:
        UsageError: the subject is no name.
        DatabaseError: the database is away; calling again finishes the work.
    """
    _check(subject)
    task = await step(database, lambda connection: _remember(connection, subject, now, topics, settle))
    counts: Counter[str] = Counter()
    # Their own rows last: until these are blank, a second call finds the conversations by them.
    counts += await _blank_all(database, partial(_blank_batch, task=task, which=task.around))
    for who in sought(subject, task.conversations):
        counts += await _blank_all(database, partial(blank_letters, who=who, moment=now))
    counts += await _blank_all(database, partial(_blank_batch, task=task, which=task.theirs))
    blanked = {name: counts[name] for name in ("events", "alerts", "messages", "tombstones", "dead_letters")}
    return Forgotten(conversations=len(task.conversations), **blanked)


def _check(subject: str) -> None:
    if not subject.strip():
        raise UsageError("the subject is empty; give the user or customer as their events name them")
    try:
        subject.encode()
    except UnicodeEncodeError:
        raise UsageError("the subject is not UTF-8; give the user or customer as their events name them") from None


async def _remember(connection: AsyncConnection, subject: str, now: int, topics: Topics, settle: int) -> _Task:
    # Alone: a chunk that did not know of it has stored its rows, and one that comes later knows.
    await alone(connection)
    key, before = (await connection.execute(select(instance.c.hash_key, instance.c.forgotten_before))).one()
    last = (await connection.execute(select(func.max(events.c.id)))).scalar_one() or 0
    query = select(events.c.conversation).where(events.c.subject == subject, events.c.stream == "chat")
    conversations = (await connection.execute(query.distinct())).scalars().all()
    hashes = [subject_hash(key, subject), *(conversation_hash(key, each) for each in conversations)]
    await remember_forgotten(connection, dict.fromkeys(hashes, now))
    await connection.execute(update(instance).values(forgotten_before=max(now, before or now)))
    under_way = select(progress.c.topic).where(
        progress.c.published < progress.c.stored, progress.c.ended_at.is_(None)
    )
    settled = (await connection.execute(under_way.limit(1))).first() is None
    return _Task(subject, now, topics, key, last, conversations, now if settled else now + settle)


async def _blank_all(database: Database, batch: "_Batch") -> "Counter[str]":
    """Run `batch` from where it came to, each time in a transaction of its own, until it finds nothing."""
    counts: Counter[str] = Counter()
    after: int | None = 0
    while after is not None:
        after, more = await step(database, partial(batch, after=after))
        counts += more
    return counts


async def _blank_batch(
    connection: AsyncConnection, *, task: _Task, which: ColumnElement[bool], after: int
) -> tuple[int | None, "Counter[str]"]:
    query = (
        select(events.c.id, events.c.stream, events.c.subject, events.c.conversation, events.c.partition)
        .where(which, events.c.id > after)
        .order_by(events.c.id)
        .limit(BATCH)
    )
    found = (await connection.execute(query)).all()
    if not found:
        return None, Counter()
    ids = [row.id for row in found]
    counts = await _blank_rows(connection, ids, task.moment)
    counts["alerts"] += await _correct(connection, task, ids)
    # Once they are blank: a message that was claimed until then is on its way as it was.
    free_at = max(task.free_at, await _leased_until(connection, outbox.c.event.in_(ids)))
    tombstones = await _of_alerts(connection, task, ids) + _of_scored(task, found)
    counts["tombstones"] = len(await put(connection, tombstones, task.moment, free_at))
    return ids[-1], counts


async def _correct(connection: AsyncConnection, task: _Task, ids: Sequence[int]) -> int:
    """Take these events out of alerts that quote several; the topic gets those anew. Returns how many."""
    quoting = await quotes.take_out(connection, ids, quotes.FORGOTTEN)
    if quoting:
        about = outbox.c.alert.in_([row.id for row in quoting])
        free_at = max(task.free_at, await _leased_until(connection, about))
        anew = await quotes.corrections(connection, quoting, task.topics.alerts, task.moment)
        await put(connection, anew, task.moment, free_at)
    return len(quoting)


async def _leased_until(connection: AsyncConnection, which: ColumnElement[bool]) -> int:
    """Until when somebody may be sending one of these messages to a topic."""
    unsent = outbox.c.sent_at.is_(None) & outbox.c.receiver.startswith(TOPIC)
    query = select(func.max(outbox.c.lease_until)).where(which, unsent)
    return (await connection.execute(query)).scalar_one() or 0


async def _blank_rows(connection: AsyncConnection, ids: Sequence[int], moment: int) -> "Counter[str]":
    """Blank these events with their scores, alerts and messages; an unsent message becomes a tombstone."""
    blank = dict.fromkeys(_TELLING) | {"forgotten_at": moment}
    await connection.execute(update(events).where(events.c.id.in_(ids)).values(blank))
    await _blank_scores(connection, ids)
    of_alerts = update(alerts).where(alerts.c.event.in_(ids))
    raised = await connection.execute(of_alerts.values(evidence={"forgotten": True}, updated_at=moment))
    # A tombstone is for a key.
    await connection.execute(delete(outbox).where(outbox.c.event.in_(ids), outbox.c.key.is_(None)))
    telling = update(outbox).where(outbox.c.event.in_(ids), outbox.c.value.is_not(None))
    messages = await connection.execute(telling.values(value=None, headers=[]))
    return Counter(events=len(ids), alerts=raised.rowcount, messages=messages.rowcount)


async def _blank_scores(connection: AsyncConnection, ids: Sequence[int]) -> None:
    query = select(scores.c.event, scores.c.bundle, scores.c.heads).where(scores.c.event.in_(ids))
    bare = [
        {"of": event, "by": bundle, "bare": {name: _without_text(head) for name, head in heads.items()}}
        for event, bundle, heads in await connection.execute(query)
    ]
    if bare:
        one = update(scores).where(scores.c.event == bindparam("of"), scores.c.bundle == bindparam("by"))
        await connection.execute(one.values(heads=bindparam("bare"), embedding=None, scale=None), bare)


def _without_text(head: Mapping[str, Any]) -> dict[str, Any]:
    """A head's stored result without what it took from the text: words, and entities where it finds such."""
    return {name: [] if name in ("words", "entities") else value for name, value in head.items()}


async def _of_alerts(
    connection: AsyncConnection, task: _Task, ids: Sequence[int]
) -> list[tuple[str, Message, int | None]]:
    named = (alerts.c.rule, alerts.c.group, alerts.c.episode, alerts.c.version)
    tombstones: list[tuple[str, Message, int | None]] = []
    for rule, group, episode, version in await connection.execute(select(*named).where(alerts.c.event.in_(ids))):
        name = alert_name(rule, group, episode)
        message = Message(task.topics.alerts, name.encode(), None, version=version)
        tombstones.append((f"{name}:forgotten:{task.moment}:topic:{message.topic}", message, None))
    return tombstones


def _of_scored(task: _Task, found: Sequence[Any]) -> list[tuple[str, Message, int | None]]:
    keys = {(row.conversation if row.stream == "chat" else row.subject, row.partition) for row in found}
    tombstones: list[tuple[str, Message, int | None]] = []
    for key, partition in sorted(keys):
        headers = [(PARTITION_HEADER, str(partition).encode())]
        message = Message(task.topics.scored, key.encode(), None, headers)
        name = f"{subject_hash(task.key, key).hex()}/{partition}"
        tombstones.append((f"{name}:forgotten:{task.moment}:topic:{message.topic}", message, None))
    return tombstones


async def blank_forgotten(
    connection: AsyncConnection, hash_key: bytes, chunk: Sequence[ScoredEvent], before: int | None
) -> list[int | None]:
    """Blank the events of a chunk that are from before their person or conversation was forgotten.

    `before` is the latest moment at which anybody was forgotten (microseconds): younger events cost nothing.
    Returns for each event the moment by which it is blank, None where it stays as it is. Safe to call again with
    the same events, when the transaction is. Blank events of a person in a conversation that was not known to
    be theirs make that conversation forgotten too, with what is stored of it.
    """
    old = [] if before is None else [each for each in chunk if each.event.time <= before]
    if old:
        names = {id(each): _names(hash_key, each) for each in old}
        known = await forgotten_moments(connection, {name for each in names.values() for name in each})
        for each in old:
            _blank_if(each, [known[name] for name in names[id(each)] if name in known])
        await _blank_met(connection, hash_key, old, known)
    return [each.forgotten for each in chunk]


def _names(key: bytes, each: ScoredEvent) -> list[bytes]:
    """The hashes by which an event's person and conversation would be remembered."""
    data, subject = each.event.data, each.event.subject
    names = [subject_hash(key, subject)] if subject else []
    if isinstance(data, ChatData):
        names.append(conversation_hash(key, data.conversation))
    return names


def _blank_if(each: ScoredEvent, moments: Sequence[int]) -> None:
    """Blank the event where it is from before the latest of the moments."""
    latest = max(moments, default=None)
    if latest is None or each.forgotten is not None or each.event.time > latest:
        return
    event, data = each.event, each.event.data
    each.forgotten, each.signature, event.mentions = latest, None, ()
    # Should it become a dead letter, that one holds nothing either.
    event.record = Line(event.record.offset, None, None, event.record.timestamp)
    if isinstance(data, BehaviorData):
        # Its score is that of the item, which is not theirs.
        event.data = msgspec.structs.replace(data, user="", text=None, session=None, attributes=None)
    elif isinstance(data, ChatData):
        event.data = msgspec.structs.replace(data, customer=None, text="", language=None, attributes=None)
        if each.score is not None:
            heads = {name: _bare(head) for name, head in each.score.heads.items()}
            each.score = msgspec.structs.replace(each.score, heads=heads, embedding=b"", scale=0.0)
            each.heads = encode_heads(each.score)


def _bare(head: HeadResult) -> HeadResult:
    found: list[EntityResult] | UnsetType = UNSET if head.entities is UNSET else []
    return msgspec.structs.replace(head, words=[], entities=found)


async def _blank_met(
    connection: AsyncConnection, key: bytes, old: Sequence[ScoredEvent], known: Mapping[bytes, int]
) -> None:
    """Forget the conversations in which a forgotten person turns up late."""
    met: dict[str, int] = {}
    for each in old:
        if each.forgotten is not None and isinstance(each.event.data, ChatData):
            name = each.event.data.conversation
            if known.get(conversation_hash(key, name), -1) < each.forgotten:
                met[name] = max(each.forgotten, met.get(name, each.forgotten))
    if not met:
        return
    await remember_forgotten(connection, {conversation_hash(key, name): moment for name, moment in met.items()})
    for each in old:
        if isinstance(each.event.data, ChatData) and each.event.data.conversation in met:
            _blank_if(each, [met[each.event.data.conversation]])
    for name, moment in met.items():
        stored = select(events.c.id).where(
            events.c.stream == "chat",
            events.c.conversation == name,
            events.c.event_time <= moment,
            events.c.forgotten_at.is_(None),
        )
        ids = (await connection.execute(stored)).scalars().all()
        if ids:
            await _blank_rows(connection, ids, moment)
            await quotes.take_out(connection, ids, quotes.FORGOTTEN)
