"""A gazetteer finds companies, and leaves alone the words that are written like them."""

import gzip
from pathlib import Path

import pytest

from pipeline.gazetteer.load import Company, read_companies
from pipeline.gazetteer.match import Gazetteer, load_gazetteer
from schemas.errors import ConfigError

FOLDER = Path(__file__).parent / "gazetteer"
GAZETTEER = Gazetteer(read_companies(str(FOLDER / "companies.csv")))
SENTENCES = [
    line.rpartition("|")[::2]
    for line in (FOLDER / "sentences.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def found(text: str, *companies: Company) -> list[tuple[str, str | None]]:
    gazetteer = Gazetteer(companies) if companies else GAZETTEER
    return [(span.text, span.ticker) for span in gazetteer.find(text)]


def refused(tmp_path: Path, content: bytes, name: str = "c.csv") -> str:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_companies(str(path))
    return str(caught.value).removeprefix(f"{path}, ")


@pytest.mark.parametrize(("text", "tickers"), SENTENCES)
def test_a_name_that_may_be_a_word_is_told_by_case_and_context(text: str, tickers: str) -> None:
    assert {ticker for _, ticker in found(text)} == set(tickers.split())


def test_there_are_sentences_of_both_kinds() -> None:
    with_company = [text for text, tickers in SENTENCES if tickers]

    assert len(SENTENCES) >= 60
    assert len(with_company) >= 25
    assert len(SENTENCES) - len(with_company) >= 25


def test_a_span_is_where_the_text_has_it() -> None:
    text = "İstanbul – “Nokia’s” rival"

    [span] = GAZETTEER.find(text)

    assert (text[span.start : span.end], span.text, span.name) == ("Nokia", "Nokia", "Nokia Oyj")


def test_the_longest_name_wins_and_mentions_do_not_overlap() -> None:
    companies = (Company("Hewlett Packard", "HP"), Company("Hewlett Packard Enterprise", "HPE"))

    assert found("Hewlett Packard Enterprise leaves Hewlett Packard", *companies) == [
        ("Hewlett Packard Enterprise", "HPE"),
        ("Hewlett Packard", "HP"),
    ]


@pytest.mark.parametrize("text", ["Nokian tyres", "TheNokia", "@Nokia", "nokia.com", "/Nokia/"])
def test_a_name_within_a_word_a_handle_or_an_address_is_none(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize("suffix", ["", " Oyj", " Inc", " Corp", ", Inc", " PLC", " Technologies Ltd"])
def test_a_legal_suffix_belongs_to_the_mention_and_is_optional(suffix: str) -> None:
    assert found(f"Yesterday Nokia{suffix} rose") == [(f"Nokia{suffix}", "NOK")]


def test_the_final_dot_of_a_suffix_stays_outside() -> None:
    assert found("It was sold to Nokia Corp.") == [("Nokia Corp", "NOK")]


@pytest.mark.parametrize("text", ["$AAPL", "$aapl", "(NASDAQ: AAPL)", "NASDAQ:AAPL", "<AAPL.O>", "<AAPL.OQ>"])
def test_forms_that_only_tickers_have_need_no_context(text: str) -> None:
    assert found(f"it was {text} again") == [(text, "AAPL")]


@pytest.mark.parametrize("text", ["<AAPL.L>", "US$AAPL", "A$AAPL", "(UTC: AAPLX)", "$AAPLE"])
def test_what_only_looks_like_such_a_form_is_none(text: str) -> None:
    assert found(f"it was {text} again") == []


@pytest.mark.parametrize("ticker", ["$BRK.B", "$BRK-B", "<BRKb.N>"])
def test_a_class_of_shares_is_part_of_the_ticker(ticker: str) -> None:
    assert found(f"bought {ticker} today", Company("Berkshire Hathaway", "BRK.B")) == [(ticker, "BRK.B")]


@pytest.mark.parametrize("form", [" (NASDAQ: AAPL)", " <AAPL.O>", " (AAPL)", "'s <AAPL.O>", " $AAPL"])
def test_a_name_and_its_ticker_side_by_side_are_one_mention(form: str) -> None:
    assert found(f"Regulators fined Apple{form} twice") == [("Apple", "AAPL")]


def test_an_ampersand_may_come_as_html() -> None:
    assert found("and AT&amp;T rose", Company("AT&T", "T")) == [("AT&amp;T", "T")]


def test_an_alias_in_lower_case_is_a_word_and_needs_no_capital() -> None:
    assert found("oil and Oil", Company("Crude", "OIL", ("oil",))) == [("oil", "OIL"), ("Oil", "OIL")]


def test_a_name_that_two_claim_belongs_to_the_first() -> None:
    companies = (Company("Alphabet Inc. (Class A)", "GOOGL"), Company("Alphabet Inc. (Class C)", "GOOG"))

    assert found("buy Alphabet Inc now", *companies) == [("Alphabet Inc", "GOOGL")]


def test_a_description_may_be_left_out_where_the_rest_is_nobody_else() -> None:
    companies = (Company("Micron Technology", "MU"), Company("Ross Stores", "ROST"), Company("Duke Energy", "DUK"))

    assert found("They met Micron, Ross and Duke", *companies) == [("Micron", "MU")]


def test_a_company_without_a_ticker_is_found_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("name,ticker\nCorvane,\n")

    assert found("Hail Corvane", *read_companies(str(path))) == [("Corvane", None)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"company,ticker\n3M,MMM\n"),
        ("a.csv", b"\xef\xbb\xbfName,Symbol,aliases\n3M,MMM,Three M|Minnesota Mining\n"),
        ("a.jsonl", b'{"symbol": "MMM", "aliases": ["3M", "Three M"]}\n\n'),
        ("a.jsonl.gz", gzip.compress(b'{"name": "3M", "ticker": "MMM", "aliases": "x|y"}')),
    ],
)
def test_layouts_of_public_lists_are_read_by_their_columns(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    [company] = read_companies(str(path))

    assert (company.name, company.ticker) == ("3M", "MMM")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"ticker\nA\n", "line 2: there is no column name or company or security or aliases or alias"),
        (b"name\nAcme\n", "line 2: there is no column ticker or symbol"),
        (b"name,ticker\nAcme,A\n ,B\n", "line 3: the name is empty; every company has one"),
        (
            b"name,ticker\nAcme,A\nBolt,a\n",
            "line 3: the ticker 'a' is taken by line 2; put further names of a company into its aliases",
        ),
        (b"name,ticker\nAcme,A\nCaf\xe9,B\n", "line 3: this is not UTF-8; save the file as UTF-8"),
        (b"name,ticker\nAcme, Inc.,A\n", "line 2: more cells than columns; put names with commas in quotes"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_line(tmp_path: Path, content: bytes, sentence: str) -> None:
    assert refused(tmp_path, content) == sentence


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path, b'{"name": "A", "ticker": "A"}\n{', "c.jsonl").startswith("line 2: this is no JSON")


def test_an_empty_file_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, b"").endswith(
        "holds no companies; give a row for each, with name, ticker and aliases"
    )
    with pytest.raises(ConfigError, match=r"cannot be read: No such file or directory$"):
        load_gazetteer(str(tmp_path / "none.csv"))


def test_an_empty_path_gives_no_gazetteer() -> None:
    assert load_gazetteer("") is None
