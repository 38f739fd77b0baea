"""Rows become examples by a recipe's columns, and stand on one side of the splits."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import write_rows

from models.data import SPLITS, Example, Span, identity, read_examples, read_splits, split_of
from models.recipe import DataRecipe, HeadRecipe, Recipe, Splits
from models.rows import read_rows
from schemas.errors import UsageError

MOOD = HeadRecipe(name="mood", kind="label", labels=("bad", "good"))
ENTITY = HeadRecipe(name="entity", kind="entity", labels=("company", "person"))
SAID = HeadRecipe(name="said", kind="span", spans="entity", labels=("bad", "good"))


def recipe(*data: DataRecipe) -> Recipe:
    return Recipe(name="r", heads=(MOOD, ENTITY, SAID), data=data)


def moods(path: str = "a.jsonl", **fields: Any) -> DataRecipe:
    return DataRecipe(path=path, heads=("mood",), **fields)


def read(folder: Path, data: DataRecipe, *rows: dict[str, Any]) -> list[Example]:
    write_rows(folder / data.path, list(rows))
    return list(read_examples(folder / data.path, data, recipe(data)))


# Splits


def test_a_text_stands_on_one_side_and_once_in_a_file(tmp_path: Path) -> None:
    rows = [{"text": f"Stock {number} falls", "label": "bad"} for number in range(300)]
    again = [{"text": f"STOCK {n}: falls! https://t.co/{n}", "label": "good"} for n in range(300)]
    write_rows(tmp_path / "a.jsonl", rows + again)

    found = read_splits(tmp_path, recipe(moods()))

    examples = [example for split in SPLITS for example in found[split][0]]
    assert sorted(example.text for example in examples) == sorted(row["text"] for row in rows)
    assert {example.labels["mood"] for example in examples} == {"bad"}


def test_a_text_of_two_files_stands_on_the_same_side_in_both(tmp_path: Path) -> None:
    for name, end in (("a.jsonl", ""), ("b.jsonl", "! https://t.co/x")):
        write_rows(tmp_path / name, [{"text": f"Stock {n} falls{end}", "label": "bad"} for n in range(200)])

    found = read_splits(tmp_path, recipe(moods(), moods("b.jsonl")))

    for split in SPLITS:
        one, other = ({identity(example.text) for example in file} for file in found[split])
        assert one == other != set()


def test_sides_are_about_as_large_as_the_recipe_says() -> None:
    sides = [
        split_of(identity(f"text {number}"), Splits(train=60, validation=20, calibration=10))
        for number in range(4_000)
    ]

    shares = [sides.count(split) / len(sides) for split in SPLITS]
    assert shares == pytest.approx([0.6, 0.2, 0.1, 0.1], abs=0.03)


def test_a_text_without_letters_is_left_out(tmp_path: Path) -> None:
    texts = ["...", "https://t.co/x", *(f"falls {number}" for number in range(20))]
    write_rows(tmp_path / "a.jsonl", [{"text": text, "label": "bad"} for text in texts])

    found = read_splits(tmp_path, recipe(moods()))

    assert sorted(example.text for split in SPLITS for example in found[split][0]) == sorted(texts[2:])


# Labels


def test_labels_are_renamed_and_rows_left_out_as_the_recipe_says(tmp_path: Path) -> None:
    data = moods(rename={"bearish": "bad", "odd": ""}, text="t", label="l")
    rows = [{"t": "a", "l": "bearish"}, {"t": "b", "l": "odd"}, {"t": "c", "l": "good"}]

    assert [example.labels for example in read(tmp_path, data, *rows)] == [{"mood": "bad"}, {"mood": "good"}]


def test_rows_are_taken_by_the_value_of_a_column(tmp_path: Path) -> None:
    data = moods(where={"year": (2023, 2024)})
    rows = [{"text": str(year), "label": "bad", "year": year} for year in (2022, 2023, 2024)]

    assert [example.text for example in read(tmp_path, data, *rows)] == ["2023", "2024"]


def test_a_label_that_the_recipe_does_not_know_is_told_with_line_and_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.jsonl, line 2, has the label 'grim'.*mood.*knows bad, good;"):
        read(tmp_path, moods(), {"text": "a", "label": "bad"}, {"text": "b", "label": "grim"})


# Entities


def test_names_mark_where_they_stand_and_carry_their_label(tmp_path: Path) -> None:
    data = DataRecipe(path="a.jsonl", heads=("entity", "said"), entity_type="company", annotated=("company",))
    row = {
        "text": "https://t.co/a  Apple rises as\nNokia sinks",
        "entities": {"Apple": "good", "Nokia": "bad", "X": "bad"},
    }

    (example,) = read(tmp_path, data, row)

    assert example.text == "Apple rises as Nokia sinks"
    assert example.spans == (Span(0, 5, "company", "good"), Span(15, 20, "company", "bad"))
    assert (example.tagging, example.judging, example.annotated) == ("entity", "said", ("company",))


def test_spans_may_come_with_start_and_end(tmp_path: Path) -> None:
    data = DataRecipe(path="a.jsonl", heads=("entity",))
    row = {"text": "Ann met Bob", "entities": [{"start": 8, "end": 11, "label": "person"}]}

    assert read(tmp_path, data, row)[0].spans == (Span(8, 11, "person"),)


def test_a_span_whose_place_is_off_is_found_by_its_words(tmp_path: Path) -> None:
    data = DataRecipe(path="a.jsonl", heads=("entity",))
    row = {"text": "Ann met Bob", "entities": [{"start": 0, "end": 3, "label": "person", "text": "Bob"}]}

    assert read(tmp_path, data, row)[0].spans[0].start == 8


def test_tags_of_tokens_become_spans_of_types(tmp_path: Path) -> None:
    data = DataRecipe(path="a.jsonl", heads=("entity",), rename={"corp": "company", "odd": ""})
    row = {"tokens": ["Big", "Blue", "hires", "Ann", "x"], "tags": ["B-corp", "I-corp", "O", "B-person", "B-odd"]}

    (example,) = read(tmp_path, data, row)

    assert [(example.text[span.start : span.end], span.type) for span in example.spans] == [
        ("Big Blue", "company"),
        ("Ann", "person"),
    ]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"text": "a"}, r"line 1, has no column 'entities'; it has text"),
        ({"text": "a", "entities": "Ann"}, "give name to label, or a list of start, end and label"),
        ({"text": "a", "entities": [{"start": 0}]}, "has no start, end and label"),
        (
            {"text": "a", "entities": [{"start": 0, "end": 1, "label": "firm"}]},
            "label 'firm'.*knows company, person",
        ),
        ({"tokens": ["a"], "tags": ["O", "O"]}, "has 1 tokens and 2 tags"),
        ({"tokens": "a", "tags": ["O"]}, "tokens and tags: give a list of texts each"),
        ({"tokens": ["a"], "tags": [1]}, "tokens and tags: give a list of texts each"),
    ],
)
def test_entities_that_are_none_are_told_with_their_line(tmp_path: Path, row: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        read(tmp_path, DataRecipe(path="a.jsonl", heads=("entity",)), row)


# Files


def test_csv_and_gzip_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nfalls,bad\n")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text,label\nfalls,bad\n"))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": "falls", "label": "bad"}).encode()))

    for name in ("a.csv", "a.csv.gz", "a.jsonl.gz"):
        assert [row for _, row in read_rows(tmp_path / name)] == [{"text": "falls", "label": "bad"}]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b'{"text": ', r"a\.jsonl, line 1, is no JSON"),
        ("a.jsonl", b"\n[1]\n", r"a\.jsonl, line 2, is no JSON object"),
        ("a.jsonl", b'{"text": 1, "label": "bad"}', "line 1, text: 1 is no text"),
        ("a.jsonl", b'{"label": "bad"}', "line 1, has no column 'text'; it has label"),
        ("a.jsonl", b'{"text": "a"}', "line 1, has no column 'label'; it has text"),
        ("a.jsonl", b"\xff", "is not UTF-8"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
        ("a.csv", b'text,label\n"a', "row|no CSV"),
    ],
)
def test_a_row_that_is_none_is_told_with_its_line(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=told):
        list(read_examples(tmp_path / name, moods(name), recipe(moods(name))))


def test_a_file_that_is_not_there_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.jsonl cannot be read.*check the folder"):
        read_splits(tmp_path, recipe(moods("nowhere.jsonl")))


def test_a_file_that_gives_no_row_to_train_on_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": "a", "label": "bad", "year": 1}])
    with pytest.raises(UsageError, match="gives no row to train on; check `where`"):
        read_splits(tmp_path, recipe(moods(where={"year": (2,)})))
