"""The benchmark runs to its end and says all it should; what it measures is judged by people."""

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from models.runtime import load_scorer
from pipeline.bench.bare import ratios, score_bare
from pipeline.bench.drive import Timing
from pipeline.bench.load import made_texts, news_events, text_events, texts_of
from pipeline.bench.measure import Plan, measure
from pipeline.bench.site import open_site
from pipeline.commands.bench import bench
from pipeline.embedded import EmbeddedBroker
from pipeline.localpg import LocalPostgres
from schemas.errors import UsageError

STAGES = {"reading", "decoding", "scoring", "signatures", "rows", "storing", "publishing"}


def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(bench)
    return app


@pytest.fixture
def empty(postgres: LocalPostgres) -> str:
    return postgres.url(postgres.create())


def test_a_small_run_of_both_parts_gives_every_figure(embedded_broker: EmbeddedBroker, empty: str) -> None:
    words = [
        "--bundle",
        "stub",
        "--events",
        "600",
        "--size",
        "300",
        "--repeats",
        "1",
        "--database",
        empty,
        "--json",
    ]
    done = CliRunner().invoke(command(), words)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for name in ("ratio", "texts_per_s", "bare_texts_per_s", "tokens_per_s", "cpus"):
        assert found[name] > 0, name
    assert found["n"] == {"texts": 300, "events": 600}
    assert found["bundle"].startswith("stub@")
    assert found["versions"]["salience"]
    assert set(found["engine"]) == set(found["engine_stages"]) == {"postgresql", "sqlite"}
    assert all(rate > 0 for rate in found["engine"].values())
    for stages in (found["stages"], *found["engine_stages"].values()):
        assert set(stages) - {"rest"} == STAGES


def test_one_part_alone_leaves_the_other_out(embedded_broker: EmbeddedBroker, empty: str) -> None:
    told: list[str] = []
    result = measure(Plan(only="model", size=300, repeats=1, bundle="stub", database=empty), told.append)
    assert (result.engine, result.n) == ({}, {"texts": 300})
    assert result.ratio is not None
    assert len(told) == 3


def test_a_table_is_printed_for_a_person(embedded_broker: EmbeddedBroker, empty: str) -> None:
    done = CliRunner().invoke(command(), ["--only", "engine", "--events", "300", "--database", empty])
    assert done.exit_code == 0, done.output
    assert "events/s" in done.stdout
    assert "publishing" in done.stdout


def test_made_texts_are_distinct_and_always_the_same() -> None:
    texts = made_texts(2000)
    assert len(set(texts)) == 2000
    assert texts[:100] == made_texts(100)


def test_events_are_of_the_size_they_claim_and_two_loads_share_none() -> None:
    lines = list(news_events(500, "a"))
    assert all(200 <= len(line.value or b"") <= 420 for line in lines)
    ids = {msgspec.json.decode(line.value or b"")["id"] for line in [*lines, *news_events(500, "b")]}
    assert len(ids) == 1000


def test_texts_of_a_file_are_taken_once_whatever_their_form(tmp_path: Path) -> None:
    rows = ['{"text": "one"}', "two", "", "two https://t.co/x", '{"broken', '{"text": "three"}']
    plain, packed = tmp_path / "texts.txt", tmp_path / "texts.jsonl.gz"
    plain.write_text("\n".join(rows))
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert texts_of(str(plain), 9) == texts_of(str(packed), 9) == ["one", "two", '{"broken', "three"]
    assert texts_of(str(plain), 2) == ["one", "two"]
    assert [json.loads(line.value or b"")["text"] for line in text_events(["one"], "n")] == ["one"]


def test_a_file_without_texts_is_bad_usage(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n\n")
    with pytest.raises(UsageError, match="holds no text"):
        texts_of(str(tmp_path / "empty"), 9)
    with pytest.raises(UsageError, match="cannot be read"):
        texts_of(str(tmp_path / "none"), 9)


def test_a_database_that_is_not_postgresql_is_bad_usage() -> None:
    with pytest.raises(UsageError, match="PostgreSQL"), open_site("sqlite:///x.db"):
        pass


def test_the_bare_model_scores_every_text_and_counts_its_tokens(tiny: Path) -> None:
    scorer = load_scorer(str(tiny), threads=1)
    texts = ["Acme soars as Bolt sinks", "Ok"]
    timing = score_bare(scorer, texts, "news")
    assert (timing.events, timing.tokens) == (2, sum(score.tokens for score in scorer.score(texts, "news")))


def test_the_ratio_holds_each_run_against_the_bare_runs_around_it() -> None:
    # A machine that grows slower all the while: 0.9 of what it could do at each moment.
    bare = [Timing(each, 1.0, None) for each in (110, 90, 70, 50)]
    timings = [Timing(90, 1.0, None), Timing(72, 1.0, None), Timing(54, 1.0, None)]
    assert ratios(bare, timings) == pytest.approx([0.9, 0.9, 0.9])
