"""Options that several commands share."""

from typing import Annotated

import typer

StreamOption = Annotated[str, typer.Option("--stream", help="news, chat or behavior.")]
FileArgument = Annotated[str, typer.Argument(help="JSONL or CSV, plain or .gz; - reads standard input.")]
MapOption = Annotated[list[str], typer.Option("--map", help="field=column: the event's field is in that column.")]
SetOption = Annotated[list[str], typer.Option("--set", help="field=value: the same for every event.")]
StartOption = Annotated[str | None, typer.Option("--start", help="Time of the first row without a time.")]
StepOption = Annotated[float | None, typer.Option("--step", help="Seconds from one such row to the next.")]
