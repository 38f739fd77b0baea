"""Each command does its job and answers with it, to a person and as JSON."""

import gzip
import json
from pathlib import Path

import pytest
from commandline import TIME, answer, events_file, news, salience, workplace

from pipeline import admin, send
from pipeline.embedded import EmbeddedBroker

RULES = """
rules:
  - {name: bad-news, kind: match, stream: news, when: {words: bankrupt}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return workplace(tmp_path, monkeypatch)


@pytest.fixture
def database(folder: Path) -> Path:
    """A database with the schema, where the default setting looks for it."""
    salience("db", "upgrade")
    return folder / "salience.db"


@pytest.fixture
def events(folder: Path) -> str:
    return events_file(folder)


def test_score_shows_labels_and_words_of_each_text(folder: Path) -> None:
    (folder / "texts.txt").write_text("Acme cuts its outlook\nshares rise\n")

    found = answer("score", "texts.txt")

    assert found["bundle"].startswith("stub@")
    assert [row["text"] for row in found["scores"]] == ["Acme cuts its outlook", "shares rise"]
    assert set(found["scores"][0]["heads"]) == {"sentiment", "topic"}
    shown = salience("score", "Acme cuts its outlook").stdout
    assert "sentiment" in shown
    assert "Acme 0.50" in shown


def test_score_reads_standard_input() -> None:
    assert "from a pipe" in salience("score", "-", stdin="from a pipe\n").stdout


def test_score_says_when_the_bundle_has_no_head_for_the_stream() -> None:
    assert "the bundle has no head for this stream" in salience("score", "hello", "--stream", "chat").stdout


def test_upgrade_twice_changes_nothing() -> None:
    first, second = answer("db", "upgrade"), answer("db", "upgrade")

    assert first["before"] is None
    assert second["before"] == second["after"] == first["after"]


def test_backfill_accounts_for_every_line(database: Path, events: str) -> None:
    found = answer("backfill", events, "--stream", "news")

    assert set(found) == {"sent", "stored", "repeated", "dead", "alerts", "seconds"}
    assert (found["sent"], found["stored"], found["repeated"], found["dead"]) == (5, 3, 1, 1)


def test_a_second_backfill_finds_everything_repeated(database: Path, events: str) -> None:
    salience("backfill", events, "--stream", "news")

    found = answer("backfill", events, "--stream", "news")

    assert (found["sent"], found["stored"], found["repeated"], found["dead"]) == (5, 0, 4, 1)


def test_backfill_reads_a_compressed_csv_with_other_columns(database: Path, folder: Path) -> None:
    (folder / "h.csv.gz").write_bytes(gzip.compress(b"headline,tweet\nshares fall,1\nshares rise,2\n"))

    found = answer(
        *("backfill", "h.csv.gz", "--stream", "news", "--map", "text=headline", "--map", "id=tweet"),
        *("--set", "source=wire", "--start", TIME, "--step", "1"),
    )

    assert (found["sent"], found["stored"]) == (2, 2)


def test_backfill_reads_standard_input(database: Path) -> None:
    result = salience("backfill", "-", "--stream", "news", stdin=news(1) + news(2))

    assert "2 read" in result.stdout
    assert "2 stored" in result.stdout


def test_a_second_standard_input_is_another_run(database: Path) -> None:
    salience("backfill", "-", "--stream", "news", stdin="garbage\n")
    salience("backfill", "-", "--stream", "news", stdin="other garbage\n")

    assert len(answer("dlq", "list")["dead_letters"]) == 2


def test_backfill_raises_the_alerts_of_the_rules(
    database: Path, events: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "rules.yaml").write_text(RULES)
    monkeypatch.setenv("SALIENCE_RULES__FILE", "rules.yaml")

    assert answer("backfill", events, "--stream", "news")["alerts"] == 1
    assert answer("backfill", events, "--stream", "news")["alerts"] == 0


def test_prune_deletes_what_is_old(database: Path, events: str) -> None:
    salience("backfill", events, "--stream", "news")

    assert answer("db", "prune", "--older-than", "90d")["events"] == 3
    assert answer("db", "prune", "--older-than", "90d")["events"] == 0


def test_dead_letters_are_listed_and_shown_with_their_bytes(database: Path, events: str) -> None:
    salience("backfill", events, "--stream", "news")

    listed = answer("dlq", "list")
    [letter] = listed["dead_letters"]
    assert listed["reasons"] == {"undecodable": 1}
    assert (letter["stream"], letter["offset"], letter["replayed"]) == ("news", 2, False)
    shown = answer("dlq", "show", str(letter["id"]))
    assert (shown["value"], shown["origin"]) == ("garbage", "backfill")
    assert "the value is no JSON" in shown["message"]


def test_dead_letters_are_chosen_by_reason_and_stream(database: Path, events: str) -> None:
    salience("backfill", events, "--stream", "news")

    assert len(answer("dlq", "list", "--stream", "news", "--reason", "undecodable")["dead_letters"]) == 1
    assert answer("dlq", "list", "--stream", "chat")["dead_letters"] == []
    assert answer("dlq", "list", "--reason", "conflict")["dead_letters"] == []


@pytest.fixture
def odd_letter(database: Path, folder: Path) -> None:
    """A dead letter whose message quotes markup, an emoji's name and the escape that clears a terminal."""
    event = {"id": "b1", "source": "shop", "time": TIME, "user": "ann", "item": "i1"}
    (folder / "b[b].jsonl").write_text(
        json.dumps(event | {"action": "[/red]:bomb:\x1b[2J\x9b2J"}, ensure_ascii=False), encoding="utf-8"
    )
    salience("backfill", "b[b].jsonl", "--stream", "behavior")


@pytest.mark.usefixtures("odd_letter")
@pytest.mark.parametrize("words", [["list"], ["show", "1"]], ids=" ".join)
def test_a_dead_letter_is_shown_without_markup_and_control_characters(words: list[str]) -> None:
    shown = salience("dlq", *words).stdout.replace("\n", "")

    assert "[/red]:bomb:" in shown
    assert "b[b].jsonl" in shown
    assert not {"\x1b", "\x9b"} & set(shown)


def test_a_scored_text_is_shown_without_markup_and_control_characters() -> None:
    shown = salience("score", "[/red]bad :bomb: \x1b[2Jnews").stdout

    assert "[/red]bad :bomb:  [2Jnews" in shown
    assert "\x1b" not in shown


def test_doctor_shows_a_path_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALIENCE_RULES__FILE", "x[/y]:bomb:.yaml")

    assert "x[/y]:bomb:.yaml" in salience("doctor", status=1).stdout


def test_config_shows_a_value_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALIENCE_RULES__FILE", "x[/y]:bomb:.yaml")
    monkeypatch.setenv("COLUMNS", "300")

    assert "x[/y]:bomb:.yaml" in salience("config").stdout


def test_a_problem_quotes_a_path_as_it_is() -> None:
    assert "[/y]:bomb:.yaml" in salience("rules", "check", "[/y]:bomb:.yaml", status=2).stderr


def test_a_dead_letter_that_is_not_there_gets_a_sentence(database: Path) -> None:
    assert "there is no dead letter 7" in salience("dlq", "show", "7", status=2).stderr
    assert "there is no dead letter 7" in salience("dlq", "replay", "7", status=2).stderr


def test_replaying_garbage_leaves_it_dead(database: Path, events: str) -> None:
    salience("backfill", events, "--stream", "news")

    assert answer("dlq", "replay", "--all", status=1) == {"sent": 1, "stored": 0, "repeated": 0, "dead": 1}
    assert [each["replayed"] for each in answer("dlq", "list")["dead_letters"]] == [False]


def test_replaying_tells_a_person_what_is_dead_again(database: Path, events: str) -> None:
    salience("backfill", events, "--stream", "news")

    assert "1 dead again" in salience("dlq", "replay", "--all", status=1).stdout


def test_replaying_stores_an_event_once_its_cause_is_mended(
    database: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = {"id": "b1", "source": "shop", "time": TIME, "user": "ann", "item": "i1", "action": "wish"}
    (folder / "b.jsonl").write_text(json.dumps(wish))
    assert answer("backfill", "b.jsonl", "--stream", "behavior")["dead"] == 1
    monkeypatch.setenv("SALIENCE_EVENTS__ACTIONS", "view,wish")

    assert answer("dlq", "replay", "--all") == {"sent": 1, "stored": 1, "repeated": 0, "dead": 0}
    assert [each["replayed"] for each in answer("dlq", "list")["dead_letters"]] == [True]
    assert answer("dlq", "replay", "--all")["sent"] == 0


def test_rules_check_gives_names_and_definitions(folder: Path) -> None:
    (folder / "rules.yaml").write_text(RULES)

    found = answer("rules", "check", "rules.yaml")

    assert (found["ok"], [rule["name"] for rule in found["rules"]]) == (True, ["bad-news"])
    assert found["rules"][0]["definition"] in salience("rules", "check", "rules.yaml").stdout


def test_rules_check_holds_labels_against_the_model(folder: Path) -> None:
    wrong = RULES.replace("words: bankrupt", "heads: {sentiment: {label: grim}}")
    (folder / "rules.yaml").write_text(wrong)

    told = salience("rules", "check", "rules.yaml", status=2).stderr

    assert "rules.yaml, line 3, rules.0.when.heads.sentiment.label: 'grim' is no label of sentiment" in told


def test_model_info_describes_the_packaged_bundle() -> None:
    found = answer("model", "info", "--bundle", "")

    assert {"sentiment", "topic"} <= {head["name"] for head in found["heads"]}
    assert found["identity"] in salience("model", "info", "--bundle", "").stdout


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_config_shows_the_settings_and_masks_the_secrets(form: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALIENCE_DATABASE__URL", "postgresql://ann:geheim@db.example/name")
    monkeypatch.setenv("SALIENCE_DATABASE__HASH_KEY", "geheim")
    monkeypatch.setenv("SALIENCE_BROKER__PASSWORD", "geheim")
    monkeypatch.setenv("SALIENCE_BROKER__PREFIX", "desk")
    monkeypatch.setenv("COLUMNS", "300")

    shown = salience("config", *form).stdout

    assert "geheim" not in shown
    assert "postgresql+asyncpg://ann:**********@db.example/name" in shown
    assert "desk" in shown


def test_config_as_json_has_every_section() -> None:
    assert set(answer("config")) == {"broker", "database", "model", "worker", "events", "rules", "entities", "log"}


def findings(status: int) -> dict[str, tuple[bool, str]]:
    found = answer("doctor", status=status)
    assert found["ok"] is (status == 0)
    return {each["part"]: (each["ok"], each["message"]) for each in found["findings"]}


def test_doctor_names_each_part_that_is_wrong_with_its_mend(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "rules.yaml").write_text("rules: 3\n")
    monkeypatch.setenv("SALIENCE_RULES__FILE", "rules.yaml")

    found = findings(status=1)

    wrong = {part: message for part, (ok, message) in found.items() if not ok}
    assert wrong.keys() - {"embedded broker"} == {"rules", "database", "broker"}
    assert "rules.yaml, line 1" in wrong["rules"]
    assert "run `salience db upgrade`" in wrong["database"]
    assert "mend SALIENCE_BROKER__SERVERS" in wrong["broker"]
    assert found["bundle"][1].startswith("stub@")


def test_doctor_names_a_bundle_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALIENCE_MODEL__BUNDLE", "nowhere")

    ok, message = findings(status=1)["bundle"]

    assert not ok
    assert "nowhere" in message


def test_doctor_names_packages_that_break_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.0")

    ok, message = findings(status=1)["onnxruntime"]

    assert not ok
    assert "onnxruntime and onnxruntime-gpu are both installed" in message


def test_doctor_shows_its_findings_to_a_person() -> None:
    shown = salience("doctor", status=1).stdout

    assert "wrong database" in shown
    assert "well  python" in shown


# With a broker


@pytest.fixture
def served(embedded_broker: EmbeddedBroker, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALIENCE_BROKER__SERVERS", embedded_broker.servers)
    monkeypatch.setenv("SALIENCE_BROKER__PREFIX", prefix)
    monkeypatch.setenv("SALIENCE_BROKER__PARTITIONS", "1")
    monkeypatch.setattr(send, "_FIRST_ANSWER", 5000)
    monkeypatch.setattr(admin, "_FIRST_ANSWER", 5000)


@pytest.mark.usefixtures("served")
def test_topics_are_made_once_and_listed(prefix: str) -> None:
    assert f"{prefix}.news" in answer("topics", "list")["missing"]

    made, again = answer("topics", "create"), answer("topics", "create")

    assert {f"{prefix}.news", f"{prefix}.scored", f"dlq.{prefix}.chat"} <= set(made["created"])
    assert (again["created"], set(again["existing"])) == ([], set(made["created"]))
    listed = answer("topics", "list")
    assert listed["missing"] == []
    assert {topic["partitions"] for topic in listed["topics"]} == {1}


@pytest.mark.usefixtures("served")
def test_send_says_how_many_events_the_broker_has(events: str) -> None:
    salience("topics", "create")

    assert answer("send", events, "--stream", "news") == {"sent": 5}


@pytest.mark.usefixtures("served")
def test_sending_to_a_topic_that_is_not_there_gets_a_sentence(events: str, prefix: str) -> None:
    told = salience("send", events, "--stream", "news", status=2).stderr

    assert f"has no topic {prefix}.news; run `salience topics create`" in told


@pytest.mark.usefixtures("served", "database")
def test_doctor_is_content_when_everything_is_well() -> None:
    salience("topics", "create")

    assert all(ok for ok, _ in findings(status=0).values())
