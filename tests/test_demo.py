"""The demo accounts for every event, shows itself, and leaves nothing behind."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
from day import day, rule
from rich.console import Console

from models.runtime import load_scorer
from pipeline import embedded
from pipeline.decode import Decoder
from pipeline.demo.scenario import market_day
from pipeline.demo.stage import RULES
from pipeline.demo.view import State, View
from pipeline.demo.watch import Alerted, Counts, Letter, Snapshot, Watch
from pipeline.demo.words import highlighted
from pipeline.rules_file import load_rules
from pipeline.settings import EventSettings
from schemas.errors import DecodeError
from schemas.labels import STREAMS

needs_broker = [
    pytest.mark.broker,
    pytest.mark.skipif(embedded.available() is not None, reason=str(embedded.available())),
]
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists a program's children in /proc")
SALIENCE = [sys.executable, "-m", "pipeline"]


@contextlib.contextmanager
def demo(folder: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """A running demo whose temporary folder lies in `folder`."""
    environment = {**os.environ, "TMPDIR": str(folder), "SALIENCE_MODEL__BUNDLE": "stub", "COLUMNS": "100"}
    with subprocess.Popen(
        [*SALIENCE, "demo", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def processes(folder: Path) -> list[int]:
    """Those that carry `folder` in their environment, as everything does that a demo started, or its command."""
    mark = str(folder).encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes() and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def descendants(pid: int) -> list[int]:
    """The living children of a process, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def eventually(is_so: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def shown(state: State, width: int, height: int) -> list[str]:
    console = Console(file=StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(View(state))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def a_surge() -> list[Alerted]:
    """Of mood, and of one company's name."""
    example = {"text": "Markets sink", "label": "negative", "probability": 0.97, "words": [["sink", 0.8]]}
    counted = {"count": 31, "odds": "4.5 times the usual; expected once in 1.1 days", "examples": [example]}
    unread = {"count": 43, "odds": "82 times the usual", "examples": [{"text": "what is going on"}]}
    return [
        Alerted("market-mood", "share", "", "critical", 0, counted | {"value": 0.357, "baseline": 0.0789}),
        Alerted("talk-of-the-day", "volume", "CRVN", "high", 0, unread | {"value": 43.0, "baseline": 0.5257}),
    ]


def a_state() -> State:
    state = State(30, {"corvane-bad-news": ("sentiment",)}, "a market day")
    evidence = {
        "source": "meridian-wire",
        "text": "Corvane [bold]shares\x1b[2J plunge",
        "heads": {"sentiment": {"label": "negative", "probability": 0.93, "words": [["plunge", 0.9]]}},
    }
    state.snapshot = Snapshot(
        streams={"news": Counts(12_345, 3, 2)},
        alerts=4,
        latest_alerts=[*a_surge(), *[Alerted("corvane-bad-news", "match", "", "high", 0, evidence)] * 2],
        reasons={"undecodable": 2},
        latest_letters=[Letter("news", "undecodable", "text is empty; there is nothing to read")],
    )
    state.snapshot.topics["Legal | Regulation", "negative"] = 7
    return state


def test_the_scenario_knows_the_fate_of_its_malformed_events() -> None:
    decoders = {stream: Decoder(stream, b"key", EventSettings()) for stream in STREAMS}
    known: dict[tuple[str, str, str], bytes] = {}
    found = {"stored": 0, "repeated": 0, "dead": 0}
    for entry in market_day().entries:
        try:
            event = decoders[entry.stream].decode(entry.line)
        except DecodeError:
            fate = "dead"
        else:
            before = known.setdefault((event.stream, event.source, event.id), event.content_hash)
            fate = "stored" if event.record is entry.line and before == event.content_hash else "dead"
            if fate == "stored" and entry.fate == "repeated":
                fate = "repeated"
        assert fate == entry.fate, entry
        found[fate] += 1

    assert found == dict(market_day().expected)
    assert len(known) == found["stored"]


def test_the_scenario_is_the_same_in_every_run() -> None:
    assert market_day.__wrapped__() == market_day()


def test_each_stream_spreads_over_several_keys() -> None:
    for stream in STREAMS:
        assert len({entry.line.key for entry in market_day().entries if entry.stream == stream}) >= 6


@pytest.mark.parametrize("bundle", ["stub", ""])
def test_the_rules_of_the_demo_fit_the_packaged_models(bundle: str) -> None:
    scorer = load_scorer(bundle)

    assert load_rules(str(RULES), {stream: scorer.labels(stream) for stream in STREAMS}).rules


def test_the_burst_reads_as_bad_news_to_the_packaged_model() -> None:
    scorer = load_scorer()
    decoder = Decoder("news", b"key", EventSettings())
    events = [
        decoder.decode(entry.line)
        for entry in market_day().entries
        if entry.stream == "news" and entry.fate == "stored"
    ]
    negative = {True: 0, False: 0}
    texts = {True: 0, False: 0}
    for event, score in zip(events, scorer.score([event.text for event in events], "news"), strict=True):
        about = "Corvane" in event.text or "CRVN" in event.text
        sentiment = score.heads["sentiment"]
        texts[about] += 1
        negative[about] += sentiment.label == "negative" and sentiment.probability >= 0.7

    assert negative[True] >= 20
    assert negative[True] / texts[True] > 2 * negative[False] / texts[False]


@pytest.mark.parametrize(("width", "height"), [(100, 30), (80, 24), (200, 60)])
def test_the_view_fits_the_terminal(width: int, height: int) -> None:
    lines = shown(a_state(), width, height)

    assert len(lines) < height
    assert max(map(len, lines)) <= width
    assert "12,345" in "\n".join(lines)
    assert "meridian-wire 2x" in "\n".join(lines)


def test_a_surge_is_shown_with_what_is_usual_and_a_text() -> None:
    lines = [line.strip("│ ") for line in shown(a_state(), 130, 36)]
    mood = next(number for number, line in enumerate(lines) if "market-mood" in line)

    odds = "4.5 times the usual; expected once in 1.1 days"
    assert f"market-mood  36% of 31 texts, usually 8%: {odds} negative 97%" in lines[mood]
    assert lines[mood + 1] == "Markets sink"
    assert "talk-of-the-day CRVN  43 texts, usually 0.5: 82 times the usual" in lines[mood + 2]
    assert lines[mood + 3] == "what is going on"


def test_text_of_an_event_cannot_command_the_terminal() -> None:
    screen = "\n".join(shown(a_state(), 100, 30))

    assert "[bold]shares" in screen
    assert "\x1b[2J" not in screen


def test_words_are_highlighted_by_their_weight() -> None:
    text = highlighted(
        "Shares plunge, plunger untouched", {"plunge": 0.8, "Shares": 0.1, ",": 0.9, "untouched": 0.01}
    )

    assert [(text.plain[span.start : span.end], span.style) for span in text.spans] == [
        ("Shares", "yellow"),
        ("plunge", "bold white on red"),
    ]


async def test_the_demo_waits_until_rules_have_looked_at_all_that_is_over(tmp_path: Path) -> None:
    async with day(f"sqlite:///{tmp_path / 'demo.db'}", tmp_path, rule()) as today:
        watch = Watch(today.database)
        nothing = await watch.has_decided({"news"})
        await today.tell((1, "Oats rise"))
        # No tick was closed so far.
        stored = await watch.has_decided({"news"})
        others = await watch.has_decided({"chat"})
        await today.reach(60)
        looked = await watch.has_decided({"news"})
        await today.tell((600, "Oats fall"))
        more = await watch.has_decided({"news"})

    assert (nothing, stored, others, looked, more) == (True, False, True, True, False)


class TestRun:
    """With broker and worker."""

    pytestmark = needs_broker

    def test_every_event_is_accounted_for_and_nothing_is_left(self, tmp_path: Path) -> None:
        with demo(tmp_path, "--duration", "12", "--json") as process:
            out, err = process.communicate(timeout=90)

        assert process.returncode == 0, err
        result = json.loads(out.splitlines()[-1])
        expected = market_day().expected
        assert {name: result[name] for name in expected} == dict(expected)
        assert result["sent"] == result["stored"] + result["repeated"] + result["dead"]
        assert result["alerts"] > result["surges"] > 0
        assert result["seconds"] > 0
        assert len(out.splitlines()) == 1
        assert "\x1b" not in out + err
        assert list(tmp_path.iterdir()) == []
        assert processes(tmp_path) == []

    @needs_proc
    def test_ctrl_c_in_the_middle_ends_it_in_good_order(self, tmp_path: Path) -> None:
        with demo(tmp_path, "--duration", "30", "--json") as process:
            assert process.stderr is not None
            assert any(re.search(r" [1-9][\d,]* stored", line) for line in process.stderr)
            children = descendants(process.pid)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)

        assert process.returncode == 0, err
        assert "Traceback" not in err
        result = json.loads(out)
        assert market_day().expected.total() > result["sent"] >= result["stored"] > 0
        assert list(tmp_path.iterdir()) == []
        assert [pid for pid in children if not gone(pid)] == []

    @needs_proc
    def test_sigterm_at_the_start_ends_it_in_good_order(self, tmp_path: Path) -> None:
        with demo(tmp_path, "--duration", "30", "--json") as process:
            assert eventually(lambda: len(descendants(process.pid)) >= 1)
            children = descendants(process.pid)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=30)

        assert process.returncode == 0, err
        assert "Traceback" not in err
        assert json.loads(out)["stored"] == 0
        assert list(tmp_path.iterdir()) == []
        assert [pid for pid in children if not gone(pid)] == []

    @needs_proc
    def test_impatience_ends_it_too(self, tmp_path: Path) -> None:
        with demo(tmp_path, "--duration", "30") as process:
            assert eventually(lambda: len(descendants(process.pid)) >= 2)
            children = descendants(process.pid)
            while process.poll() is None:
                process.send_signal(signal.SIGINT)
                time.sleep(0.1)
            _, err = process.communicate(timeout=30)

        assert process.returncode == 0
        assert "Traceback" not in err
        assert list(tmp_path.iterdir()) == []
        assert eventually(lambda: all(map(gone, children)))

    @needs_proc
    def test_nothing_outlives_a_demo_that_was_killed(self, tmp_path: Path) -> None:
        with demo(tmp_path, "--duration", "30") as process:
            assert eventually(lambda: len(descendants(process.pid)) >= 2)
            children = descendants(process.pid)
            process.kill()

            assert eventually(lambda: all(map(gone, children)))

    def test_a_file_is_fed_instead_and_kept_running_until_asked_to_end(self, tmp_path: Path) -> None:
        events = tmp_path / "events.jsonl"
        row = '{{"source": "desk", "text": "Oats rise {0}%", "time": "2025-05-14T09:00:{0:02}Z"}}\n'
        events.write_text("".join(row.format(number) for number in range(50)) + "no json\n")
        folder = tmp_path / "run"
        folder.mkdir()
        with demo(folder, "--input", str(events), "--stream", "news", "--keep", "--json") as process:
            assert process.stdout is not None
            result = json.loads(process.stdout.readline())
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)

        assert (result["sent"], result["stored"], result["dead"]) == (51, 50, 1)
        assert re.fullmatch(r"127\.0\.0\.1:\d+", result["broker"])
        assert Path(result["database"].partition("///")[2]).is_file()
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--input", "x.jsonl", "--stream", "weather"),
            "'weather' is no stream; choose one of news, chat, behavior",
        ),
        (("--input", "x.jsonl"), "--stream"),
        (("--input", "/nowhere/x.jsonl", "--stream", "news"), "/nowhere/x.jsonl cannot be read"),
    ],
)
def test_wrong_usage_gets_a_sentence_and_status_2(tmp_path: Path, options: tuple[str, ...], sentence: str) -> None:
    with demo(tmp_path, *options) as process:
        _, err = process.communicate(timeout=30)

    assert process.returncode == 2
    assert sentence in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []
