"""salience entities: check a gazetteer, try it on a text, and measure it on annotated ones."""

from typing import Annotated, Literal

import msgspec
import typer
from rich.table import Table

from pipeline.commands.output import JsonOption, command, err, out, plain, settings_with, show_json
from pipeline.gazetteer.evaluate import Evaluation, choose, evaluate, halves, read_texts
from pipeline.gazetteer.load import read_companies
from pipeline.gazetteer.match import Gazetteer, Thresholds
from schemas.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Companies found in texts.")
GazetteerOption = Annotated[
    str, typer.Option(help="CSV or JSONL file of companies; SALIENCE_ENTITIES__GAZETTEER by default.")
]


def _path(given: str) -> str:
    path = given or settings_with().entities.gazetteer
    if not path:
        raise UsageError("no gazetteer is given; use --gazetteer FILE or set SALIENCE_ENTITIES__GAZETTEER")
    return path


@app.command()
@command
def check(
    file: Annotated[str, typer.Argument(help="CSV or JSONL of companies.")], json: JsonOption = False
) -> None:
    """Check a gazetteer: line and what to mend, and which names are told from words by their context.

    Example: salience entities check companies.csv
    """
    gazetteer = Gazetteer(read_companies(file))
    count, ambiguous = len(gazetteer.companies), gazetteer.ambiguous
    if json:
        show_json({"ok": True, "companies": count, "ambiguous": ambiguous})
        return
    out.print(plain(f"{count:,} companies in {file}; by their context only: {', '.join(ambiguous) or 'none'}"))


@app.command()
@command
def find(
    text: Annotated[str, typer.Argument(help="The text.")],
    gazetteer: GazetteerOption = "",
    json: JsonOption = False,
) -> None:
    """Show the companies that a text speaks of.

    Example: salience entities find "Target shares fall as Visa cuts guidance" --gazetteer companies.csv
    """
    spans = Gazetteer(read_companies(_path(gazetteer))).find(text)
    if json:
        show_json({"entities": [msgspec.structs.asdict(span) for span in spans]})
        return
    for span in spans:
        out.print(plain(f"{span.start:>5}-{span.end:<5} {span.text}  {span.name}  {span.ticker or ''}"))


@app.command("evaluate")
@command
def measure(
    data: Annotated[str, typer.Option(help="JSONL: text, and entities (spans, or names to labels) or tickers.")],
    gazetteer: GazetteerOption = "",
    half: Annotated[
        Literal["reported", "choosing", "all"], typer.Option(help="Rows by hash of their text: half may choose.")
    ] = "reported",
    choosing: Annotated[
        bool, typer.Option("--choose", help="Choose the thresholds on the other half first (minutes).")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Measure precision, recall and F1 of a gazetteer, also among the names that it has.

    Example: salience entities evaluate --gazetteer companies.csv --data annotated.jsonl.gz
    """
    companies, texts = read_companies(_path(gazetteer)), read_texts(data)
    choosers, reported = halves(texts)
    rows = {"choosing": choosers, "reported": reported, "all": texts}[half]
    if choosing and half != "reported":
        raise UsageError("--choose reports on rows that chose nothing; leave out --half")
    thresholds = Thresholds()
    if choosing:
        with err.status("choosing ..."):
            thresholds = choose(companies, choosers, thresholds)
    result = evaluate(Gazetteer(companies, thresholds), rows, half)
    if json:
        show_json(result)
    else:
        _show(result)


def _show(result: Evaluation) -> None:
    table = Table(f"{result.n:,} rows", "precision", "recall", "F1", "recall of known names", box=None)
    rows = {"exact": result.exact, "overlap": result.overlap, "without $TICKERS": result.without_cashtags}
    for name, each in rows.items():
        if each is not None:
            figures = (each.precision, each.recall, each.f1, each.known_recall)
            table.add_row(f"{result.of}, {name}", *(f"{figure:.3f}" for figure in figures))
    out.print(table)
    out.print(f"{result.texts_per_s:,.0f} texts a second of CPU time", highlight=False)
