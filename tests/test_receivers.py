"""Receivers of a rules file: checked to the line, filled from the environment, and shown without their secrets."""

from pathlib import Path

import pytest
from rulebook import rule

from pipeline.receivers import Rate, Receiver
from pipeline.rules import MatchRule, RuleSet
from pipeline.rules_file import load_rules
from schemas.errors import ConfigError

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MINUTE = 60_000_000


def loaded(tmp_path: Path, receivers: str, rules: str = "") -> RuleSet:
    path = tmp_path / "rules.yaml"
    path.write_text(f"receivers:\n{receivers}\n{rules}")
    return load_rules(str(path))


def one(tmp_path: Path, fields: str) -> Receiver:
    return loaded(tmp_path, f"  desk: {{{fields}}}").receivers["desk"]


def problem(tmp_path: Path, receivers: str, rules: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, receivers, rules)
    return str(caught.value).replace(str(tmp_path / "rules.yaml"), "FILE")


# What is read


def test_each_kind_of_receiver_is_read(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        f"""
  desk: {{apprise: [json://127.0.0.1/a, json://127.0.0.1/b], rate: 20/h, severity: high}}
  hook: {{webhook: https://desk.example/in, secret: {SECRET}, resolved: false}}
  prom: {{alertmanager: http://127.0.0.1:9093, repost: 30s}}
""",
    ).receivers

    assert [each.kind for each in found.values()] == ["apprise", "webhook", "alertmanager"]
    assert (found["desk"].rate, found["desk"].severity) == (Rate(20, 60 * MINUTE), "high")
    assert (found["hook"].resolved, found["desk"].resolved) == (False, True)
    assert found["prom"].repost == MINUTE // 2


@pytest.mark.parametrize(("text", "rate"), [("5/10m", Rate(5, 10 * MINUTE)), ("1/s", Rate(1, 1_000_000))])
def test_a_rate_is_messages_in_a_length_of_time(text: str, rate: Rate, tmp_path: Path) -> None:
    assert one(tmp_path, f"alertmanager: 'http://a.example', rate: {text}").rate == rate


def test_values_are_filled_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESK_TOKEN", "T0ken")
    monkeypatch.setenv("DESK_SECRET", SECRET)
    found = one(tmp_path, "webhook: 'https://desk.example/${DESK_TOKEN}', secret: '${DESK_SECRET}'")

    assert (found.webhook, found.secret) == ("https://desk.example/T0ken", SECRET)


def test_without_receivers_nothing_of_the_environment_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("receivers:\n  desk: {apprise: '${NOT_THERE}'}\n")

    assert load_rules(str(path), receivers=False).receivers == {}


# What rules are, with and without receivers


def test_a_match_rule_without_receivers_is_the_same_as_before() -> None:
    plain = rule(words="bankrupt")
    told = MatchRule.model_validate({**plain.model_dump(), "receivers": "desk"})

    assert "receivers" not in plain.model_dump(mode="json")
    assert plain.definition == "ed0a2c3ba58a6cec7c89ac85c01daa47"
    assert told.receivers == ("desk",)


def test_receivers_are_no_part_of_the_version_and_of_what_is_stored(tmp_path: Path) -> None:
    before = loaded(tmp_path, "  desk: {apprise: json://127.0.0.1/a}")
    after = loaded(tmp_path, f"  hook: {{webhook: https://desk.example/in, secret: {SECRET}}}")

    assert (before.version, before.content) == (after.version, after.content)


# What is shown


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ("apprise: 'json://ann:hunter22@desk.example/a?key=abc'", "json://ann:****@desk.example/a"),
        (f"webhook: 'https://ann:hunter22@desk.example/T0ken', secret: {SECRET}", "https://desk.example:443/..."),
        ("alertmanager: 'http://ann:hunter22@127.0.0.1:9093'", "http://127.0.0.1:9093"),
    ],
)
def test_an_address_is_shown_without_its_secrets(fields: str, shown: str, tmp_path: Path) -> None:
    assert one(tmp_path, fields).shown == shown


def test_what_an_error_says_is_shown_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESK_TOKEN", "T0ken")
    found = one(tmp_path, f"webhook: 'https://ann:hunter22@desk.example/${{DESK_TOKEN}}', secret: {SECRET}")

    assert found.hide("POST /T0ken as ann:hunter22 failed") == "POST /**** as ann:**** failed"


