"""The checker finds what it is there to find: each kind of damage, in a database that the pipeline filled."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from check import Account, Seen, account, look_at_database, lost_and_twice
from feed import BRITTLE, RULES, Sent, script
from sqlalchemy import text
from workers import Deployment

from models.stub import StubScorer
from pipeline.compose import compose
from pipeline.deliver import MemoryOutlet
from pipeline.store.database import Database
from pipeline.turn import Turn
from schemas.events import Chunk, Line, Place
from schemas.labels import STREAMS

COUNT = 300


class Filled:
    """A database with all events in it, and what was sent to the topics."""

    def __init__(self, folder: Path) -> None:
        (folder / "rules.yaml").write_text(RULES)
        url = f"sqlite:///{folder / 's.db'}"
        rules = {"file": str(folder / "rules.yaml")}
        self.deployment = Deployment(folder, "127.0.0.1:9", url, "c", rules=rules).prepare(topics=False)
        self.sent, self.values = script(COUNT, brittle=True)
        self.ends: dict[tuple[str, int], int] = {}
        self.outlet = MemoryOutlet()
        asyncio.run(self._fill())

    async def _fill(self) -> None:
        async with await compose(self.deployment.settings, scorer=StubScorer(BRITTLE)) as pipeline:
            for stream in STREAMS:
                lines = [
                    Line(offset, value, event.key.encode())
                    for offset, (event, value) in enumerate(self._of(stream))
                ]
                place = Place(stream, "cluster", f"c.{stream}", "first", 0)
                await pipeline.flow(stream, self.outlet).process(Chunk(place, lines), Turn())
                self.ends[f"c.{stream}", 0] = len(lines)

    def _of(self, stream: str) -> list[tuple[Sent, bytes]]:
        pairs = zip(self.sent, self.values, strict=True)
        return [(event, value) for event, value in pairs if event.stream == stream]

    def seen(self) -> Seen:
        """What a look at database and topics gives."""
        seen = look_at_database(self.deployment)
        seen.scored = Counter(each.id for each in self.outlet.scored)
        messages = [json.loads(each.value or b"") for each in self.outlet.messages]
        seen.alerts_sent = Counter(each["episode"].rpartition("/")[2] for each in messages)
        seen.letters_sent = Counter(json.loads(each.value or b"")["id"] for each in self.outlet.dead)
        seen.ends = dict(self.ends)
        return seen

    def damage(self, *statements: str) -> Account:
        """Run the statements, then take the account."""

        async def run() -> None:
            database = Database(self.deployment.settings.database)
            async with database.begin() as connection:
                for statement in statements:
                    await connection.execute(text(statement))
            await database.close()

        asyncio.run(run())
        return account(self.sent, self.seen())

    def first(self, chosen: Callable[[Sent], Any]) -> str:
        return next(event.id for event in self.sent if chosen(event))

    @property
    def plain(self) -> str:
        """An event without anything special."""
        return self.first(lambda event: event.number > 1 and not event.alarm and not event.brittle)


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    return Filled(tmp_path)


def copy(table: str, where: str, **changed: str) -> str:
    """A statement that inserts a row again, some columns changed."""
    from schemas.tables import metadata

    names = [column.name for column in metadata.tables[table].columns if column.name != "id"]
    values = [changed.get(name, f'"{name}"') for name in names]
    columns = ", ".join(f'"{name}"' for name in names)
    return f"INSERT INTO {table} ({columns}) SELECT {', '.join(values)} FROM {table} WHERE {where}"


def test_where_nothing_went_wrong_nothing_is_found(filled: Filled) -> None:
    found = account(filled.sent, filled.seen())

    brittle = [event.id for event in filled.sent if event.brittle]
    assert found.wrong() == {}
    assert sorted(found.dead) == sorted(brittle)
    assert len(brittle) > 1
    assert (found.produced, found.stored, found.repeated) == (COUNT, COUNT - len(brittle), 0.0)


def test_a_missing_row_is_a_lost_event_and_progress_is_ahead_of_it(filled: Filled) -> None:
    found = filled.damage(f"DELETE FROM events WHERE event_id = '{filled.plain}'")

    assert found.lost == [filled.plain]
    assert len(found.progress) == 1


def test_a_lost_event_of_an_alarm_leaves_an_alert_too_many(filled: Filled) -> None:
    alarm = filled.first(lambda event: event.alarm)
    found = filled.damage(f"DELETE FROM events WHERE event_id = '{alarm}'")

    assert found.lost == [alarm]
    assert found.alerts[0] == f"{alarm} has 1 alerts, not 0"


def test_a_row_that_is_there_twice_is_found(filled: Filled) -> None:
    found = filled.damage(copy("events", f"event_id = '{filled.plain}'", source="'elsewhere'"))

    assert found.twice == [f"{filled.plain} (stored 2, dead 0)"]


def test_a_dead_letter_that_is_there_twice_is_found(filled: Filled) -> None:
    letter = filled.seen().letters[0]
    where = f"topic = '{letter.topic}' AND \"offset\" = {letter.offset}"
    found = filled.damage(copy("dead_letters", where, identity="x'00'"))

    assert found.twice == [f"{letter.id} (stored 0, dead 2)"]


def test_an_event_that_is_both_stored_and_dead_is_found(filled: Filled) -> None:
    value = filled.values[[event.id for event in filled.sent].index(filled.plain)].hex()
    found = filled.damage(copy("dead_letters", "id = 1", identity="x'00'", value=f"x'{value}'"))

    assert found.twice == [f"{filled.plain} (stored 1, dead 1)"]
    assert filled.plain in found.unexpected


def test_one_more_dead_letter_is_expected_where_a_failure_may_cost_one(filled: Filled) -> None:
    seen = filled.seen()
    row = next(row for row in seen.rows if row.id == filled.plain)
    seen.rows.remove(row)
    seen.letters.append(type(seen.letters[0])(row.id, row.topic, row.partition, row.offset, "unscorable"))
    seen.letters_sent[row.id] = 1

    assert account(filled.sent, seen, spare=1).unexpected == []
    assert account(filled.sent, seen).unexpected == [filled.plain]


def test_a_dead_letter_that_is_no_message_is_found(filled: Filled) -> None:
    filled.outlet.dead.pop()

    assert len(account(filled.sent, filled.seen()).unexpected) == 1


def test_two_events_of_a_key_that_changed_places_are_found(filled: Filled) -> None:
    seen = filled.seen()
    keys = {event.id: event.key for event in filled.sent}
    first = seen.rows[0]
    second = next(row for row in seen.rows[1:] if keys[row.id] == keys[first.id])
    found = filled.damage(
        f"UPDATE events SET event_id = '?' WHERE id = {first.row}",
        f"UPDATE events SET event_id = '{first.id}' WHERE id = {second.row}",
        f"UPDATE events SET event_id = '{second.id}' WHERE id = {first.row}",
    )

    assert found.disordered == [first.id]


def test_a_missing_alert_is_found(filled: Filled) -> None:
    alarm = filled.first(lambda event: event.alarm)
    found = filled.damage(f"DELETE FROM alerts WHERE episode LIKE '%/{alarm}'")

    assert found.alerts == [f"{alarm} has 0 alerts, not 1"]


def test_an_alert_that_is_there_twice_is_found(filled: Filled) -> None:
    alarm = filled.first(lambda event: event.alarm)
    found = filled.damage(copy("alerts", f"episode LIKE '%/{alarm}'", rule="'another'"))

    assert found.alerts == [f"{alarm} has 2 alerts, not 1"]


def test_an_alert_that_was_not_sent_is_found(filled: Filled) -> None:
    alarm = json.loads(filled.outlet.messages.pop().value or b"")["episode"].rpartition("/")[2]

    assert account(filled.sent, filled.seen()).alerts == [f"{alarm}: 0 messages of 1 alerts"]


def test_a_stored_event_without_a_scored_message_is_found_and_a_second_one_is_a_repeated_read(
    filled: Filled,
) -> None:
    gone = filled.outlet.scored.pop().id
    filled.outlet.scored.append(filled.outlet.scored[0])
    found = account(filled.sent, filled.seen())

    assert found.unscored == [gone]
    assert found.repeated == 1 / COUNT


@pytest.mark.parametrize(
    "change",
    [
        "stored = stored + 1",
        "stored = stored - 1",
        "stored = stored + 1, repeated = repeated + 1",
        "published = stored + 1",
        "new = new - 1, repeated = repeated + 1",
        "new = new + 1, dead = dead - 1",
    ],
)
def test_progress_that_does_not_fit_the_rows_is_found(filled: Filled, change: str) -> None:
    found = filled.damage(f"UPDATE progress SET {change} WHERE topic = 'c.news'")

    assert found.progress
    assert all(each.startswith("c.news/0: ") for each in found.progress)


def test_progress_that_is_missing_is_found(filled: Filled) -> None:
    assert filled.damage("DELETE FROM progress WHERE topic = 'c.news'").progress == [
        "c.news/0: rows without progress"
    ]


def test_an_acknowledgement_ahead_of_the_rows_is_found(filled: Filled) -> None:
    seen = filled.seen()
    seen.committed["c.chat", 0] = filled.ends["c.chat", 0] + 1

    assert len(account(filled.sent, seen).progress) == 1


def test_of_plain_rows_the_missing_and_the_doubled_are_named() -> None:
    sent, _ = script(3)
    ids = Counter([sent[0].id, sent[0].id, sent[2].id])

    assert lost_and_twice(sent, ids) == ([sent[1].id], [sent[0].id])
