"""What a run of the demo is asked for, and what it gives."""

from typing import Any

from msgspec import Struct

from pipeline.files import check_stream, read_lines
from schemas.errors import UsageError


class Options(Struct, frozen=True):
    """What was asked for. `duration` in seconds; `input` is a file, whose events go to `stream`."""

    duration: float = 30.0
    input: str | None = None
    stream: str | None = None
    keep: bool = False
    broker: str | None = None

    def check(self) -> None:
        """Raises UsageError for options that do not go together, and for a file that cannot be read."""
        if self.stream is not None:
            check_stream(self.stream)
        if (self.input is None) != (self.stream is None):
            raise UsageError("--input FILE and --stream news, chat or behavior go together; give both or none")
        if self.input is not None and self.stream is not None and self.input != "-":
            # A file that cannot be read is told before anything is started.
            next(read_lines(self.input, self.stream), None)


class Result(Struct, frozen=True):
    """`counts` as --json prints them; `complete` when each event sent is accounted for."""

    counts: dict[str, Any]
    complete: bool
    interrupted: bool
    cut: bool
    addresses: dict[str, str] = {}