# What is refused


@pytest.mark.parametrize(
    ("receivers", "told"),
    [
        (
            "  desk: 5",
            "line 2, receivers.desk: is no mapping; write desk: {apprise: URL}, or webhook or alertmanager",
        ),
        ("  'a b': {}", "line 2, receivers.a b: 'a b' is no name: letters, digits, dot, dash and underscore"),
        ("  desk: {}", "receivers.desk: says no way to reach it; name one of apprise, webhook or alertmanager"),
        (
            f"  desk:\n    apprise: json://a\n    webhook: https://b\n    secret: {SECRET}",
            "line 2, receivers.desk: names apprise and webhook; a receiver is reached in one way",
        ),
        (
            "  desk:\n    apprise: nonsense://hunter22",
            "line 3, receivers.desk.apprise: (nonsense://...) is no URL that apprise can send to",
        ),
        (
            "  desk: {apprise: [json://a, hunter22]}",
            "apprise: URL 2 of 2 (without a scheme) is no URL that apprise",
        ),
        (
            f"  desk: {{webhook: 'ftp://hunter22', secret: {SECRET}}}",
            "webhook: (ftp://...) is no URL of http or https",
        ),
        ("  desk: {alertmanager: 'http://'}", "alertmanager: (http://...) is no URL of http or https"),
        ("  desk: {webhook: 'https://b'}", "receivers.desk: has a webhook but no secret; add one (whsec_...)"),
        (
            "  desk: {webhook: 'https://b', secret: hunter22}",
            "secret: is no secret of Standard Webhooks: whsec_ and",
        ),
        (
            "  desk: {webhook: 'https://b', secret: whsec_YQ==}",
            "secret: is no secret of Standard Webhooks: whsec_ and",
        ),
        (
            f"  desk: {{apprise: json://a, secret: {SECRET}}}",
            "has a secret, which signs webhooks only; take it out",
        ),
        ("  desk: {apprise: json://a, repost: 1m}", "has a repost, which is for alertmanager only; take it out"),
        (
            "  desk: {alertmanager: 'http://a', repost: 1}",
            "repost: 1 is no length of time of 1s or more, as in 1m",
        ),
        (
            "  desk: {alertmanager: 'http://a', repost: often}",
            "repost: 'often' is no length of time; write a number",
        ),
        (
            "  desk: {apprise: json://a, rate: often}",
            "rate: 'often' is no rate; write messages and a length of time",
        ),
        ("  desk: {apprise: json://a, rate: 0/h}", "rate: '0/h' is no rate"),
        (
            "  desk: {apprise: json://a, rate: 1/x}",
            "rate: '1x' is no length of time; write a number and s, m, h, d or w",
        ),
        (
            "  desk: {apprise: json://a, severity: worst}",
            "severity: is not allowed; allowed are 'info', 'low', 'medium', 'high'",
        ),
        ("  desk: {apprise: json://a, resolved: maybe}", "resolved: is neither true nor false"),
        (
            "  desk: {apprise: json://a, mail: b}",
            "receivers.desk.mail: is unknown; known here are apprise, webhook, secret, alertmanager",
        ),
        (
            "  desk:\n    apprise: 'mailto://ann:${DESK_PASSWORD}@example.com'",
            "line 3, receivers.desk.apprise: the environment has no DESK_PASSWORD; set it where this runs, as "
            "${DESK_PASSWORD} stands for it",
        ),
    ],
)
def test_a_bad_receiver_is_told_with_its_place(receivers: str, told: str, tmp_path: Path) -> None:
    found = problem(tmp_path, receivers)

    assert found.startswith("FILE, line ")
    assert told in found
    assert "hunter22" not in found


@pytest.mark.parametrize(
    ("receivers", "told"),
    [("  desk: {apprise: json://a}", "this file has desk"), ("  {}", "this file has no `receivers:`")],
)
def test_a_rule_names_receivers_that_the_file_has(receivers: str, told: str, tmp_path: Path) -> None:
    rules = "rules:\n- name: r\n  kind: match\n  stream: news\n  receivers: [nobody]\n  when: {words: a}\n"

    assert f"rules.0.receivers: 'nobody' is no receiver; {told}" in problem(tmp_path, receivers, rules)
