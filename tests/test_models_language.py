"""The language gate."""

import gzip
import json
import os
from itertools import islice
from pathlib import Path

import pytest

from models.language import unsupported
from models.text import normalise

GERMAN = "Der Vorstand erwartet für das laufende Jahr einen höheren Gewinn"
ENGLISH = "Beyond Meat shares fall as the quarterly loss widens"
CHINESE = "苹果公司今日发布财报"


def refused(text: str, given: str | None = None, languages: tuple[str, ...] = ("en",)) -> bool:
    (answer,) = unsupported([text], [given], languages)
    return answer


def test_an_english_headline_passes() -> None:
    assert not refused(ENGLISH)


@pytest.mark.parametrize(
    "text",
    [
        GERMAN,
        "Las acciones de $AAPL caen tras los malos resultados del trimestre",
        "Le groupe annonce un chiffre d’affaires en hausse de 32%",
        "IL GRUPPO REGISTRA UNA CRESCITA DEL 19% NEL TERZO TRIMESTRE",
    ],
)
def test_a_headline_in_another_language_is_refused(text: str) -> None:
    assert refused(text)


@pytest.mark.parametrize(
    "text", [CHINESE, "涨停", "Акции падают", "سهم شركة أبل", "Wipro赢得Marelli的多年战略性IT协议"]
)
def test_another_script_is_refused_however_short(text: str) -> None:
    assert refused(text)


@pytest.mark.parametrize("text", ["ok", "thx", "card lost!", "merci", "Karte weg", "FILE NOT FOUND", "lol gg"])
def test_a_few_letters_pass(text: str) -> None:
    assert not refused(text)


@pytest.mark.parametrize("text", ["$AAPL $MSFT", "$SAN.MC #bolsa @usuario", "1,234.50 -3%", "&amp; &#8364;"])
def test_tickers_names_tags_and_numbers_pass(text: str) -> None:
    assert not refused(text)


@pytest.mark.parametrize(
    "text", ["", " ", "🚀🚀🚀", "🇩🇪", "\ud800", "\ud800 " + ENGLISH, "5 µm", "β", "\u0378\uffff\x00"]
)
def test_emptiness_emoji_and_single_signs_pass(text: str) -> None:
    assert not refused(text)


def test_only_a_url_passes() -> None:
    assert not refused(normalise("https://www.boerse.de/nachrichten/der-vorstand-erwartet-einen-hoeheren-gewinn"))


def test_english_in_bold_letters_passes() -> None:
    assert not refused("𝐁𝐮𝐲 𝐭𝐡𝐞 𝐝𝐢𝐩 𝐧𝐨𝐰")


def test_scots_counts_as_english() -> None:
    assert not refused("tell me a funny joke")


def test_a_long_name_passes() -> None:
    assert not refused("Borussia Moenchengladbach")


def test_the_events_own_language_decides_without_detection() -> None:
    assert refused(ENGLISH, "de")
    assert not refused(CHINESE, "en")


@pytest.mark.parametrize("tag", ["en", "EN", "en-GB", "en_US", "en-Latn-GB", " en ", "eng"])
def test_region_and_case_of_a_tag_do_not_matter(tag: str) -> None:
    assert not refused(GERMAN, tag)


@pytest.mark.parametrize("tag", [None, "", "und", "mul", "zxx", "qme", "x", "english", "e n", "*", "en-", "de/at"])
def test_a_tag_that_names_no_language_falls_back_to_detection(tag: str | None) -> None:
    assert refused(GERMAN, tag)
    assert not refused(ENGLISH, tag)


def test_old_codes_are_known() -> None:
    assert not refused(ENGLISH, "iw", ("he",))
    assert not refused(ENGLISH, "nb", ("no",))


def test_a_supported_language_with_another_script_passes() -> None:
    assert not refused(CHINESE, None, ("en", "zh"))
    assert not refused(GERMAN, None, ("en", "de"))


def test_a_supported_language_that_cannot_be_told_refuses_only_by_tag() -> None:
    assert not refused(GERMAN, None, ("en", "tlx"))
    assert refused(GERMAN, "de", ("en", "tlx"))


def test_a_list_mixes() -> None:
    texts = [ENGLISH, GERMAN, CHINESE, "ok", ENGLISH]
    assert unsupported(texts, [None, None, "zh-CN", None, "fr"], ["en"]) == [False, True, True, False, True]
    assert unsupported([], [], ["en"]) == []


def test_a_megabyte_is_judged_by_its_beginning() -> None:
    assert refused(f"{GERMAN}. " * 20_000)


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "least", "most"),
    [
        ("fin_tweets_sentiment/train", 0.0, 0.006),  # some forty of its rows are in other languages
        ("sentfin/train", 0.0, 0.001),
        ("banking77/train", 0.0, 0.001),
        ("clinc150/train", 0.0, 0.001),
        ("hwu64/train", 0.0, 0.002),
        ("tnews_zh/valid", 0.99, 1.0),
    ],
)
def test_hardly_an_english_row_is_refused_and_hardly_a_chinese_one_passes(
    file: str, least: float, most: float
) -> None:
    path = Path(os.environ.get("SALIENCE_DATA", "")) / f"{file}.jsonl.gz"
    if not (os.environ.get("SALIENCE_DATA") and path.is_file()):
        pytest.skip(f"SALIENCE_DATA names no folder with the public data sets ({file})")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = [normalise(json.loads(line)["text"]) for line in islice(lines, 5_000)]
    share = sum(unsupported(texts, [None] * len(texts), ["en"])) / len(texts)
    assert least <= share <= most
