"""salience send, backfill and score: texts from files and from the command line."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from msgspec import UnsetType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from pipeline.backfill import Tally
from pipeline.backfill import backfill as run_backfill
from pipeline.commands.options import FileArgument, MapOption, SetOption, StartOption, StepOption, StreamOption
from pipeline.commands.output import JsonOption, command, err, out, plain, run_async, settings_with, show_json
from pipeline.files import check_stream, count_rows, fields, read_lines
from pipeline.scoring_texts import read_texts, score_texts
from pipeline.send import Sender
from schemas.scores import Answer, EntityResult, HeadResult, Score


def register(app: typer.Typer) -> None:
    app.command()(send)
    app.command()(backfill)
    app.command()(score)


@command
def send(
    file: FileArgument,
    stream: StreamOption,
    mapping: MapOption = [],  # noqa: B006 - typer's way
    constants: SetOption = [],  # noqa: B006
    start: StartOption = None,
    step: StepOption = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Events a second at most.")] = None,
    json: JsonOption = False,
) -> None:
    """Send the events of a file to their topic.

    Example: salience send headlines.csv --stream news --map text=headline --set source=wire \\
    --start 2024-05-31T09:00:00Z --step 1
    """
    how = fields(mapping, constants, start, step)
    lines = read_lines(file, check_stream(stream), how)
    broker = settings_with().broker
    rows = count_rows(file)
    with Sender(broker) as sender, _progress() as bar:
        task = bar.add_task("sent", total=rows, rate="")
        count = sender.send(lines, stream, rate=rate, each=lambda: _step(bar, task))
    if json:
        show_json({"sent": count})
    else:
        out.print(f"{count:,} events sent to {broker.prefix}.{stream}")


@command
def backfill(
    file: FileArgument,
    stream: StreamOption,
    mapping: MapOption = [],  # noqa: B006
    constants: SetOption = [],  # noqa: B006
    start: StartOption = None,
    step: StepOption = None,
    run: Annotated[
        str | None, typer.Option(help="Name of the run; made of the file's name and hash, or the time for a pipe.")
    ] = None,
    notify: Annotated[bool, typer.Option("--notify", help="Send alerts out as if the events were live.")] = False,
    json: JsonOption = False,
) -> None:
    """Take the events of a file through the same flow, without Kafka; reading it twice changes nothing.

    Example: salience backfill archive.jsonl.gz --stream news
    """
    how = fields(mapping, constants, start, step)
    lines = read_lines(file, check_stream(stream), how)
    with _progress() as bar:
        task = bar.add_task("read", total=count_rows(file), rate="")

        def show(tally: Tally) -> None:
            bar.update(task, completed=tally.sent, rate=_rate(tally.sent, tally.seconds))

        tally = run_async(
            run_backfill(settings_with(), lines, stream, file, run=run, notify=notify, progress=show)
        )
    if json:
        show_json(tally)
    else:
        out.print(
            f"{tally.sent:,} read in {tally.seconds:.1f} s: {tally.stored:,} stored, {tally.repeated:,} repeated, "
            f"{tally.dead:,} dead, {tally.alerts:,} alerts"
        )


@command
def score(
    text: Annotated[str, typer.Argument(help="A text, a file with one text (or one event) a line, or -.")],
    stream: StreamOption = "news",
    json: JsonOption = False,
) -> None:
    """Score texts and show which words made the labels.

    Example: salience score "Acme cuts its outlook after weak sales"
    """
    texts = read_texts(text)
    bundle, scores = score_texts(settings_with(), texts, check_stream(stream))
    if json:
        show_json({"bundle": bundle, "scores": [_row(each, found) for each, found in scores]})
        return
    for each, found in scores:
        _show_score(each, found)


def _row(text: str, score: Score) -> dict[str, Any]:
    found: dict[str, Any] = {"text": text, "heads": score.heads, "truncated": score.truncated}
    return found | ({"truncated_share": score.truncated_share} if score.truncated else {})


def _show_score(text: str, score: Score) -> None:
    out.print(plain(text))
    for name, result in score.heads.items():
        if isinstance(result.entities, UnsetType):
            out.print(f"  {name:<12}{_said(result)}  {result.probability:.2f}  ", _words(result))
        else:
            _show_entities(name, result, result.entities)
    if not score.heads:
        out.print("  the bundle has no head for this stream", style="dim")
    if score.truncated:
        share = f"{score.truncated_share:.0%} of it" if score.truncated_share else "the rest"
        out.print(f"  the text was longer than the model reads; {share} was left out", style="yellow")


def _show_entities(name: str, result: HeadResult, entities: Sequence[EntityResult]) -> None:
    if not entities or result.decision == "unsupported":
        out.print(f"  {name:<12}{'none in this text' if result.decision == 'none' else _said(result)}")
    for entity in entities:
        out.print(f"  {name:<12}", plain(entity.text), f"  {entity.type}  {entity.probability:.2f}", sep="")
        for judge, answer in entity.heads.items():
            out.print(f"    {judge}  {_said(answer)}  {answer.probability:.2f}  ", _words(answer))


def _said(answer: Answer) -> str:
    """The label, or why there is none to act on."""
    guess = f" ({answer.label}?)" if answer.label else ""
    if answer.decision == "unsure":
        return f"unsure{guess}"
    if answer.decision == "none":
        return f"none of these{guess}"
    return f"unsupported language{guess}" if answer.decision == "unsupported" else answer.label


def _words(answer: Answer) -> Text:
    shown = Text()
    for word, weight in answer.words:
        shown.append(f"{plain(word)} {weight:.2f}  ", style="bold" if weight >= 0.2 else "dim")
    return shown


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        console=err,
        disable=not err.is_terminal,
    )


def _step(bar: Progress, task: Any) -> None:
    bar.advance(task)
    current = bar.tasks[0]
    if int(current.completed) % 100 == 0:
        bar.update(task, rate=_rate(int(current.completed), current.elapsed or 0.0))


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds:,.0f}/s" if seconds else ""
