"""Rules files are checked to the line, and a rule's definition is what it says."""

from pathlib import Path

import pytest
from rulebook import rule

from pipeline.rules import MatchRule, RuleSet, ShareRule
from pipeline.rules_file import load_rules
from schemas.errors import ConfigError

LABELS = {
    "news": {"sentiment": ("negative", "neutral", "positive"), "topic": ("Dividend", "Legal | Regulation")},
    "chat": {},
}
GOOD = """
rules:
  - name: bad-news
    kind: match
    stream: news
    severity: high
    when:
      words: [Corvane, CRVN]
      heads:
        sentiment: {label: negative, probability: 0.7}
        topic: {label: [Dividend, Legal | Regulation]}
"""


def problem(tmp_path: Path, content: str | bytes) -> str:
    """What the author is told, without the path."""
    path = tmp_path / "rules.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        load_rules(str(path), LABELS)
    assert str(path) in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


# The file


def test_a_good_file_gives_its_rules(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(GOOD)

    rules = load_rules(str(path), LABELS)

    assert [each.name for each in rules.of("news")] == ["bad-news"]
    assert rules.of("chat") == ()
    assert rules.rules[0].when.heads["topic"].label == ("Dividend", "Legal | Regulation")


@pytest.mark.parametrize("content", ["rules: []\n", "receivers: {}\n"])
def test_a_file_may_want_no_rules(content: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(content)

    assert load_rules(str(path)).rules == ()


@pytest.mark.parametrize("content", ["", "# nothing yet\n"])
def test_an_empty_file_is_refused_for_an_editor_may_be_about_to_write_it(content: str, tmp_path: Path) -> None:
    told = "the rules file FILE is empty; write `rules: []` where none are wanted"
    assert problem(tmp_path, content) == told


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    content = GOOD.replace("stream: news", "stream: mail").replace("words: [Corvane, CRVN]", "words: 7")

    assert problem(tmp_path, content).splitlines() == [
        "FILE, line 5, rules.0.stream: is not allowed; allowed are 'news', 'chat' or 'behavior'",
        "FILE, line 8, rules.0.when.words.0: is no text; put it in quotes if it shall be one",
    ]


def test_names_labels_and_receivers_are_told_at_once_too(tmp_path: Path) -> None:
    content = GOOD.replace("sentiment: {label: negative", "mood: {label: negative")
    content = content.replace("severity: high", "receivers: [nobody]") + "receivers:\n  desk: {}\n  '!': {}\n"

    first, second, third, fourth = problem(tmp_path, content).splitlines()
    assert first == "FILE, line 6, rules.0.receivers: 'nobody' is no receiver; this file has desk, !"
    assert second.startswith("FILE, line 10, rules.0.when.heads.mood: the model has no head 'mood'")
    assert third.startswith("FILE, line 13, receivers.desk: ")
    assert fourth.startswith("FILE, line 14, receivers.!: '!' is no name")


def test_of_very_many_mistakes_the_first_are_told_and_the_others_counted(tmp_path: Path) -> None:
    wrong = "  - {name: a b, kind: match, stream: news, when: {words: a}}\n"

    *first, last = problem(tmp_path, "rules:\n" + wrong * 23).splitlines()
    assert len(first) == 20
    assert last == "FILE has 3 mistakes more"


@pytest.mark.parametrize(
    ("when", "told"),
    [
        ("{words: {a: b}}", "words: is no list; write one value, or several as [one, other]"),
        ("{attributes: [a]}", "attributes: has no names and values; write them as `name: value`"),
        (
            "{attributes: {region: [eu, {a: b}]}}",
            "attributes.region: holds what is no text, number, true or false",
        ),
        ("{heads: {sentiment: negative}}", "heads.sentiment: has no names and values; write them"),
        (
            "{heads: {sentiment: {label: negative, probability: high}}}",
            "heads.sentiment.probability: is no number",
        ),
        ("[a]", "has no names and values; write them"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_with_what_it_should_be(when: str, told: str, tmp_path: Path) -> None:
    content = f"rules:\n  - {{name: a, kind: match, stream: news, when: {when}}}\n"

    found = problem(tmp_path, content)
    assert len(found.splitlines()) == 1
    assert found.removeprefix("FILE, line 2, rules.0.when").lstrip(".: ").startswith(told)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("rules: []\nreceivers: {}\nrules: []\n", "line 3, rules: stands here a second time; keep one of the two"),
        ("rules:\n  - name: a\n    kind: match\n    name: b\n", "line 4, name: stands here a second time"),
        ("a: &x {b: 1}\nc: [*x, *x, {d: 1, d: 2}]\n", "line 2, d: stands here a second time"),
    ],
)
def test_a_key_that_stands_twice_is_told_with_its_line(content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(content)

    with pytest.raises(ConfigError, match=told):
        load_rules(str(path))


def test_no_file_gives_no_rules() -> None:
    assert load_rules("").rules == ()


def test_without_a_model_labels_are_not_checked(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(GOOD.replace("negative", "terrible"))

    assert len(load_rules(str(path)).rules) == 1


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "label: negative",
            "label: bad",
            "line 10, rules.0.when.heads.sentiment.label: 'bad' is no label of sentiment; "
            "it has negative, neutral, positive",
        ),
        (
            "sentiment:",
            "mood:",
            "line 10, rules.0.when.heads.mood: the model has no head 'mood' for news; it has sentiment, topic",
        ),
        (
            "stream: news",
            "stream: chat",
            "line 10, rules.0.when.heads.sentiment: the model has no head 'sentiment' for chat; it has none",
        ),
        (
            "stream: news",
            "stream: mail",
            "line 5, rules.0.stream: is not allowed; allowed are 'news', 'chat' or 'behavior'",
        ),
        (
            "kind: match",
            "kind: surge",
            "line 4, rules.0.kind: is not allowed; allowed are 'match', 'volume', 'share' or 'absence'",
        ),
        ("    kind: match\n", "", "line 3, rules.0.kind: is missing; allowed are 'match', 'volume'"),
        (
            "severity: high",
            "severity: loud",
            "line 6, rules.0.severity: is not allowed; allowed are 'info', 'low', 'medium', 'high' or 'critical'",
        ),
        (
            "severity: high",
            "colour: red",
            "line 6, rules.0.colour: is unknown; known here are name, kind, stream, severity, when",
        ),
        (
            "words:",
            "word:",
            "line 8, rules.0.when.word: is unknown; known here are heads, words, source, entities, attributes",
        ),
        (
            "probability: 0.7",
            "above: 0.7",
            "line 10, rules.0.when.heads.sentiment.above: is unknown; known here are label, probability",
        ),
        ("\nrules:", "\nrulez:", "line 2, rulez: is unknown; known here are rules"),
        (
            "probability: 0.7",
            "probability: 70",
            "line 10, rules.0.when.heads.sentiment.probability: is too large; allowed is 1 or less",
        ),
        (
            "probability: 0.7",
            "probability: -0.1",
            "line 10, rules.0.when.heads.sentiment.probability: is too small; allowed is 0 or more",
        ),
        (
            "label: negative, ",
            "label: [], ",
            "line 10, rules.0.when.heads.sentiment.label: is empty; name at least 1",
        ),
        (
            "label: negative, ",
            "",
            "line 10, rules.0.when.heads.sentiment.label: is missing",
        ),
        (
            "[Corvane, CRVN]",
            '[Corvane, ""]',
            "line 8, rules.0.when.words: holds an empty word, which every text has; take it out",
        ),
        ("name: bad-news", "name: bad news", "line 3, rules.0.name: is no name; it begins with a letter or digit"),
        ("name: bad-news\n    kind", "kind", "line 3, rules.0.name: is missing"),
    ],
)
def test_a_mistake_is_told_with_line_and_field_and_what_is_allowed(
    old: str, new: str, told: str, tmp_path: Path
) -> None:
    assert GOOD.count(old) == 1

    assert problem(tmp_path, GOOD.replace(old, new)).startswith(f"FILE, {told}")


def test_empty_conditions_are_refused_for_they_match_everything(tmp_path: Path) -> None:
    content = "rules:\n  - {name: all, kind: match, stream: news, when: {}}\n"

    assert problem(tmp_path, content) == (
        "FILE, line 2, rules.0.when: is empty and would match every event; "
        "name heads, words, source, entities or attributes"
    )


def test_a_name_used_twice_is_refused_where_it_stands_again(tmp_path: Path) -> None:
    one = "  - name: twin\n    kind: match\n    stream: news\n    when: {words: a}\n"

    assert problem(tmp_path, f"rules:\n{one}{one}") == (
        "FILE, line 6, rules.1.name: 'twin' is taken; a name is a rule's identity"
    )


def test_a_file_that_is_a_list_is_refused(tmp_path: Path) -> None:
    assert problem(tmp_path, "- name: x\n").startswith(
        "FILE, line 1, the file: has no names and values; write them as `name: value`"
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("rules: [\n  {name: a\n", "the rules file FILE is no YAML: line 3: "),
        ("rules:\n\t- name: a\n", "the rules file FILE is no YAML: line 2: "),
        ("rules: !!python/object:os.system {}\n", "the rules file FILE is no YAML: line 1: "),
        ("rules: 2024-13-45\n", "the rules file FILE is no YAML: month must be in 1..12"),
        ("rules: " + "[" * 5000, "the rules file FILE is no YAML: maximum recursion depth"),
        ("rules: \x01\n", "the rules file FILE is no YAML: "),
        (b"rules: \xff\n", "the rules file FILE is not UTF-8; save it as UTF-8"),
    ],
    ids=["bracket", "tab", "tag", "date", "deep", "control", "utf-8"],
)
def test_what_is_no_yaml_is_said_to_be_none(content: str | bytes, told: str, tmp_path: Path) -> None:
    assert problem(tmp_path, content).startswith(told)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^the rules file nowhere.yaml cannot be read: No such file"):
        load_rules("nowhere.yaml")


# The definition


def test_the_definition_ignores_the_name() -> None:
    assert rule("one", words="a").definition == rule("other", words="a").definition


@pytest.mark.parametrize(
    "other",
    [
        rule(words="b"),
        rule(words=["a", "b"]),
        rule(words="a", source="wire"),
        rule(words="a", stream="chat"),
        rule(words="a").model_copy(update={"severity": "low"}),
    ],
)
def test_the_definition_changes_with_what_the_rule_says(other: MatchRule) -> None:
    assert other.definition != rule(words="a").definition


def test_the_definition_is_the_same_however_it_was_written() -> None:
    assert rule(words="a", source=["w"]).definition == rule(source="w", words=["a"]).definition


def test_the_version_of_a_rule_set_changes_with_any_rule_and_any_name() -> None:
    sets = [RuleSet(), RuleSet((rule("a", words="x"),)), RuleSet((rule("b", words="x"),))]
    sets.append(RuleSet((rule("a", words="x"), rule("b", words="x"))))

    assert len({each.version for each in sets}) == 4
    assert RuleSet((rule("a", words="x"),)).version == sets[1].version


# Rules that look at counts

COUNTS = """
rules:
  - name: bad-share
    kind: share
    stream: news
    head: sentiment
    label: negative
    group_by: entity
    window: 1h
    every: 30s
    baseline: 14d
"""


def test_a_rule_on_counts_has_its_times_and_a_sensitivity_of_one_a_week(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(COUNTS)
    rules = load_rules(str(path), LABELS)
    [found] = rules.rules

    assert isinstance(found, ShareRule)
    assert (found.window, found.every, found.sensitivity) == (3_600_000_000, 30_000_000, 1.0)
    assert rules.baseline == 14 * 86_400_000_000
    assert ShareRule.model_validate(found.model_dump(mode="json")) == found


def test_a_worker_takes_match_rules_only(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(COUNTS)

    assert load_rules(str(path)).of("news") == ()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("window: 1h", "window: 20d", "line 9, rules.0.window: is longer than the baseline"),
        ("window: 1h", "window: 2d", "line 9, rules.0.window: is too long: the baseline"),
        ("window: 1h", "window: 5", "line 9, rules.0.window: is no length of time; write a number and s, m, h"),
        ("every: 30s", "every: 15s", "line 10, rules.0.every: is no multiple of 10s, the tick"),
        ("every: 30s", "every: 2h", "line 10, rules.0.every: is longer than the window"),
        (
            "label: negative",
            "label: bad",
            "line 7, rules.0.label: 'bad' is no label of sentiment; it has negative",
        ),
        ("head: sentiment", "head: mood", "line 6, rules.0.head: the model has no head 'mood' for news; it has"),
        ("every: 30s", "colour: red", "line 10, rules.0.colour: is unknown; known here are name, kind, stream"),
        ("every: 30s", "sensitivity: 0", "line 10, rules.0.sensitivity: is too small; allowed is more than 0"),
        ("every: 30s", "when: {}", "line 10, rules.0.when: is empty and would match every event"),
        ("    label: negative\n", "", "line 3, rules.0.label: is missing"),
    ],
)
def test_a_mistake_in_a_rule_on_counts_is_told_too(old: str, new: str, told: str, tmp_path: Path) -> None:
    assert COUNTS.count(old) == 1

    assert problem(tmp_path, COUNTS.replace(old, new)).startswith(f"FILE, {told}")
