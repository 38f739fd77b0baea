"""Structured logs on standard error: one JSON object a line, or text for a person."""

import logging
import sys
import time
from typing import Any

import structlog

from pipeline.settings import LogSettings

# Libraries repeat themselves while a broker is away: one line of a kind in so many seconds.
_REPEAT = 10.0


class _Calm(logging.Filter):
    """Lets a message of one place through once in `_REPEAT` seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("salience"):
            return True
        key = (record.pathname, record.lineno)
        now = time.monotonic()
        if now - self._last.get(key, -_REPEAT) < _REPEAT:
            return False
        self._last[key] = now
        return True


def configure(settings: LogSettings) -> None:
    """Set up logging for this process; standard output stays free for results."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: Any = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_Calm())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.processors.format_exc_info],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("salience").setLevel(settings.level.upper())
    # Its warnings are about its own retries, which go on by themselves; ours say when something is away.
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    # It logs each step of a failure that it raises as well, and that gets a sentence of ours.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
