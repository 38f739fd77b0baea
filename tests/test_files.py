"""Rows of files become records, and records become CloudEvents on their way to a topic."""

import gzip
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.decode import Decoder
from pipeline.durations import parse_duration
from pipeline.files import check_stream, count_rows, fields, is_pipe, read_lines
from pipeline.scoring_texts import read_texts
from pipeline.send import as_cloud_event
from pipeline.settings import EventSettings
from schemas.errors import UsageError
from schemas.events import Event, Line
from schemas.labels import STREAMS

EVENT = {"id": "n1", "source": "wire", "time": "2024-05-31T09:30:00Z", "text": "shares fall"}
START = "2024-05-31T09:00:00Z"

Write = Callable[[str, str | bytes], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file, compressed when its name says so, and gives its path."""

    def file(name: str, content: str | bytes) -> str:
        raw = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return str(tmp_path / name)

    return file


def rows(path: str, stream: str = "news", **how: Any) -> list[dict[str, Any]]:
    return [json.loads(line.value or b"") for line in read_lines(path, stream, fields(**how))]


def decode(value: bytes | None, headers: Any = (), stream: str = "news") -> Event:
    return Decoder(stream, b"k", EventSettings()).decode(Line(0, value, headers=headers))


# Reading


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt", "without_ending"])
def test_json_lines_are_read_plain_or_compressed(name: str, write: Write) -> None:
    path = write(name, "".join(json.dumps(EVENT | {"id": str(n)}) + "\n" for n in range(3)))

    lines = list(read_lines(path, "news"))

    assert [line.offset for line in lines] == [0, 1, 2]
    assert [json.loads(line.value or b"")["id"] for line in lines] == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv_is_read_with_its_quotes(name: str, write: Write) -> None:
    content = 'id,source,text\r\n1,wire,"shares ""fall"",\nand fall"\r\n2,wire,Übernahme\r\n'

    assert rows(write(name, content)) == [
        {"id": "1", "source": "wire", "text": 'shares "fall",\nand fall'},
        {"id": "2", "source": "wire", "text": "Übernahme"},
    ]


def test_empty_cells_and_cells_without_a_column_are_left_out(write: Write) -> None:
    assert rows(write("a.csv", "id,title,text\n1,,hello,extra\n2\n")) == [
        {"id": "1", "text": "hello"},
        {"id": "2"},
    ]


def test_a_cell_may_hold_a_long_article(write: Write) -> None:
    [row] = rows(write("a.csv", f"text\n{'x' * 500_000}\n"))

    assert len(row["text"]) == 500_000


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", "text,source\nhello,wire\n"), ("a.jsonl", '{"text": "hello", "source": "wire"}\n')],
)
def test_a_byte_order_mark_is_passed_over(name: str, content: str, write: Write) -> None:
    path = write(name, b"\xef\xbb\xbf" + content.encode())

    assert rows(path, mapping=["title=text"]) == [{"source": "wire", "title": "hello"}]


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(json.dumps(EVENT).encode() + b"\n"))
    monkeypatch.setattr(sys, "stdin", stdin)

    assert rows("-") == [EVENT]


def test_blank_lines_are_passed_over_and_not_numbered(write: Write) -> None:
    line = json.dumps(EVENT)

    assert [each.offset for each in read_lines(write("a.jsonl", f"\n{line}\n  \r\n{line}\n\n"), "news")] == [0, 1]


@pytest.mark.parametrize(
    "garbage", [b"{broken", b"\xff\xfe\x00", b"[1, 2]", b'"text"', b"[" * 5000, b'{"text": "\\ud800"}'], ids=str
)
@pytest.mark.parametrize("how", [{}, {"mapping": ["text=headline"], "constants": ["source=x"], "start": START}])
def test_a_line_that_is_no_object_is_handed_on_untouched(garbage: bytes, how: Any, write: Write) -> None:
    path = write("a.jsonl", json.dumps(EVENT).encode() + b"\n" + garbage + b"\n" + json.dumps(EVENT).encode())

    lines = list(read_lines(path, "news", fields(**how)))

    assert lines[1] == Line(1, garbage)
    assert len(lines) == 3


def test_a_line_stays_byte_for_byte_when_nothing_is_asked_of_it(write: Write) -> None:
    raw = b'{"text":  "a\\u00e9", "id": 7, "source": 1.50}'

    assert next(iter(read_lines(write("a.jsonl", raw), "news"))).value == raw


@pytest.mark.parametrize(
    ("stream", "event", "key"),
    [
        ("news", {"source": "wire"}, b"wire"),
        ("chat", {"source": "desk", "conversation": "k1"}, b"k1"),
        ("behavior", {"user": "ann", "source": "shop"}, b"ann"),
        ("news", {"specversion": "1.0", "source": "wire", "data": {"text": "x"}}, b"wire"),
        ("chat", {"specversion": "1.0", "source": "desk", "data": {"conversation": "k1"}}, b"k1"),
        ("news", {"source": 7}, None),
        ("news", {}, None),
    ],
)
def test_the_key_is_what_keeps_a_streams_order(
    stream: str, event: dict[str, Any], key: bytes | None, write: Write
) -> None:
    [line] = read_lines(write("a.jsonl", json.dumps(event)), stream)

    assert line.key == key


# Renaming and filling in


def test_map_takes_a_field_from_another_column(write: Write) -> None:
    path = write("a.csv", "headline,tweet\nshares fall,7\n")

    assert rows(path, mapping=["text=headline", "id=tweet"]) == [{"text": "shares fall", "id": "7"}]


def test_map_makes_an_id_text_and_leaves_other_values_as_they_are(write: Write) -> None:
    path = write("a.jsonl", '{"number": 7, "likes": 3}')

    assert rows(path, mapping=["id=number", "attributes.likes=likes"]) == [{"id": "7", "attributes": {"likes": 3}}]


def test_map_and_set_put_fields_into_attributes(write: Write) -> None:
    path = write("a.csv", "text,country,rank\nx,DE,3\n")

    assert rows(path, mapping=["attributes.country=country"], constants=["attributes.feed=a"]) == [
        {"text": "x", "rank": "3", "attributes": {"country": "DE", "feed": "a"}}
    ]


def test_map_passes_over_a_column_that_a_row_lacks(write: Write) -> None:
    assert rows(write("a.jsonl", '{"text": "x"}'), mapping=["title=headline"]) == [{"text": "x"}]


def test_set_fills_every_row_and_wins_over_its_own_value(write: Write) -> None:
    path = write("a.csv", "text,source\na,one\nb,\n")

    assert [row["source"] for row in rows(path, constants=["source=wire=1"])] == ["wire=1", "wire=1"]


def test_start_and_step_give_times_to_rows_without_one(write: Write) -> None:
    path = write("a.jsonl", '{"id": "0"}\n{"id": "1", "time": "2020-01-01T00:00:00Z"}\n{"id": "2"}\n')

    assert [row["time"] for row in rows(path, start=START, step=0.5)] == [
        "2024-05-31T09:00:00Z",
        "2020-01-01T00:00:00Z",
        "2024-05-31T09:00:01Z",
    ]


def test_start_without_step_gives_every_row_the_same_time(write: Write) -> None:
    path = write("a.csv", "text\na\nb\n")

    assert [row["time"] for row in rows(path, start=START)] == [START, START]


def test_a_value_of_a_csv_file_becomes_a_number_for_behavior(write: Write) -> None:
    path = write("a.csv", "user,value\nann,4.5\nbob,much\n")

    assert [row["value"] for row in rows(path, "behavior")] == [4.5, "much"]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"mapping": ["text"]}, "--map 'text' is not of the form field=something"),
        ({"constants": ["=wire"]}, "--set '=wire' is not of the form field=something"),
        ({"constants": ["source=\udcff"]}, "--set 'source=\\udcff' is not UTF-8"),
        ({"start": "soon"}, "--start 'soon' is no time; write it like 2024-05-31T09:30:00Z"),
        ({"step": 1.0}, "--step needs --start, the time of the first row"),
    ],
)
def test_an_option_that_cannot_be_read_gets_a_sentence(how: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        fields(**how)

    assert str(caught.value) == told


def test_an_unknown_stream_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"^'mail' is no stream; choose one of news, chat, behavior$"):
        check_stream("mail")
    assert [check_stream(stream) for stream in STREAMS] == list(STREAMS)


# Files that cannot be read


def unreadable(write: Write) -> dict[str, tuple[str, str]]:
    whole = gzip.compress(json.dumps(EVENT).encode() * 500)
    return {
        "missing": ("nowhere.jsonl", "No such file or directory"),
        "folder": (str(Path(write("x", "")).parent), "Is a directory"),
        "cut": (write("cut.jsonl", ""), "Compressed file ended before the end-of-stream marker was reached"),
        "broken": (write("broken.jsonl", ""), "Error -3 while decompressing data"),
        "no gzip": (write("plain.jsonl", ""), "Not a gzipped file (b'he')"),
    } | {
        name: (_raw(write, f"{name}.gz", content), told)
        for name, content, told in (
            ("cut", whole[:-9], "Compressed file ended before the end-of-stream marker was reached"),
            ("broken", whole[:20] + b"\xff" * 20 + whole[40:], "Error -3 while decompressing data"),
            ("no gzip", b"hello", "Not a gzipped file (b'he')"),
        )
    }


def _raw(write: Write, name: str, content: bytes) -> str:
    path = Path(write("folder-of-it", "")).with_name(name)
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("read", [lambda path: list(read_lines(path, "news")), count_rows], ids=["read", "count"])
@pytest.mark.parametrize("kind", ["missing", "folder", "cut", "broken", "no gzip"])
def test_a_file_that_cannot_be_read_is_named_with_the_reason(
    kind: str, read: Callable[[str], object], write: Write
) -> None:
    path, why = unreadable(write)[kind]

    with pytest.raises(UsageError) as caught:
        read(path)

    assert str(caught.value).startswith(f"the file {path} cannot be read: {why}")


def test_csv_that_is_not_utf8_is_named(write: Write) -> None:
    path = write("a.csv", b"text\n\xff\xfe\n")

    with pytest.raises(UsageError, match="is no CSV in UTF-8: 'utf-8' codec can't decode byte 0xff"):
        list(read_lines(path, "news"))


def test_rows_are_counted_for_a_progress_bar(write: Write) -> None:
    assert count_rows(write("a.jsonl.gz", "{}\n{}\n{}\n")) == 3


def test_a_pipe_is_left_for_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    assert is_pipe(str(tmp_path / "pipe"))
    assert count_rows(str(tmp_path / "pipe")) is None
    assert count_rows("-") is None
    assert not is_pipe(str(tmp_path))


# Sending


DATA: dict[str, dict[str, Any]] = {
    "news": {"text": "shares fall 📉", "title": "Übernahme", "attributes": {"rank": 1}},
    "chat": {"conversation": "k1", "role": "customer", "kind": "message", "text": "lost card"},
    "behavior": {"user": "ann", "item": "i1", "action": "rate", "value": 4.5},
}


@pytest.mark.parametrize("stream", STREAMS)
def test_a_sent_event_is_the_bare_event_once_it_is_decoded(stream: str) -> None:
    raw = json.dumps({"id": "e1", "source": "wire", "time": START} | DATA[stream]).encode()

    value, headers = as_cloud_event(Line(0, raw), f"salience.{stream}")

    sent, plain = decode(value, headers, stream), decode(raw, (), stream)
    assert dict(headers)["ce_type"] == f"salience.{stream}".encode()
    assert (sent.id, sent.source, sent.time, sent.content_hash) == ("e1", "wire", plain.time, plain.content_hash)
    assert sent.text == plain.text


@pytest.mark.parametrize(
    "raw",
    [
        b'{"source": "wire", "time": "2024-05-31T09:30:00Z", "text": "no id"}',
        b'{"id": "", "source": "wire", "time": "2024-05-31T09:30:00Z", "text": "empty id"}',
        b'{"id": 7, "source": "wire", "time": "2024-05-31T09:30:00Z", "text": "wrong id"}',
        b'{"id": "1", "time": "2024-05-31T09:30:00Z", "text": "no source"}',
        b'{"id": "1", "source": "wire", "text": "no time"}',
        b'{"specversion": "1.0", "id": "1", "source": "w", "time": "2024-05-31T09:30:00Z", "data": {}}',
        b"garbage \xff",
        b"[1]",
        b"[" * 5000,
        b'{"id": "\\ud800"}',
    ],
    ids=lambda raw: raw[:12],
)
def test_a_record_that_is_no_whole_bare_event_goes_as_it_is(raw: bytes) -> None:
    assert as_cloud_event(Line(0, raw), "salience.news") == (raw, [])


def test_a_record_with_headers_or_without_a_value_goes_as_it_is() -> None:
    raw = json.dumps(EVENT).encode()

    assert as_cloud_event(Line(0, raw, headers=[("a", b"1")]), "t") == (raw, [("a", b"1")])
    assert as_cloud_event(Line(0, None), "t") == (None, [])


def test_a_derived_id_is_the_same_from_a_file_and_over_the_topic() -> None:
    raw = json.dumps({name: value for name, value in EVENT.items() if name != "id"}).encode()

    assert decode(*as_cloud_event(Line(0, raw), "t")).id == decode(raw).id


# Texts for `score`


def test_a_text_is_scored_as_it_is_given() -> None:
    assert read_texts("shares fall") == ["shares fall"]
    assert read_texts("x" * 10_000) == ["x" * 10_000]


def test_a_file_gives_a_text_a_line_and_of_json_lines_their_text(write: Write) -> None:
    path = write("a.txt", 'plain\n\n{"text": "of an event"}\n{"other": 1}\n{broken\n{"text": " "}\n')

    assert read_texts(path) == ["plain", "of an event", '{"other": 1}', "{broken"]


def test_standard_input_gives_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))

    assert read_texts("-") == ["one", "two"]


def test_bytes_of_the_shell_that_are_no_text_are_replaced() -> None:
    assert read_texts("a\udcffb") == ["a?b"]


@pytest.mark.parametrize("text", ["", "   "])
def test_no_text_gets_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"^there is no text to score; give one, or a file with a text a line$"):
        read_texts(text)


def test_a_file_of_other_bytes_gets_a_sentence(write: Write) -> None:
    with pytest.raises(UsageError, match="cannot be read as UTF-8 text"):
        read_texts(write("a.bin", b"\xff\xfe"))


# Lengths of time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90d", 7_776_000), ("12h", 43_200), ("30m", 1800), ("45s", 45), ("2w", 1_209_600), ("1.5h", 5400)],
)
def test_a_length_of_time_is_read(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds * 1_000_000


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "1y", "1 d", "1e3d"])
def test_what_is_no_length_of_time_is_quoted(text: str) -> None:
    with pytest.raises(UsageError, match="is no length of time; write a number and s, m, h, d or w, as in 90d"):
        parse_duration(text)
