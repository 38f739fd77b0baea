"""salience model: what a bundle is, and the same bundle in another precision."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from models.bundle import PRECISIONS, Precision
from models.bundle import info as bundle_info
from pipeline.commands import bundles, explain
from pipeline.commands.benchmark import benchmark
from pipeline.commands.output import JsonOption, command, err, out, settings_with, show_json
from schemas.errors import ConfigError, UsageError

app = typer.Typer(no_args_is_help=True, help="Model bundles.")
bundles.register(app)
explain.register(app)

app.command()(benchmark)

PrecisionOption = Annotated[str, typer.Option(help="fp32, fp16 (for CUDA) or int8 (for a CPU).")]
BundleOption = Annotated[
    str | None, typer.Option("--bundle", help="Bundle folder; the packaged one when left out.")
]


def check_precision(precision: str) -> Precision:
    """The precision, if it is one.

    Raises:
        UsageError: it is not.
    """
    for known in PRECISIONS:
        if precision == known:
            return known
    raise UsageError(f"the precision {precision!r} is unknown; choose fp32, fp16 or int8")


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
    out.print(f"{'encoder':<12}{facts['base']['name']}, {facts['tuned']['tuning']}", highlight=False)
    out.print(f"{'languages':<12}{', '.join(facts['languages']) or 'any'}", highlight=False)
    for head in facts["heads"]:
        for line in _head_lines(head):
            out.print(line, highlight=False)


def _head_lines(head: dict[str, Any]) -> list[str]:
    """What a head answers, for whom, and from when on it keeps silent."""
    labels = ", ".join(head["labels"]) or "(a vector)"
    about = f" of what {head['spans']} finds" if head["spans"] else ""
    streams = ", ".join(head["streams"]) or "no stream"
    lines = [f"{'head':<12}{head['name']} ({head['kind']}{about}) for {streams}: {labels}"]
    limits = [f"temperature {head['temperature']:g}"] if head["temperature"] != 1.0 else []
    if head["unsure_below"]:
        limits.append(f"unsure below {head['unsure_below']:g}")
    if head["none_below"] is not None:
        limits.append(f"none below a cosine of {head['none_below']:g}")
    return lines + ([f"{'':<12}  {', '.join(limits)}"] if limits else [])


@app.command()
@command
def export(
    to: Annotated[Path, typer.Option("--out", help="Folder of the new bundle; it must not exist yet.")],
    precision: PrecisionOption = "fp32",
    bundle: BundleOption = None,
    json: JsonOption = False,
) -> None:
    """Write a bundle in another precision; refused when it strays too far from the network.

    Example: salience model export --precision fp32 --out runs/fp32
    """
    kind = check_precision(precision)
    try:
        from models.export import export as write
    except ImportError as error:
        raise ConfigError(f"exporting needs {error.name}; pip install 'salience[train]'") from None
    chosen = settings_with().model.bundle if bundle is None else bundle
    err.print(f"exporting to {to} ...", style="dim")
    parity: dict[str, Any] = asdict(write(chosen, kind, to))
    if json:
        show_json({"out": str(to), "precision": precision, "parity": parity})
        return
    out.print(f"{to} holds the bundle in {precision}")
    for name, value in parity.items():
        out.print(f"  {name}: {value}", highlight=False)
