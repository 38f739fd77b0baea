"""What a reaction may do inside a chunk's transaction."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.in_force import InForce
from pipeline.store import outbox
from pipeline.store.alerts import insert_alerts
from pipeline.work import AlertRow, Message
from schemas.events import Place

_NO_RULES = InForce()


class Transaction:
    """Writes of reactions. `now` is the ingest time in microseconds, asked once for the chunk."""

    def __init__(
        self,
        connection: AsyncConnection,
        place: Place,
        now: int,
        notify: bool,
        lease_until: int,
        rules: InForce = _NO_RULES,
    ) -> None:
        self.connection = connection
        self.place = place
        self.now = now
        self.notify = notify
        self.rules = rules
        # The chunk that wrote a message is the one to send it until then; later any worker may claim it.
        self._lease_until = lease_until
        self.messages: list[Message] = []
        self.alerts = 0

    async def add_alerts(self, found: Sequence[AlertRow]) -> list[tuple[int, AlertRow]]:
        """Store alerts that are not there yet; returns the new ones with their row ids."""
        new = await insert_alerts(self.connection, found, self.place.run, self.now)
        self.alerts += len(new)
        return new

    async def send(self, messages: Sequence[tuple[str, Message, int | None]]) -> None:
        """Put (identity, message, event row) into the outbox; sent after the commit, once an identity.

        The chunk itself sends what is for topics; what is for receivers is claimed from the outbox.
        """
        if self.notify:
            new = await outbox.put(self.connection, messages, self.now, self._lease_until)
            self.messages += [message for message in new if message.to is None]
