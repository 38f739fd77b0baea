"""salience model explain, faithfulness and behaviour: what a bundle read, and whether it holds."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from models.behaviour import behaviour as run_behaviour
from models.bundle import Bundle, load_bundle
from models.explain import Explanation, Relevance
from models.explain import explain as explain_texts
from models.faithful import DRAWS, LEAST_WORDS, label_head, read_labelled
from models.faithful import faithfulness as measure
from models.runtime import OnnxScorer
from pipeline.commands.options import StreamOption
from pipeline.commands.output import JsonOption, command, err, out, plain, settings_with, show_json
from pipeline.compose import open_scorer
from pipeline.explain_lines import lines
from pipeline.explain_page import page
from pipeline.files import check_stream
from pipeline.scoring_texts import read_texts
from pipeline.settings import ModelSettings
from schemas.errors import ConfigError, UsageError

BundleOption = Annotated[
    str | None, typer.Option("--bundle", help="Bundle folder; the packaged one when left out.")
]
GradientOption = Annotated[
    bool, typer.Option("--gradient", help="Put |gradient x input| beside attention; needs salience[train].")
]


def register(app: typer.Typer) -> None:
    app.command()(explain)
    app.command()(faithfulness)
    app.command()(behaviour)


@command
def explain(
    text: Annotated[str, typer.Argument(help="A text, a file with one text (or one event) a line, or -.")],
    stream: StreamOption = "news",
    bundle: BundleOption = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page to this file, too.")] = None,
    gradient: GradientOption = False,
    json: JsonOption = False,
) -> None:
    """Show every word of a text by its weight, for each head.

    Example: salience model explain "Acme cuts its outlook after weak sales" --html acme.html
    """
    texts = read_texts(text)
    checked = check_stream(stream)
    settings = settings_with(model={"bundle": bundle}).model
    loaded = _load(settings)
    relevance = _gradient(loaded) if gradient else None
    explained = explain_texts(_scorer(loaded, settings), loaded, texts, checked, relevance)
    if html is not None:
        _write(html, page(loaded.identity, checked, explained))
    if json:
        show_json({"bundle": loaded.identity, "stream": checked, "explanations": explained})
        return
    for each in explained:
        _show(each)
    if html is not None:
        out.print(f"the page is {html}")


@command
def faithfulness(
    data: Annotated[Path, typer.Option("--data", help="Rows with text and label: JSONL or CSV, plain or .gz.")],
    head: Annotated[str, typer.Option("--head", help="A head that labels texts.")] = "sentiment",
    bundle: BundleOption = None,
    label_map: Annotated[
        list[str], typer.Option("--label-map", help="label=label of the head, or =none to leave such rows out.")
    ] = [],  # noqa: B006 - typer's way
    text: Annotated[str, typer.Option("--text", help="Column of the text.")] = "text",
    label: Annotated[str, typer.Option("--label", help="Column of the label.")] = "label",
    limit: Annotated[int, typer.Option("--limit", min=0, help="Rows drawn at most, 0 for all.")] = 500,
    draws: Annotated[int, typer.Option("--draws", min=1, help="Random choices of words for each row.")] = DRAWS,
    seed: Annotated[int, typer.Option("--seed", help="Of rows, random words and resamples.")] = 0,
    gradient: GradientOption = False,
    json: JsonOption = False,
) -> None:
    """Measure whether the words with most attention are those that decided, beside random words.

    Example: salience model faithfulness --head sentiment --data test.jsonl.gz --label-map bullish=positive \\
    --label-map bearish=negative
    """
    loaded = _load(settings_with(model={"bundle": bundle}).model)
    rows = read_labelled(data, label_head(loaded, head), _renamed(label_map), text, label)
    relevance = _gradient(loaded) if gradient else None
    with Progress(console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("altered texts", total=None)
        found = measure(
            loaded,
            rows,
            head,
            limit=limit,
            draws=draws,
            seed=seed,
            relevance=relevance,
            report=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if json:
        show_json(found)
        return
    show_faithfulness(found)


@command
def behaviour(bundle: BundleOption = None, json: JsonOption = False) -> None:
    """Run small tests of what a model must know: negation, less than feared, two companies, nothing to say.

    Example: salience model behaviour --json
    """
    scorer = open_scorer(settings_with(model={"bundle": bundle}))
    results = run_behaviour(scorer)
    if json:
        show_json({"bundle": scorer.bundle, "results": results})
        return
    for each in results:
        out.print(f"{each.passed:>4} of {each.n:<4}{each.name} ({each.kind})", highlight=False)
        for failure in each.failures:
            out.print(plain(f"             {failure}"), style="dim")


def _renamed(words: list[str]) -> dict[str, str]:
    """The label of the head for each label of a file.

    Raises:
        UsageError: a word is not of the form label=label.
    """
    found: dict[str, str] = {}
    for word in words:
        given, equals, label = word.rpartition("=")
        if not equals or not given:
            raise UsageError(f"--label-map {word!r} is not of the form label=label of the head")
        found[given] = label
    return found


def show_faithfulness(found: dict[str, Any]) -> None:
    out.print(
        f"{found['head']}: {found['n']} of {found['rows']} rows, {found['wrong']} wrong and "
        f"{found['short']} of fewer than {LEAST_WORDS} words left out",
        highlight=False,
    )
    for operator in ("deletion", "masking"):
        if operator in found and found[operator] is None:
            out.print(f"{operator}: the base has no token for a hidden word", highlight=False)
        for measured, ways in (found.get(operator) or {}).items():
            out.print(f"{measured} by {operator}", highlight=False)
            for way, figures in ways.items():
                out.print(f"  {way.replace('_', ' '):<22}{_figure(figures)}", highlight=False)


def _figure(figures: dict[str, Any]) -> str:
    if "mean" in figures:
        return f"{figures['mean']:.3f} ({_between(figures['interval'])})"
    ratio = "no ratio"
    if figures["ratio"] is not None:
        ratio = f"{figures['ratio']:.2f} x ({_between(figures['interval'])})"
    return f"{ratio}, difference {figures['difference']:+.3f} ({_between(figures['difference_interval'])})"


def _between(interval: list[float]) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}"


def _show(each: Explanation) -> None:
    for line in lines(each):
        out.print(line)


def _load(settings: ModelSettings) -> Bundle:
    if settings.bundle == "stub":
        raise UsageError("the stub reads no words and has no attention; name a bundle with --bundle")
    return load_bundle(settings.bundle)


def _scorer(bundle: Bundle, settings: ModelSettings) -> OnnxScorer:
    return OnnxScorer(
        bundle,
        provider=settings.provider,
        threads=settings.threads,
        batch_tokens=settings.batch_tokens,
        cache_size=0,
    )


def _gradient(bundle: Bundle) -> Relevance:
    try:
        from models.gradient import Gradient
    except ImportError as error:
        raise ConfigError(f"--gradient needs {error.name}; pip install 'salience[train]'") from None
    return Gradient.of(bundle)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the page {path} cannot be written: {error.strerror or error}") from None
