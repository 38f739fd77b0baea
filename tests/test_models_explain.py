"""An explanation shows all words in order, and a page of it is safe and whole."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import answer, salience

from models.explain import ExplainedEntity, Explanation, Reading, explain, strongest
from pipeline.explain_lines import lines, shaded
from pipeline.explain_page import page

ROOT = Path(__file__).parents[1]
TEXT = "Acme rises as Corvane sinks after results"


def explanation(text: str, words: list[str], weights: tuple[float, ...], **changes: Any) -> Explanation:
    places = [(text.index(word), text.index(word) + len(word)) for word in words]
    readings = (Reading("sentiment", "positive", 0.9, "label", weights),)
    fields = {"truncated_share": 0.0, "unsupported": False, "readings": readings, "entities": ()} | changes
    return Explanation(text, tuple(places), **fields)


# What a person sees


def test_a_page_escapes_what_stands_in_a_text() -> None:
    text = '<script>alert("1")</script> & \x07'
    entity = ExplainedEntity("<b>", 0, 1, "<i>", 0.5, ())
    shown = page("b@1", "news", [explanation(text, ["<script>", "alert"], (0.5, 0.5), entities=(entity,))])

    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert "<b></bdi>" not in shown
    assert "\x07" not in shown


def test_a_page_asks_nothing_of_the_network() -> None:
    shown = page("b@1", "news", [explanation("shares fall", ["shares", "fall"], (0.25, 0.75))])

    assert not [word for word in ("http:", "https:", "src=", "url(", "@import", "<link") if word in shown]
    assert "default-src 'none'" in shown


def test_a_page_gives_the_number_of_each_word_and_shades_by_the_strongest() -> None:
    shown = page("b@1", "news", [explanation("shares fall", ["shares", "fall"], (0.2, 0.8))])

    assert '<span class="w" style="--w:0.25" title="20.0%">shares</span> ' in shown
    assert '<span class="w" style="--w:1.00" title="80.0%">fall</span>' in shown
    assert '<td class="n">80.0%</td>' in shown


def test_page_and_terminal_say_what_was_not_read() -> None:
    each = explanation("shares fall again", ["shares"], (1.0,), truncated_share=0.65, unsupported=True)
    shown = page("b@1", "news", [each])
    told = "\n".join(line.plain for line in lines(each))

    assert '<span class="unread"> fall again</span>' in shown
    for said in (shown, told):
        assert "65% of the text was not read" in said
        assert "none that the bundle reads" in said


def test_the_strongest_word_is_the_boldest_and_all_words_are_there() -> None:
    each = explanation("shares fall\x1b[31m today", ["shares", "fall", "today"], (0.01, 0.9, 0.09))
    line = shaded(each, each.readings[0].attention)

    assert line.plain == "shares fall [31m today"
    styles = {line.plain[span.start : span.end]: str(span.style) for span in line.spans}
    assert styles["fall"].startswith("bold white on rgb(")
    assert "shares" not in styles


def test_a_terminal_shows_entities_with_what_is_said_of_them() -> None:
    reading = Reading("entity_sentiment", "negative", 0.75, "unsure", (0.0, 1.0))
    entity = ExplainedEntity("shares", 0, 6, "company", 0.5, (reading,))
    told = [
        line.plain
        for line in lines(explanation("shares fall", ["shares", "fall"], (0.5, 0.5), entities=(entity,)))
    ]

    assert "  shares: company  0.50" in told
    assert any("negative (unsure)  0.75" in line for line in told)
    assert "      fall 1.00" in told


def test_words_without_weight_are_no_strongest_words() -> None:
    assert strongest((0.0, 0.75, 0.25, 0.0), 3) == [1, 2]


# On a bundle


@pytest.fixture(scope="module")
def bundle(tiny: Path) -> Path:
    return tiny


def explained(bundle: Path, texts: list[str], stream: str = "news", relevance: Any = None) -> list[Explanation]:
    from models.bundle import load_bundle
    from models.runtime import OnnxScorer

    loaded = load_bundle(str(bundle))
    return explain(OnnxScorer(loaded, threads=1, cache_size=0), loaded, texts, stream, relevance)


@pytest.mark.train
def test_every_word_has_its_weight_in_the_order_of_the_text(bundle: Path) -> None:
    from models.runtime import load_scorer

    texts = [TEXT, "Zenith opens https://t.co/x today", ""]
    found = explained(bundle, texts)

    assert [found[0].word(number) for number in range(7)] == TEXT.split()
    assert found[1].text == "Zenith opens today"
    for each in found[:2]:
        assert sum(each.readings[0].attention) == pytest.approx(1.0, abs=1e-3)
    assert found[2].readings[0].attention == ()
    scores = load_scorer(str(bundle), threads=1, top_words=2).score(texts, "news")
    for each, score in zip(found, scores, strict=True):
        reading, result = each.readings[0], score.heads["sentiment"]
        assert (reading.label, reading.decision) == (result.label, result.decision)
        top = [(each.word(number), reading.attention[number]) for number in strongest(reading.attention, 2)]
        assert top == [(word.text, pytest.approx(word.weight, abs=1e-3)) for word in result.words]


@pytest.mark.train
def test_an_entity_comes_with_its_own_reading_of_the_words(bundle: Path) -> None:
    found = explained(bundle, [TEXT, "Bolt soars as Vela drops"])
    entities = [entity for each in found for entity in each.entities]

    assert entities
    for each in found:
        for entity in each.entities:
            [reading] = entity.readings
            assert each.text[entity.start : entity.end] == entity.text
            assert len(reading.attention) == len(each.words)
            assert sum(reading.attention) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.train
def test_a_text_longer_than_the_model_reads_is_explained_to_where_it_was_read(bundle: Path) -> None:
    [each] = explained(bundle, ["Acme rises today and " * 200])

    assert 0.5 < each.truncated_share < 1
    assert len(each.words) == len(each.readings[0].attention) < 200
    assert each.words[-1][1] < len(each.text)


@pytest.mark.train
def test_gradient_times_input_foretells_what_a_longer_embedding_does_and_adds_ngrams(bundle: Path) -> None:
    import torch

    from models.bundle import load_bundle
    from models.export import load_network
    from models.gradient import Gradient
    from models.runner import INPUTS
    from models.runtime import OnnxScorer
    from models.tokens import feed

    loaded = load_bundle(str(bundle))
    network = load_network(loaded)
    [batch] = OnnxScorer(loaded, threads=1).prepare([TEXT])
    label = np.array([2])
    relevance = Gradient(network)(batch, "sentiment", np.array([0]), label)[0]  # [T]

    ids, words = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.word_mask)
    said = network.heads["sentiment"].ngrams.shares(ids, words)[0, :, 2].tolist()

    def logit(token: int, factor: float) -> float:
        def stretch(_module: Any, _given: Any, embedded: Any) -> Any:
            scale = torch.ones(embedded.shape[1])
            scale[token] = factor
            return embedded * scale[None, :, None]

        hook = network.encoder.get_input_embeddings().register_forward_hook(stretch)
        with torch.no_grad():
            logits = network(*(torch.from_numpy(part) for part in feed(batch, INPUTS).values()))[0]
        hook.remove()
        return float(logits[0, 2])

    strongest = int(np.abs(said).argmax())
    assert abs(said[strongest]) > 1e-3
    for token in {1, 4, strongest}:
        moved = (logit(token, 1.05) - logit(token, 0.95)) / 0.1
        assert relevance[token] == pytest.approx(abs(moved + said[token]), rel=0.05, abs=1e-4)


@pytest.mark.train
def test_gradient_stands_beside_attention_for_texts_and_entities(bundle: Path) -> None:
    from models.bundle import load_bundle
    from models.gradient import Gradient

    [each] = explained(bundle, [TEXT], relevance=Gradient.of(load_bundle(str(bundle))))
    readings = [each.readings[0], *(reading for entity in each.entities for reading in entity.readings)]

    assert len(readings) > 1
    for reading in readings:
        assert len(reading.gradient) == len(each.words)
        assert sum(reading.gradient) == pytest.approx(1.0, abs=1e-3)
    assert "|gradient &times; input|" in page("b@1", "news", [each])


@pytest.mark.train
def test_the_command_writes_a_page_and_prints_the_words(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    words = ("model", "explain", TEXT, "--bundle", str(bundle))

    shown = salience(*words, "--html", str(path)).stdout
    found = answer(*words)["explanations"]

    assert TEXT in shown
    assert path.read_text().startswith("<!doctype html>")
    assert [reading["head"] for reading in found[0]["readings"]] == ["sentiment", "entity"]
    assert len(found[0]["readings"][0]["attention"]) == len(found[0]["words"]) == 7


@pytest.mark.train
def test_explaining_needs_no_torch(bundle: Path) -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from pipeline.commands.app import app\n"
        f"done = CliRunner().invoke(app, ['model', 'explain', {TEXT!r}, '--bundle', {str(bundle)!r}])\n"
        "print(done.exit_code, sorted({'torch', 'transformers', 'sklearn'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout.strip() == "0 []"
