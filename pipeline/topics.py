"""Names of the topics."""

from schemas.labels import STREAMS


class Topics:
    """All names from one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.inputs: dict[str, str] = {stream: f"{prefix}.{stream}" for stream in STREAMS}
        self.scored = f"{prefix}.scored"
        self.alerts = f"{prefix}.alerts"
        self.dead: dict[str, str] = {stream: f"dlq.{topic}" for stream, topic in self.inputs.items()}

    @property
    def all(self) -> list[str]:
        return [*self.inputs.values(), self.scored, self.alerts, *self.dead.values()]
