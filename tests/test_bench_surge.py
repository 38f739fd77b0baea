"""Detections are scored by the benchmark's published rules, and a back-test says what would have fired."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.bench.nab import Topic, points
from pipeline.commands.app import app
from pipeline.surge.series import Series, read_series
from schemas.errors import UsageError

RULES = "rules:\n  - {name: much, kind: volume, stream: news, every: 15m}\n"
KEYS = [
    *("score", "windows_hit", "windows", "false_per_topic_week"),
    *("commercial_score", "ewma_score", "per_topic"),
]


def topic() -> Topic:
    return Topic(Series("t", 0.0, 300.0, np.zeros(4000)), ((1000, 1099), (3000, 3099)))


def test_nothing_found_scores_0_and_every_window_at_its_beginning_100() -> None:
    assert points(topic(), []).score == 0
    assert points(topic(), [1000, 3000]).score == pytest.approx(100)


def test_a_later_detection_earns_less_and_the_first_one_counts() -> None:
    early, late = points(topic(), [1000, 1050]), points(topic(), [1050])

    assert early.points == pytest.approx(0.0)
    assert -0.5 < late.points < early.points


def test_a_false_alert_costs_0_11_and_less_just_behind_a_window() -> None:
    assert points(topic(), [900]).points == pytest.approx(-2.11)
    assert points(topic(), [2000]).points == pytest.approx(-2.11)
    assert -2.11 < points(topic(), [1110]).points < -2


def test_what_falls_into_the_first_part_of_a_file_is_not_scored() -> None:
    assert points(topic(), [10, 599]).false == 0
    assert points(topic(), [600]).false == 1


def written(folder: Path, times: float = 6.0) -> Path:
    """A folder of one topic: three weeks of quarters of an hour, with one surge in its window."""
    rng = np.random.default_rng(6)
    counts = rng.poisson(20, 21 * 96)
    counts[1700:1708] = counts[1700:1708] * times
    moments = np.datetime64("2024-05-01T00:00:00") + np.arange(len(counts)) * np.timedelta64(900, "s")
    rows = "".join(f"{moment},{count}\n" for moment, count in zip(moments, counts, strict=True))
    (folder / "acme.csv").write_text("timestamp,value\n" + rows.replace("T", " "))
    window = [str(moments[1690]).replace("T", " ") + ".000000", str(moments[1740]).replace("T", " ") + ".000000"]
    (folder / "windows.json").write_text(json.dumps({"acme.csv": [window]}))
    return folder


def test_the_benchmark_says_what_it_should(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "surge", "--nab", str(written(tmp_path)), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])

    assert list(found) == KEYS
    assert (found["windows_hit"], found["windows"]) == (1, 1)
    assert found["score"] > 60


def test_streams_of_which_everything_is_known_are_judged() -> None:
    done = CliRunner().invoke(app, ["bench", "surge", "--synthetic", "--weeks", "1", "--surges", "2", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])

    kinds = [(kind, rate) for kind in ("poisson", "negative binomial") for rate in (30.0, 300.0)]
    assert [(each["kind"], each["rate"], each["expected"]) for each in found["calm"]] == [
        (*each, 1.0) for each in kinds
    ]
    assert [(each["kind"], each["rate"], each["surges"]) for each in found["surges"]] == [
        (*each, 2) for each in kinds
    ]
    assert all(0 < each["delay"] <= 120 for each in found["surges"])


def test_a_shorter_window_finds_a_surge_sooner() -> None:
    def delays(window: str) -> list[float]:
        words = ["--synthetic", "--weeks", "1", "--surges", "3", "--window", window, "--json"]
        done = CliRunner().invoke(app, ["bench", "surge", *words])
        assert done.exit_code == 0, done.output
        return [each["delay"] for each in json.loads(done.stdout.splitlines()[-1])["surges"]]

    assert sum(delays("30m")) < sum(delays("2h"))


@pytest.mark.parametrize("window", ["90s", "2d", "0m", "soon"])
def test_a_window_that_no_rule_looked_at_each_minute_can_have_is_refused(window: str) -> None:
    done = CliRunner().invoke(app, ["bench", "surge", "--synthetic", "--window", window])

    assert done.exit_code == 2
    assert "whole minutes, from 1m to 1d" in done.output or "'soon' is no length of time" in done.output


def test_a_window_for_labelled_series_is_refused() -> None:
    done = CliRunner().invoke(app, ["bench", "surge", "--nab", "nab", "--window", "1h"])

    assert done.exit_code == 2
    assert "--window is for --synthetic" in done.output


def test_a_folder_without_windows_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "surge", "--nab", str(tmp_path)])

    assert done.exit_code == 2
    assert "windows.json cannot be read" in done.output


def test_a_back_test_says_what_would_have_fired_and_draws_it(tmp_path: Path) -> None:
    rules, plot = tmp_path / "rules.yaml", tmp_path / "plot.svg"
    rules.write_text(RULES)
    words = ["--counts", str(written(tmp_path) / "acme.csv"), "--plot", str(plot), "--json"]
    done = CliRunner().invoke(app, ["rules", "backtest", str(rules), *words])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    alerts = [each for each in found["alerts"] if each["start"].startswith("2024-05-18")]

    assert len(alerts) == 1
    assert set(alerts[0]) == {"rule", "group", "start", "end", "value", "baseline", "odds"}
    assert (alerts[0]["rule"], alerts[0]["group"]) == ("much", "acme")
    assert "times the usual; expected once in" in alerts[0]["odds"]
    assert found["summary"]["alerts_per_week"]["acme"] == pytest.approx(len(found["alerts"]) / 3, abs=0.01)
    assert plot.read_text().count('class="alert"') == len(found["alerts"])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("time,value\n", "has no columns timestamp and value"),
        ("timestamp,value\nyesterday,1\n", "line 2: 'yesterday' is no time"),
        ("timestamp,value\n2024-05-31T09:00:00Z,-1\n", "line 2: '-1' is no count"),
        ("timestamp,value\n2024-05-31T09:00:00Z,1\n", "fewer than two moments"),
    ],
)
def test_a_series_that_cannot_be_read_is_refused_with_its_line(content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=told):
        read_series(str(path))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give one of --database, --input FILE and --counts FILE.csv"),
        (
            ["--counts", "a/x.csv", "--counts", "b/x.csv"],
            "2 series are called x; give each file a name of its own",
        ),
        (["--database", "--input", "a.jsonl"], "give one of --database, --input FILE and --counts FILE.csv"),
        (["--input", "a.jsonl", "--run", "old"], "--run names a back-fill in the database"),
        (["--input", "a.jsonl", "--always"], "--always is for --database without --run"),
        (["--database", "--run", "old", "--always"], "--always is for --database without --run"),
        (["--database", "--plot", "a.png"], "a.png is no SVG"),
    ],
)
def test_words_that_do_not_go_together_are_refused(words: list[str], told: str, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    done = CliRunner().invoke(app, ["rules", "backtest", str(rules), *words])

    assert done.exit_code == 2
    assert told in " ".join(done.output.split())


def test_moments_that_are_absent_count_nothing(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    path.write_text("timestamp,value\n" + "".join(f"2024-05-31T09:0{minute}:00Z,5\n" for minute in (0, 1, 2, 5)))

    assert read_series(str(path)).counts.tolist() == [5, 5, 5, 0, 0, 5]


def test_rules_that_a_plain_series_cannot_answer_are_named(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES + "  - {name: sad, kind: share, stream: news, head: sentiment, label: negative}\n")
    done = CliRunner().invoke(
        app, ["rules", "backtest", str(rules), "--counts", str(written(tmp_path) / "acme.csv")]
    )

    assert done.exit_code == 0, done.output
    assert "sad (share)" in done.stderr


def test_a_window_that_rows_do_not_make_up_is_refused_with_one_that_they_do(tmp_path: Path) -> None:
    rules, counts = tmp_path / "rules.yaml", tmp_path / "days.csv"
    rules.write_text("rules:\n  - {name: much, kind: volume, stream: news}\n")
    counts.write_text("timestamp,value\n" + "".join(f"2024-05-{day:02},7\n" for day in range(1, 31)))
    done = CliRunner().invoke(app, ["rules", "backtest", str(rules), "--counts", str(counts)])

    assert done.exit_code == 2
    assert "a window of 86400s or a multiple of it" in " ".join(done.output.split())


def test_a_file_of_other_things_than_events_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALIENCE_MODEL__BUNDLE", "stub")
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: [{name: surge, kind: volume, stream: news}]")
    done = CliRunner().invoke(
        app, ["rules", "backtest", str(rules), "--input", str(written(tmp_path) / "acme.csv")]
    )
    told = " ".join(done.stderr.split())

    assert done.exit_code == 2
    assert "none of the 2,016 rows of" in told
    assert "is an event of news; name its fields with --map and --set, or give --counts for a plain series" in told
