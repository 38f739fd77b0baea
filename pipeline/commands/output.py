"""What commands print: results on standard output, progress and problems on standard error."""

import asyncio
import functools
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any, ParamSpec, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from pipeline.logs import configure
from pipeline.settings import LogSettings, Settings, load_settings
from pipeline.status import BAD_USAGE, FAILED, INTERRUPTED
from pipeline.store.database import Database
from pipeline.store.migrate import opened
from schemas.errors import SalienceError, UsageError

P = ParamSpec("P")
R = TypeVar("R")


# Texts of events and paths are shown as they are: nothing in them is markup or the name of an emoji.
out = Console(soft_wrap=True, markup=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, markup=False, emoji=False)

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")
]


def show_json(value: Any) -> None:
    """One JSON object on a line of its own."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Text:
    """Data of events on one line, without what a terminal would obey."""
    return Text("".join(letter if letter.isprintable() else " " for letter in str(value)))


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Gives a command its exit status: 0, 1 for a failed job, 2 for bad usage; no traceback reaches a person."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        # Standard output is for results; a worker sets its own logs up.
        configure(LogSettings(level="warning", format="console"))
        try:
            return function(*args, **kwargs)
        except SalienceError as error:
            _fail(error, bool(kwargs.get("json")))
            raise typer.Exit(BAD_USAGE if isinstance(error, UsageError) or error.fatal else FAILED) from None
        except KeyboardInterrupt:
            err.print("stopped")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has gone; nothing is left to say, not even at the interpreter's exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(FAILED) from None

    return run


def _fail(error: SalienceError, as_json: bool) -> None:
    err.print(f"error: {error}", style="red", highlight=False)
    if as_json:
        show_json({"error": {"reason": error.reason, "message": str(error)}})


def run_async(job: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine to its end."""
    return asyncio.run(job)


def settings_with(**sections: dict[str, Any]) -> Settings:
    """The settings, with what the command line gave on top; None means not given."""
    given = {
        section: {name: value for name, value in values.items() if value is not None}
        for section, values in sections.items()
    }
    return load_settings(**{section: values for section, values in given.items() if values})


async def on_database(job: Callable[[Database], Awaitable[R]]) -> R:
    """Do a job with the database of the settings."""
    async with opened(settings_with().database) as (database, _):
        return await job(database)


def minute(time: str | None) -> str:
    """A time as a line of a terminal has room for it; --json has it all."""
    return (time or "")[:16].replace("T", " ")
