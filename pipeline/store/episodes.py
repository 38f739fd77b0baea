"""Alerts of rules that count: begun, fired and resolved by decisions, whatever people do with them meanwhile."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, bindparam, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.notify import messages
from pipeline.store import outbox
from pipeline.store.alerts import change, insert_alerts
from pipeline.store.evidence import Snapshot, snapshot
from pipeline.store.panels import Counts
from pipeline.surge.groups import Change
from pipeline.surge.rearm import Episode
from pipeline.times import rfc3339
from pipeline.work import AlertRow
from schemas.counting import alert_events, firings
from schemas.tables import alerts

_OPEN = ("pending", "firing", "acknowledged")

Firing = dict[str, dict[str, Episode]]


async def open_episodes(connection: AsyncConnection, stream: str) -> Firing:
    """What is pending or firing, by rule and group."""
    found: Firing = {}
    for row in await connection.execute(select(firings).where(firings.c.stream == stream)):
        due = None if row.due_time is None else row.due_time / 1e6
        found.setdefault(row.rule, {})[row.group] = Episode(row.start_time / 1e6, row.last_time / 1e6, None, due)
    return found


class Told:
    """Writes what decisions make of alerts, and puts what is to be said of it into the outbox."""

    def __init__(self, topic: str, tick: int, notify: bool) -> None:
        self._topic = topic
        self._tick = tick
        self._notify = notify

    async def write(
        self,
        connection: AsyncConnection,
        counts: Counts,
        bundle: str,
        firing: Mapping[str, Episode],
        found: Sequence[Change],
        now: int,
    ) -> int:
        """Write the changes of one rule's alerts; returns how many there were."""
        for each in found:
            of = _Key(counts.rule.stream, counts.rule.name, each.group)
            if each.turn in ("resolved", "dropped"):
                await self._end(connection, of, each, now)
            elif each.turn == "pending" or not await self._fire_pending(connection, counts, of, each, now):
                await self._begin(connection, counts, bundle, each, now)
        await self._go_on(connection, counts.rule.stream, counts.rule.name, firing)
        return len(found)

    async def drop_unruled(
        self, connection: AsyncConnection, stream: str, firing: Firing, names: set[str], now: int
    ) -> int:
        """Resolve what fires for rules that are no longer in force; takes it out of `firing`."""
        gone = sorted(set(firing) - names)
        for rule in gone:
            for group, episode in sorted(firing.pop(rule).items()):
                ended = Change(episode.last, group, "resolved", episode, 0.0, 0.0, 0.0)
                of = _Key(stream, rule, group)
                await self._end(connection, of, ended, now, note="the rule is no longer in force")
        return len(gone)

    async def _begin(
        self, connection: AsyncConnection, counts: Counts, bundle: str, each: Change, now: int
    ) -> None:
        taken = await snapshot(connection, counts, each, bundle)
        row = self._row(counts, bundle, each, taken)
        stored = await insert_alerts(connection, [row], None, now)
        for number, alert in stored:
            await self._link(connection, number, taken)
            values = {
                "rule": alert.rule,
                "group": alert.group,
                "stream": alert.stream,
                "start_time": alert.start,
                "last_time": alert.start,
                "due_time": None if each.episode.due is None else _microseconds(each.episode.due),
                "alert": number,
            }
            await connection.execute(insert(firings).values(values))
            if alert.state == "firing":
                await self._say(connection, alert, now)

    async def _fire_pending(
        self, connection: AsyncConnection, counts: Counts, of: "_Key", each: Change, now: int
    ) -> bool:
        """Let a pending alert fire, with the evidence of this moment; False where there is none."""
        row = await _firing(connection, of)
        if row is None or row.due_time is None:
            return False
        taken = await snapshot(connection, counts, each, row.bundle)
        evidence = update(alerts).where(alerts.c.id == row.alert).values(evidence=taken.evidence)
        await connection.execute(evidence)
        await self._link(connection, row.alert, taken)
        await connection.execute(update(firings).where(*of.found).values(due_time=None))
        if row.state == "pending":
            await self._say(connection, await change(connection, row.alert, "firing", now), now)
        return True

    async def _end(
        self, connection: AsyncConnection, of: "_Key", each: Change, now: int, note: str | None = None
    ) -> None:
        row = await _firing(connection, of)
        if row is None:
            return
        await connection.execute(delete(firings).where(*of.found))
        end = _microseconds(each.episode.end if each.episode.end is not None else each.episode.last)
        if row.state not in _OPEN:
            # A person has resolved it: nothing is left to be said.
            await connection.execute(update(alerts).where(alerts.c.id == row.alert).values(end_time=end))
            return
        if each.turn == "dropped":
            note = "the evidence did not last"
        alert = await change(connection, row.alert, "resolved", now, note=note, end=end)
        if row.state != "pending":
            await self._say(connection, alert, now)

    async def _go_on(
        self, connection: AsyncConnection, stream: str, rule: str, firing: Mapping[str, Episode]
    ) -> None:
        if not firing:
            return
        of_group = (firings.c.stream == stream, firings.c.rule == rule, firings.c.group == bindparam("of_group"))
        later = update(firings).where(*of_group, firings.c.last_time < bindparam("last"))
        seen = [{"of_group": group, "last": _microseconds(each.last)} for group, each in sorted(firing.items())]
        await connection.execute(later.values(last_time=bindparam("last")), seen)

    async def _link(self, connection: AsyncConnection, alert: int, taken: Snapshot) -> None:
        await connection.execute(delete(alert_events).where(alert_events.c.alert == alert))
        if taken.events:
            rows = [{"alert": alert, "event": event} for event in sorted(set(taken.events))]
            await connection.execute(insert(alert_events), rows)

    async def _say(self, connection: AsyncConnection, alert: AlertRow, now: int) -> None:
        if self._notify:
            await outbox.put(connection, messages(self._topic, alert), now, now)

    def _row(self, counts: Counts, bundle: str, each: Change, taken: Snapshot) -> AlertRow:
        rule, start = counts.rule, _microseconds(each.episode.start)
        return AlertRow(
            rule=rule.name,
            group=each.group,
            episode=rfc3339(start),
            kind=rule.kind,
            state="pending" if each.turn == "pending" else "firing",
            severity=rule.severity,
            stream=rule.stream,
            start=start,
            visible_tick=_microseconds(each.moment) // self._tick - 1,
            definition=rule.definition,
            bundle=bundle,
            evidence=taken.evidence,
            receivers=rule.receivers,
        )


class _Key(NamedTuple):
    """What a firing is known by."""

    stream: str
    rule: str
    group: str

    @property
    def found(self) -> tuple[ColumnElement[bool], ...]:
        return firings.c.stream == self.stream, firings.c.rule == self.rule, firings.c.group == self.group


async def _firing(connection: AsyncConnection, of: _Key) -> Any:
    query = (
        select(firings, alerts.c.state, alerts.c.bundle)
        .join_from(firings, alerts, alerts.c.id == firings.c.alert)
        .where(*of.found)
    )
    # A person may be about to change the alert.
    return (await connection.execute(query.with_for_update(of=alerts))).one_or_none()


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
