"""salience alerts: a person sees what fired and who was told, and changes what is theirs to change."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from commandline import answer, events_file, salience, workplace
from desk import EVIDENCE, SECRET, alert, desk, raised
from helpers import rows
from rich.text import Text

from pipeline.commands import alerts as command
from pipeline.commands.alert_lines import _marked
from pipeline.settings import load_settings
from pipeline.store.alerts import change
from pipeline.store.database import Database
from pipeline.times import now
from pipeline.work import AlertRow
from schemas.counting import firings, silences
from schemas.tables import outbox

R = TypeVar("R")
HOUR = 3_600_000_000
NAME = "bad-mood/CRVN/1"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    workplace(tmp_path, monkeypatch)
    salience("db", "upgrade")
    return tmp_path


def on_database(job: Callable[[Database], Awaitable[R]]) -> R:
    async def run() -> R:
        database = Database(load_settings().database)
        try:
            return await job(database)
        finally:
            await database.close()

    return asyncio.run(run())


def given(*found: AlertRow, at: int | None = None) -> None:
    async def store(database: Database) -> None:
        for each in found:
            await raised(database, each, at or now())

    on_database(store)


def receivers_file(folder: Path, monkeypatch: pytest.MonkeyPatch, receivers: str) -> None:
    (folder / "rules.yaml").write_text(f"receivers:\n{receivers}\n")
    monkeypatch.setenv("SALIENCE_RULES__FILE", str(folder / "rules.yaml"))


# list


def test_alerts_are_listed_the_newest_first(folder: Path) -> None:
    given(alert(), alert(episode="2", state="resolved", group=""))

    found = answer("alerts", "list")["alerts"]
    shown = salience("alerts", "list").stdout

    assert [(each["id"], each["name"], each["state"]) for each in found] == [
        (2, "bad-mood//2", "resolved"),
        (1, NAME, "firing"),
    ]
    assert "bad-mood" in shown and "CRVN" in shown


def test_alerts_are_listed_by_state_rule_and_age(folder: Path) -> None:
    given(alert(episode="old"), at=now() - 3 * HOUR)
    given(alert(), alert(episode="2", state="resolved"), alert(episode="3", rule="other"))

    def listed(*words: str) -> list[str]:
        return [each["episode"] for each in answer("alerts", "list", *words)["alerts"]]

    assert listed("--state", "resolved") == ["2"]
    assert listed("--rule", "other") == ["3"]
    assert listed("--since", "1h") == ["3", "2", "1"]
    assert listed("--limit", "1") == ["3"]


def test_an_unknown_state_is_refused(folder: Path) -> None:
    told = salience("alerts", "list", "--state", "burning", status=2).stderr

    assert "'burning' is no state; an alert is pending, firing, acknowledged, resolved, fired" in told


# show


def test_an_alert_is_shown_with_evidence_history_and_who_was_told(folder: Path) -> None:
    given(alert("desk"))
    salience("alerts", "ack", "1", "--author", "ann", "--note", "known outage")

    shown = salience("alerts", "show", "1").stdout

    for told in (EVIDENCE["odds"], "Corvane sinks", "acknowledged", "ann", "known outage", "desk", "waiting"):
        assert str(told) in shown


def test_an_alert_is_shown_as_json_by_its_name(folder: Path) -> None:
    given(alert("desk"))
    salience("alerts", "ack", NAME, "--author", "ann")

    found = answer("alerts", "show", NAME)

    assert found["evidence"] == EVIDENCE
    assert [(each["state"], each["author"]) for each in found["history"]] == [
        ("firing", "rule"),
        ("acknowledged", "ann"),
    ]
    assert [(each["receiver"], each["state"], each["outcome"]) for each in found["deliveries"]] == [
        ("t.alerts", "", "waiting"),
        ("desk", "firing", "waiting"),
        ("salience.alerts", "", "waiting"),
    ]


def test_a_single_event_is_shown_with_its_words(folder: Path) -> None:
    heads = {"sentiment": {"label": "negative", "probability": 0.9, "words": [["sinks", 0.8]]}}
    evidence = {"source": "wire", "id": "n1", "text": "Corvane \x1b[31msinks", "heads": heads}
    given(alert(state="fired", kind="match", group="", evidence=evidence))

    shown = salience("alerts", "show", "1").stdout

    assert "- wire: Corvane  [31msinks\n" in shown
    assert "sentiment: negative 0.90" in shown


def test_the_words_that_were_looked_at_stand_out() -> None:
    line = _marked(Text("- wire: Corvane sinks"), EVIDENCE)

    assert [line.plain[span.start : span.end] for span in line.spans] == ["sinks"]
    assert _marked(Text("sinks"), EVIDENCE).spans == []


@pytest.mark.parametrize("which", ["7", "bad-mood/CRVN/7", "9" * 30, "x"])
def test_an_alert_that_is_not_there_is_told(which: str, folder: Path) -> None:
    assert (
        f"there is no alert {which}; `salience alerts list`" in salience("alerts", "show", which, status=2).stderr
    )


# ack and resolve


def test_an_acknowledgement_is_a_row_of_history_and_a_message(folder: Path) -> None:
    given(alert("desk"))

    assert answer("alerts", "ack", "1", "--author", "ann") == {
        "id": 1, "state": "acknowledged", "version": 2, "author": "ann"
    }  # fmt: skip
    entries = on_database(lambda database: rows(database, outbox))
    told = {each["receiver"]: json.loads(each["value"])["state"] for each in entries}
    assert told == {"topic:t.alerts": "firing", "to:desk": "firing", "topic:salience.alerts": "acknowledged"}


@pytest.mark.parametrize("state", ["pending", "firing", "acknowledged"])
def test_what_is_not_over_can_be_resolved_and_its_receivers_hear_of_it(state: str, folder: Path) -> None:
    given(alert("desk", state=state))

    assert "alert 1 is resolved, by ann" in salience("alerts", "resolve", "1", "--author", "ann").stdout
    entries = on_database(lambda database: rows(database, outbox))
    assert "bad-mood/CRVN/1:resolved:to:desk" in [each["identity"] for each in entries]


def test_a_rule_stays_armed_as_it_was_when_a_person_resolves(folder: Path) -> None:
    async def fire(database: Database) -> None:
        row = await raised(database, alert(), now())
        values = {"rule": "bad-mood", "group": "CRVN", "stream": "news", "start_time": 1, "last_time": 2}
        async with database.begin() as connection:
            await connection.execute(firings.insert().values(**values, alert=row))

    on_database(fire)
    before = on_database(lambda database: rows(database, firings))
    salience("alerts", "resolve", "1")

    assert on_database(lambda database: rows(database, firings)) == before


@pytest.mark.parametrize(
    ("state", "words", "told"),
    [
        ("resolved", "resolve", "alert 1 (bad-mood/CRVN/1) is resolved already since "),
        ("resolved", "ack", "acknowledged can be what is firing"),
        ("pending", "ack", "acknowledged can be what is firing"),
        ("acknowledged", "ack", "is acknowledged already since "),
        ("fired", "ack", "is about a single event, and fired is its only state; it cannot be acknowledged"),
        ("fired", "resolve", "is about a single event, and fired is its only state; it cannot be resolved"),
    ],
)
def test_a_state_that_does_not_allow_a_change_is_told(state: str, words: str, told: str, folder: Path) -> None:
    given(alert(state=state))

    assert told in salience("alerts", words, "1", status=2).stderr
    assert answer("alerts", "show", "1")["version"] == 1


def test_who_changes_an_alert_at_the_same_time_as_its_rule_waits_and_looks_again(database: str) -> None:
    async def play() -> str:
        one, other = (Database(load_settings(database={"url": database}).database) for _ in range(2))
        try:
            await command.migrate.upgrade(one, now())
            row = await raised(one, alert(), now())
            async with one.begin() as connection:
                await change(connection, row, "resolved", now())
                late = command.alert_changes.set_state(other, str(row), "acknowledged", now(), "ann", None, "t")
                waiting = asyncio.create_task(late)
                await asyncio.wait([waiting], timeout=0.2)
                assert not waiting.done()
            with pytest.raises(command.UsageError) as caught:
                await waiting
            return str(caught.value)
        finally:
            await one.close()
            await other.close()

    assert "is resolved since" in asyncio.run(play())


@pytest.mark.parametrize("words", [["ack", "1"], ["resolve", "1"]])
def test_an_empty_author_is_refused(words: list[str], folder: Path) -> None:
    given(alert())

    assert "--author is empty" in salience("alerts", *words, "--author", " ", status=2).stderr


def test_without_an_author_it_is_the_user_of_the_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(alert())
    monkeypatch.setattr(command.getpass, "getuser", lambda: "bea")

    assert answer("alerts", "ack", "1")["author"] == "bea"


# silence


def test_a_silence_names_a_rule_a_group_or_an_alert(folder: Path) -> None:
    given(alert())
    said = ("--for", "2h", "--comment", "results day", "--author", "ann")

    first = answer("alerts", "silence", "--rule", "bad-mood", *said)
    second = answer("alerts", "silence", "--group", "CRVN", *said)
    third = answer("alerts", "silence", "1", *said)

    assert [(each["rule"], each["group"]) for each in (first, second, third)] == [
        ("bad-mood", None), (None, "CRVN"), ("bad-mood", "CRVN")
    ]  # fmt: skip
    [row, *_] = on_database(lambda database: rows(database, silences))
    assert (row["author"], row["comment"], row["ends_at"] - row["starts_at"]) == ("ann", "results day", 2 * HOUR)


def test_silences_are_listed_until_they_are_over_or_ended(folder: Path) -> None:
    said = ("--for", "2h", "--comment", "results day")
    assert "silence 1: rule bad-mood until " in salience("alerts", "silence", "--rule", "bad-mood", *said).stdout
    assert "results day" in salience("alerts", "silences").stdout

    assert "silence 1 is over" in salience("alerts", "silences", "--end", "1").stdout

    assert answer("alerts", "silences")["silences"] == []
    assert len(answer("alerts", "silences", "--all")["silences"]) == 1
    assert "silence 1 is over already" in salience("alerts", "silences", "--end", "1", status=2).stderr
    assert "there is no silence 7" in salience("alerts", "silences", "--end", "7", status=2).stderr


def test_a_silence_of_a_rule_that_nobody_knows_says_so(folder: Path) -> None:
    given(alert())
    said = ("--for", "2h", "--comment", "results day")

    known = salience("alerts", "silence", "--rule", "bad-mood", *said).stderr
    unknown = salience("alerts", "silence", "--rule", "bad-mod", *said).stderr

    assert "no rule" not in known
    assert "no rule in force is called bad-mod; the silence holds for one that comes to be" in unknown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--for", "2h", "--comment", "x"], "a silence names a rule, a group or an alert"),
        (["--rule", "r", "--comment", "x"], "a silence has an end; give --for, as in --for 2h"),
        (["--rule", "r", "--for", "0h", "--comment", "x"], "a silence lasts for some time; give --for"),
        (["--rule", "r", "--for", "long", "--comment", "x"], "'long' is no length of time"),
        (["--rule", "r", "--for", "2h"], "a silence says why; give --comment"),
        (
            ["--rule", "r", "--for", "99999999999d", "--comment", "x"],
            "longer than a hundred years; write at most 36500d",
        ),
        (
            ["1", "--rule", "r", "--for", "2h", "--comment", "x"],
            "or --rule and --group, not both",
        ),
        (["1", "--for", "2h", "--comment", "x"], "there is no alert 1"),
    ],
)
def test_a_silence_that_cannot_be_is_told(words: list[str], told: str, folder: Path) -> None:
    assert told in salience("alerts", "silence", *words, status=2).stderr


# Receivers


def test_a_back_fill_needs_nothing_of_the_receivers_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receivers_file(folder, monkeypatch, "  desk: {apprise: '${NOT_THERE}'}")

    salience("backfill", events_file(folder), "--stream", "news")

    told = salience("alerts", "receivers", status=2).stderr
    assert "receivers.desk.apprise: the environment has no NOT_THERE" in told


async def test_a_test_notification_reaches_its_receiver(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk() as it:
        receivers_file(folder, monkeypatch, f"  hook: {{webhook: '{it.url}/in', secret: {SECRET}}}")
        found = await asyncio.to_thread(answer, "alerts", "test-receiver", "hook")
    assert found["told"] is True
    assert "This is a test of Salience" in json.loads(it.got[0]["body"])["evidence"]["text"]


async def test_a_test_notification_that_fails_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk() as it:
        it.status = 403
        receivers_file(folder, monkeypatch, f"  hook: {{webhook: '{it.url}/T0ken', secret: {SECRET}}}")
        found = await asyncio.to_thread(salience, "alerts", "test-receiver", "hook", status=1)
    assert "was not told: status 403: so it is (a refusal" in found.stderr
    assert "T0ken" not in found.output


def test_a_receiver_that_is_not_there_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = salience("alerts", "test-receiver", "desk", status=2).stderr
    assert "no rules file is set, and receivers stand there" in told

    receivers_file(folder, monkeypatch, "  mail: {apprise: json://127.0.0.1/a}")
    told = salience("alerts", "test-receiver", "desk", status=2).stderr
    assert "there is no receiver desk; the rules file has mail" in told


def test_receivers_are_listed_with_what_waits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receivers_file(folder, monkeypatch, "  mail: {apprise: json://ann:hunter22@127.0.0.1/a}")
    given(alert("desk", "mail"))

    found = answer("alerts", "receivers")["receivers"]
    shown = salience("alerts", "receivers").stdout

    assert [(each["name"], each["address"], each["waiting"]) for each in found] == [
        ("desk", None, 1),
        ("mail", "json://ann:****@127.0.0.1/a", 1),
    ]
    assert "not in the rules file" in shown.replace("\n", " ")
    assert "hunter22" not in shown


def test_rules_check_tells_of_receivers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receivers_file(folder, monkeypatch, "  mail: {apprise: json://ann:hunter22@127.0.0.1/a}")

    shown = salience("rules", "check", "rules.yaml").stdout

    assert "apprise      mail  json://ann:****@127.0.0.1/a" in shown
    assert "0 rules, 1 receivers, version" in shown
    [told] = answer("rules", "check", "rules.yaml")["receivers"]
    assert told == {"name": "mail", "kind": "apprise", "address": "json://ann:****@127.0.0.1/a"}


def doctors_finding() -> dict[str, Any]:
    [found] = [each for each in answer("doctor", status=1)["findings"] if each["part"] == "receivers"]
    return dict(found)


def test_the_doctor_tells_of_receivers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "`receivers:` in the rules file names who is told" in doctors_finding()["message"]

    receivers_file(folder, monkeypatch, "  mail: {apprise: json://127.0.0.1/a}")
    assert doctors_finding()["message"] == "mail (json://127.0.0.1/a)"

    given(alert("desk"))
    found = doctors_finding()
    assert not found["ok"]
    assert found["message"] == "1 notifications wait for desk, which the rules file does not have"
