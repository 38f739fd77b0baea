"""salience model compare: what another bundle would say of the same texts."""

from typing import Annotated

import typer

from models.compare import Comparison, HeadComparison, Side
from pipeline import bundles
from pipeline.commands.options import MapOption
from pipeline.commands.output import JsonOption, command, err, out, plain, run_async, settings_with, show_json
from pipeline.comparing import compare_bundles, read_rows
from pipeline.files import check_stream, fields, read_lines
from pipeline.settings import Settings
from pipeline.store.database import Database
from schemas.errors import ConfigError, UsageError

BundleArgument = Annotated[
    str, typer.Argument(help="Folder, `stub`, `packaged`, or name or identity of one that was promoted.")
]
# Characters of an example that a person is shown.
_QUOTE = 100


@command
def compare(
    a: BundleArgument,
    b: BundleArgument,
    data: Annotated[str, typer.Option("--data", help="JSONL, CSV or a text a line, plain or .gz, or -.")],
    stream: Annotated[str, typer.Option("--stream", help="news, chat or behavior.")] = "news",
    mapping: MapOption = [],  # noqa: B006 - typer's way
    label_field: Annotated[str | None, typer.Option(help="Field with the right label; needs --head.")] = None,
    head: Annotated[str | None, typer.Option(help="Head that the labels are of.")] = None,
    json: JsonOption = False,
) -> None:
    """Score the same texts with two bundles and say where they differ; nothing is stored.

    Example: salience model compare packaged runs/market-2 --data headlines.csv --map text=headline \\
    --label-field label --head sentiment
    """
    if (head is None) != (label_field is None):
        raise UsageError("--head and --label-field go together: the labels of that field are that head's")
    rows = read_rows(read_lines(data, check_stream(stream), fields(mapping)), label_field)
    settings = settings_with()
    paths = run_async(_paths(settings, (a, b)))
    with err.status(f"scoring {len(rows.texts):,} texts with both ..."):
        found = compare_bundles(settings, paths[0], paths[1], rows, stream, head)
    if json:
        show_json(found)
    else:
        _show(found, head)


async def _paths(settings: Settings, names: tuple[str, str]) -> list[str]:
    found = [bundles.find_here(name) for name in names]
    if None not in found:
        return [path for path in found if path is not None]
    # Only a name that is no folder asks for the database.
    database = Database(settings.database)
    try:
        return [(await bundles.find(database, name)).path for name in names]
    except ConfigError as error:
        unknown = " and ".join(name for name, path in zip(names, found, strict=True) if path is None)
        raise UsageError(f"{unknown}: no bundle's folder, and promoted ones cannot be found: {error}") from None
    finally:
        await database.close()


def _show(found: Comparison, head: str | None) -> None:
    for letter, side in (("a", found.a), ("b", found.b)):
        out.print(
            f"{letter}  {side.bundle}  {side.texts_per_s:,.0f} texts/s{_figures(side, head)}", highlight=False
        )
        for name in side.only_here:
            out.print(f"   only here: {name}")
    out.print(f"{found.n:,} texts{f', {found.refused:,} refused' if found.refused else ''}", highlight=False)
    for name, each in found.heads.items():
        _show_head(name, each)
    cosine = "not comparable" if found.cosine is None else f"mean cosine {found.cosine:.4f}"
    out.print(f"embedding: {cosine}", highlight=False)


def _figures(side: Side, head: str | None) -> str:
    if head is None:
        return ""
    if side.figures is None:
        return f"  no {head}"
    found = side.figures
    return f"  {head}: accuracy {found.accuracy:.4f}, macro-F1 {found.macro_f1:.4f} (n {found.n:,})"


def _show_head(name: str, found: HeadComparison) -> None:
    out.print(f"{name}: {found.equal_labels:.1%} same label, {found.equal_decisions:.1%} same decision")
    for change in found.changes:
        out.print(f"  {change.count:>6,}  {change.before} -> {change.after}", highlight=False)
        for text in change.examples:
            out.print("          ", plain(text[:_QUOTE]), style="dim")
