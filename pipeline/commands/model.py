"""salience model: what a bundle is, and the same bundle in another precision."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from models.bundle import info as bundle_info
from pipeline.commands import bundles
from pipeline.commands.output import JsonOption, command, err, out, settings_with, show_json
from schemas.errors import ConfigError, UsageError

app = typer.Typer(no_args_is_help=True, help="Model bundles.")
bundles.register(app)

BundleOption = Annotated[
    str | None, typer.Option("--bundle", help="Bundle folder; the packaged one when left out.")
]


@app.command()
@command
def info(bundle: BundleOption = None, json: JsonOption = False) -> None:
    """Show heads, labels, figures and hashes of a bundle.

    Example: salience model info --json
    """
    chosen = settings_with().model.bundle if bundle is None else bundle
    if chosen == "stub":
        raise UsageError("the stub has no bundle to show; it answers by a hash of the text")
    facts = bundle_info(chosen)
    if json:
        show_json(facts)
        return
    for name in ("identity", "path", "bytes", "precision", "max_length"):
        out.print(f"{name:<12}{facts[name]}", highlight=False)
    for head in facts["heads"]:
        labels = ", ".join(head["labels"]) or "(a vector)"
        out.print(f"{'head':<12}{head['name']} for {', '.join(head['streams'])}: {labels}", highlight=False)


@app.command()
@command
def export(
    to: Annotated[Path, typer.Option("--out", help="Folder of the new bundle; it must not exist yet.")],
    precision: Annotated[str, typer.Option(help="fp32 or int8.")] = "fp32",
    bundle: BundleOption = None,
    json: JsonOption = False,
) -> None:
    """Write a bundle in another precision; refused when it strays too far from the network.

    Example: salience model export --precision fp32 --out runs/fp32
    """
    if precision not in ("fp32", "int8"):
        raise UsageError(f"the precision {precision!r} is unknown; choose fp32 or int8")
    try:
        from models.export import export as write
    except ImportError as error:
        raise ConfigError(f"exporting needs {error.name}; pip install 'salience[train]'") from None
    chosen = settings_with().model.bundle if bundle is None else bundle
    err.print(f"exporting to {to} ...", style="dim")
    parity: dict[str, Any] = asdict(write(chosen, precision, to))  # type: ignore[arg-type]
    if json:
        show_json({"out": str(to), "precision": precision, "parity": parity})
        return
    out.print(f"{to} holds the bundle in {precision}")
    for name, value in parity.items():
        out.print(f"  {name}: {value}", highlight=False)
