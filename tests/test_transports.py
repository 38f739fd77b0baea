"""Each kind of receiver is told as its standard says, and what it answers is told in turn."""

import asyncio
import json
import logging
from typing import Any

import msgspec
import pytest
from desk import EVIDENCE, SECRET, Desk, alert, desk, webhook
from helpers import NOW
from standardwebhooks import Webhook as Verifier

from pipeline import transports, wording
from pipeline.notify import Notice, body_of
from pipeline.receivers import Receiver
from pipeline.times import now
from pipeline.transports import open_transport
from schemas.errors import NotSentError

REFUSED = "(a refusal: trying again helps only when the receiver or its entry is mended)"


def notice(identity: str = "bad-mood/CRVN/1:firing:to:desk", **fields: Any) -> Notice:
    return Notice(identity, msgspec.json.encode(body_of(alert(**fields))))


async def send(receiver: Receiver, it: Notice | None = None) -> None:
    transport = open_transport(receiver)
    try:
        await transport.send(it or notice(), now())
    finally:
        transport.close()


async def refusal(receiver: Receiver, it: Notice | None = None) -> NotSentError:
    with pytest.raises(NotSentError) as caught:
        await send(receiver, it)
    return caught.value


# Webhooks


async def test_a_webhook_is_signed_so_that_the_standards_library_takes_it() -> None:
    async with desk() as it:
        await send(webhook(it))
    [got] = it.got
    body = Verifier(SECRET).verify(got["body"], got["headers"])
    assert (body["rule"], body["evidence"]["odds"]) == ("bad-mood", EVIDENCE["odds"])
    assert got["headers"]["Content-Type"] == "application/json"


async def test_the_id_of_a_webhook_is_that_of_what_it_tells() -> None:
    async with desk() as it:
        for identity in ("a:firing:to:desk", "a:firing:to:desk", "a:resolved:to:desk"):
            await send(webhook(it), notice(identity))
    first, second, other = (each["headers"]["webhook-id"] for each in it.got)
    assert first == second != other


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (500, "status 500: so it is"),
        (404, f"status 404: so it is {REFUSED}"),
        (429, "status 429: so it is"),
        (408, "status 408: so it is"),
        (307, "status 307: so it is (a redirect, which is not followed; give the address it leads to)"),
    ],
)
async def test_what_a_webhook_answers_is_told(status: int, why: str) -> None:
    async with desk() as it:
        it.status = status
        assert str(await refusal(webhook(it))) == why


async def test_a_webhook_that_is_not_there_is_told() -> None:
    async with desk() as it:
        gone = webhook(it)
    assert "Cannot connect to host 127.0.0.1" in str(await refusal(gone))


async def test_a_webhook_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "TIMEOUT", 0.05)
    async with desk() as it:
        it.gate.clear()
        assert str(await refusal(webhook(it))) == "no answer in 0.05 s"


# Apprise


def places(*desks: Desk) -> Receiver:
    urls = [each.url.replace("http://", "json://") + f"/{number}?retry=0" for number, each in enumerate(desks)]
    return Receiver.model_validate({"apprise": urls})


async def test_apprise_tells_what_fired_in_plain_words() -> None:
    async with desk() as it:
        await send(places(it))
    [got] = it.got
    said = json.loads(got["body"])
    assert said["title"] == "[high] bad-mood: CRVN (firing)"
    assert said["type"] == "failure"
    assert said["message"].splitlines() == [
        "share rule bad-mood on news, group CRVN, severity high: firing, from 2024-05-31T09:30:00Z",
        "42 from 2024-05-31T08:30:00Z to 2024-05-31T09:30:00Z, usually 3.5: 12 times the usual; "
        "expected once in 3 years (42 distinct texts of 60)",
        "terms: sinks, falls",
        "sources: wire, feed",
        "- wire: Corvane sinks (negative 0.93: sinks)",
        "- feed: Corvane falls (falls)",
        "alert bad-mood/CRVN/1",
    ]


async def test_of_several_addresses_only_those_that_failed_are_told_again() -> None:
    async with desk() as well, desk() as bad:
        bad.status = 500
        error = await refusal(places(well, bad))
        assert error.reached == {0}
        bad.status = 200
        again = notice()
        again.reached = error.reached
        await send(places(well, bad), again)
    assert (len(well.got), len(bad.got)) == (1, 2)


async def test_why_apprise_failed_is_told_and_not_logged_elsewhere() -> None:
    logged: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = logged.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    async with desk() as it:
        it.status = 503
        why = str(await refusal(places(it)))
    logging.getLogger().removeHandler(handler)
    assert why.startswith(f"{it.url.replace('http', 'json')}/0: Failed to send JSON")
    assert "503" in why
    assert not [each for each in logged if each.name.startswith("apprise")]


async def test_what_two_addresses_say_at_once_is_kept_apart() -> None:
    async with desk() as one, desk() as other:
        one.status, other.status = 503, 404
        first, second = str(await refusal(places(one, other))).split("; ")
    assert "503" in first and "404" not in first
    assert "404" in second or "Page not found" in second


async def test_an_address_of_apprise_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "TIMEOUT", 0.05)
    async with desk() as it:
        it.gate.clear()
        waiting = asyncio.create_task(refusal(places(it)))
        assert str(await waiting).endswith("no answer in 0.05 s")


# Words


def test_a_single_event_is_told_with_its_text_and_labels() -> None:
    evidence = {
        "source": "wire",
        "id": "n1",
        "text": "Corvane is\nbankrupt",
        "heads": {"sentiment": {"label": "negative", "probability": 0.931, "words": [["bankrupt", 0.8]]}},
    }
    found = body_of(alert(state="fired", kind="match", group="", evidence=evidence))
    assert wording.title(found) == "[high] bad-mood (fired)"
    assert wording.body(found).splitlines()[1:-1] == [
        "- wire: Corvane is bankrupt",
        "sentiment: negative 0.93 (bankrupt)",
    ]


@pytest.mark.parametrize("mark", ["forgotten", "pruned"])
def test_what_is_forgotten_or_pruned_is_said_to_be(mark: str) -> None:
    of_count = body_of(alert(evidence={**EVIDENCE, "examples": [{mark: True}]}))
    of_event = body_of(alert(evidence={mark: True}))
    assert f"- ({mark})" in wording.body(of_count)
    assert f"({mark})" in wording.body(of_event)


def test_a_long_text_is_cut() -> None:
    found = body_of(alert(evidence={"source": "wire", "text": "x" * 1000}))
    assert max(map(len, wording.body(found).splitlines())) < 260


def test_an_alert_that_has_ended_says_when() -> None:
    found = body_of(alert(state="resolved", end=NOW))
    assert "resolved, from 2024-05-31T09:30:00Z until 2024-05-31T09:30:05Z" in wording.body(found)
