"""The benchmark's two parts: the real model end to end beside the bare runtime, and the engine with the stub."""

import asyncio
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from statistics import median

from msgspec import Struct

from models.runtime import OnnxScorer, load_scorer
from pipeline.bench.bare import cpu_ratio, ratios, score_bare
from pipeline.bench.drive import Timing, drive
from pipeline.bench.heads import HeadCost, head_cost
from pipeline.bench.load import made_texts, news_events, text_events, texts_of
from pipeline.bench.site import Site, open_site
from pipeline.bench.stages import STREAM, measure_stages
from pipeline.compose import open_scorer
from schemas.errors import UsageError

DATABASES = ("postgresql", "sqlite")
# Events over which the stages are timed, with the stub and with a model, which takes a thousand times longer.
_STAGE_EVENTS = 10_000
_STAGE_TEXTS = 2048
_PACKAGES = ("salience", "onnxruntime", "faust-streaming", "aiokafka", "sqlalchemy", "asyncpg", "aiosqlite")


class Plan(Struct, frozen=True):
    """What to measure; `only` is model, engine, heads, or None for the first two."""

    only: str | None = None
    events: int = 60_000
    size: int = 4096
    repeats: int = 3
    texts: str | None = None
    bundle: str = ""
    database: str | None = None


class Result(Struct):
    """What was measured; None and empty for a part that was left out.

    `ratio` is the median of `ratios`, texts/s end to end over texts/s bare, one for each repeat; `cpu_ratio` is
    CPU time bare over CPU time in the worker, for a machine that is not at rest.

    `stages` are microseconds of CPU an event on PostgreSQL: with the model when it was measured, else with the
    stub; `engine_stages` are those of the engine by database. Their `rest` is what the worker's process used
    beside: Faust, the loop, threads and what overlapping costs (absent where the system does not tell, and with
    a model, whose threads spin between two batches).
    """

    n: dict[str, int]
    cpus: int
    versions: dict[str, str]
    bundle: str | None = None
    ratio: float | None = None
    ratios: list[float] = []
    cpu_ratio: float | None = None
    texts_per_s: float | None = None
    bare_texts_per_s: float | None = None
    tokens_per_s: float | None = None
    stages: dict[str, float] = {}
    engine: dict[str, float] = {}
    engine_stages: dict[str, dict[str, float]] = {}
    heads: HeadCost | None = None


def measure(plan: Plan, tell: Callable[[str], None]) -> Result:
    """Run the plan; `tell` gets a sentence at each step.

    Raises:
        UsageError: a file or a URL is not usable.
        SalienceError: a server does not start, or the worker does not do its work.
    """
    result = Result(n={}, cpus=os.cpu_count() or 1, versions=_versions())
    texts = [] if plan.only == "engine" else _texts(plan)
    if plan.only == "heads":
        return _heads(result, plan, texts)
    with open_site(plan.database) as site:
        if texts:
            _model(result, plan, texts, site, tell)
        if plan.only != "model":
            _engine(result, plan, site, tell)
    return result


def _heads(result: Result, plan: Plan, texts: Sequence[str]) -> Result:
    scorer = load_scorer(plan.bundle, threads=1, cache_size=0)
    if not isinstance(scorer, OnnxScorer):
        raise UsageError("the stub has no encoder to compare with; give a bundle")
    scorer.warm_up()
    result.bundle, result.n["texts"] = scorer.bundle, len(texts)
    result.heads = head_cost(scorer, texts, STREAM, plan.repeats)
    return result


def _texts(plan: Plan) -> list[str]:
    return texts_of(plan.texts, plan.size) if plan.texts else made_texts(plan.size)


def _model(result: Result, plan: Plan, texts: Sequence[str], site: Site, tell: Callable[[str], None]) -> None:
    scorer = open_scorer(site.run("postgresql", plan.bundle).settings)
    bare: list[Timing] = []
    timings: list[Timing] = []
    for number in range(plan.repeats + 1):
        bare.append(score_bare(scorer, texts, STREAM))
        tell(f"model: bare runtime {bare[-1].rate:,.0f} texts/s")
        if number < plan.repeats:
            run = site.run("postgresql", plan.bundle)
            timings.append(drive(run, run.send(text_events(texts, run.name))))
            tell(f"model: end to end {timings[-1].rate:,.0f} texts/s")
    result.n["texts"] = len(texts)
    result.bundle = scorer.bundle
    result.ratios = [round(each, 4) for each in ratios(bare, timings)]
    result.ratio = median(result.ratios)
    shared = cpu_ratio(bare, timings)
    result.cpu_ratio = None if shared is None else round(shared, 4)
    result.texts_per_s = round(median(each.rate for each in timings), 1)
    result.bare_texts_per_s = round(median(each.rate for each in bare), 1)
    result.tokens_per_s = round(median(each.tokens / each.seconds for each in timings), 1)
    run = site.run("postgresql", plan.bundle)
    sent = run.send(text_events(texts[:_STAGE_TEXTS], run.name))
    result.stages = _with_rest(asyncio.run(measure_stages(run, sent)), [])


def _engine(result: Result, plan: Plan, site: Site, tell: Callable[[str], None]) -> None:
    result.n["events"] = plan.events
    for kind in DATABASES:
        run = site.run(kind, "stub")
        tell(f"engine: sending {plan.events:,} events")
        timing = drive(run, run.send(news_events(plan.events, run.name)))
        tell(f"engine: {timing.rate:,.0f} events/s into {kind}")
        result.engine[kind] = round(timing.rate, 1)
        run = site.run(kind, "stub")
        sent = run.send(news_events(min(plan.events, _STAGE_EVENTS), run.name))
        result.engine_stages[kind] = _with_rest(asyncio.run(measure_stages(run, sent)), [timing])
    result.stages = result.stages or result.engine_stages["postgresql"]


def _with_rest(stages: dict[str, float], timings: Sequence[Timing]) -> dict[str, float]:
    used = [each.cpu_per_event for each in timings if each.cpu_per_event is not None]
    if used:
        stages["rest"] = median(used) - sum(stages.values())
    return {name: round(value, 2) for name, value in stages.items()}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
