"""What a reaction may do inside a chunk's transaction."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store import bulk, outbox
from pipeline.work import AlertRow, Message
from schemas.events import Place
from schemas.tables import alerts


class Transaction:
    """Writes of reactions. `now` is the ingest time in microseconds, asked once for the chunk."""

    def __init__(
        self, connection: AsyncConnection, place: Place, now: int, notify: bool, lease_until: int
    ) -> None:
        self.connection = connection
        self.place = place
        self.now = now
        self.notify = notify
        # The chunk that wrote a message is the one to send it until then; later any worker may claim it.
        self._lease_until = lease_until
        self.messages: list[Message] = []
        self.alerts = 0

    async def add_alerts(self, found: Sequence[AlertRow]) -> list[tuple[int, AlertRow]]:
        """Store alerts that are not there yet; returns the new ones with their row ids."""
        rows = [
            {
                "rule": each.rule,
                "group": each.group,
                "episode": each.episode,
                "kind": each.kind,
                "state": each.state,
                "version": each.version,
                "severity": each.severity,
                "stream": each.stream,
                "event": each.event,
                "run": self.place.run,
                "start_time": each.start,
                "end_time": each.end,
                "visible_tick": each.visible_tick,
                "definition": each.definition,
                "bundle": each.bundle,
                "evidence": each.evidence,
                "created_at": self.now,
                "updated_at": self.now,
            }
            for each in found
        ]
        stored = await bulk.insert_returning(self.connection, alerts, rows, ["rule", "group", "episode", "id"])
        ids = {(rule, group, episode): row_id for rule, group, episode, row_id in stored}
        new = []
        for each in found:
            row_id = ids.pop((each.rule, each.group, each.episode), None)
            if row_id is not None:
                new.append((row_id, each))
        self.alerts += len(new)
        return new

    async def send(self, messages: Sequence[tuple[str, Message, int | None]]) -> None:
        """Put (identity, message, event row) into the outbox; sent after the commit, once an identity."""
        if self.notify:
            self.messages += await outbox.put(self.connection, messages, self.now, self._lease_until)
