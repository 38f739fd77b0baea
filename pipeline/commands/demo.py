"""salience demo: the whole way of an event, seen within half a minute."""

import os
import sys
import threading
from typing import Annotated

import typer

from pipeline.commands.output import JsonOption, command, err, out, run_async, show_json
from pipeline.demo.feed import THREAD
from pipeline.demo.options import Options, Result
from pipeline.demo.run import run_demo
from pipeline.status import FAILED


@command
def demo(
    duration: Annotated[float, typer.Option(min=3, max=86_400, help="Seconds until it ends by itself.")] = 30.0,
    input: Annotated[
        str | None,
        typer.Option(help="Send this file instead: JSONL or CSV, plain or .gz; - for standard input."),
    ] = None,
    stream: Annotated[str | None, typer.Option(help="With --input: news, chat or behavior.")] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave everything running afterwards, until Ctrl-C; keep the database.")
    ] = False,
    broker: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Use this Kafka broker, with topics of its own.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Watch an invented market day go through broker, worker, model and database.

    Starts a broker, a worker and a fresh database file, sends news, chat and behavior events, good and
    malformed, and shows rates, sentiment by topic, dead letters, and the alerts with the words that made them.
    All is removed at the end.

    Example: salience demo --duration 20
    """

    def show(result: Result) -> None:
        _show(result, json)

    result = run_async(run_demo(Options(duration, input, stream, keep, broker), show))
    if not keep or result.interrupted:
        show(result)
    failed = not (result.complete or result.interrupted)
    _leave_standard_input(FAILED if failed else 0)
    if failed:
        raise typer.Exit(FAILED)


def _show(result: Result, as_json: bool) -> None:
    counts = result.counts
    missing = counts["sent"] - counts["stored"] - counts["repeated"] - counts["dead"]
    if missing and result.interrupted:
        err.print(f"stopped early: {missing:,} events were still under way", highlight=False)
    elif missing:
        err.print(
            f"error: {missing:,} of {counts['sent']:,} events were not accounted for in {counts['seconds']:g} s; "
            "give it a longer --duration",
            style="red",
            highlight=False,
        )
    if result.cut:
        err.print("time was up before all was sent; a longer --duration sends more", highlight=False)
    if as_json:
        show_json({**counts, **result.addresses})
        return
    out.print(
        f"{counts['sent']:,} events sent in {counts['seconds']:g} s: {counts['stored']:,} stored, "
        f"{counts['repeated']:,} repeated, {counts['dead']:,} dead; {counts['alerts']:,} alerts, "
        f"{counts['surges']:,} of them surges.",
        highlight=False,
    )
    for name, address in result.addresses.items():
        out.print(f"  {name:<9} {address}", highlight=False)
    if result.addresses and not result.interrupted:
        out.print("Ctrl-C ends broker and worker; the database file stays.", highlight=False)


def _leave_standard_input(status: int) -> None:
    """End at once when a thread still waits for standard input, which nothing else can interrupt."""
    if any(thread.name == THREAD for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
