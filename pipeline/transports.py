"""How a receiver is told: apprise, a signed webhook, or Prometheus Alertmanager. Each call tells it once."""

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from datetime import timedelta
from typing import Any, Protocol

import aiohttp
import msgspec
from yarl import URL

from pipeline import wording
from pipeline.notify import Notice
from pipeline.receivers import Receiver
from pipeline.times import EPOCH, rfc3339
from schemas.errors import NotSentError
from schemas.messages import Alert

# Seconds after which a receiver that says nothing has failed; a lease outlasts all that is sent under it.
TIMEOUT = 10.0
# Characters kept of what a receiver answers.
_ANSWER = 200
# Alertmanager takes an alert for resolved when it was not told again for so many intervals of re-posting.
_MISSED = 4
# Microseconds for which Alertmanager shows an alert about a single event.
MOMENT = 5 * 60_000_000
# Threads for the addresses of one apprise receiver, so that a slow one holds up itself only.
_THREADS = 4


class Transport(Protocol):
    """Tells one receiver."""

    async def send(self, notice: Notice, now: int) -> None:
        """Send it, at the moment `now` (microseconds).

        Raises:
            NotSentError: the receiver did not take it, or nobody knows.
        """

    def close(self) -> None:
        """Wait for nothing that is under way."""


def open_transport(receiver: Receiver) -> Transport:
    """The transport of a receiver."""
    if receiver.webhook:
        return Webhook(receiver)
    if receiver.alertmanager:
        return Alertmanager(receiver)
    return Apprise(receiver)


class Webhook:
    """POST of the alert message, signed as Standard Webhooks says."""

    def __init__(self, receiver: Receiver) -> None:
        # Imported by those who sign.
        from standardwebhooks import Webhook as Signer

        self._url = receiver.webhook
        self._signer = Signer(receiver.secret)

    async def send(self, notice: Notice, now: int) -> None:
        text = notice.value.decode()
        seconds = now // 1_000_000
        moment = EPOCH + timedelta(seconds=seconds)
        number = webhook_id(notice.identity)
        headers = {
            "content-type": "application/json",
            "webhook-id": number,
            "webhook-timestamp": str(seconds),
            "webhook-signature": self._signer.sign(number, moment, text),
        }
        await _post(self._url, notice.value, headers)

    def close(self) -> None:
        return


def webhook_id(identity: str) -> str:
    """The same for each attempt to send the same, so that a receiver can discard a repeat."""
    return f"msg_{hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()}"


class Alertmanager:
    """POST to Alertmanager's API v2. It groups and inhibits by itself, and forgets what it is not told again."""

    def __init__(self, receiver: Receiver) -> None:
        self._url = URL(receiver.alertmanager.rstrip("/")) / "api/v2/alerts"
        self._until = _MISSED * receiver.repost

    async def send(self, notice: Notice, now: int) -> None:
        alert = msgspec.json.decode(notice.value, type=Alert)
        body = msgspec.json.encode([_alertmanager_alert(alert, now, self._until)])
        await _post(self._url, body, {"content-type": "application/json"})

    def close(self) -> None:
        return


def _alertmanager_alert(alert: Alert, now: int, until: int) -> dict[str, Any]:
    ends = {"resolved": now, "fired": now + MOMENT}.get(alert.state, now + until)
    labels = {
        "alertname": alert.rule,
        "group": alert.group,
        "severity": alert.severity,
        "stream": alert.stream,
        # One that lasts is the same alert each time; single events are different ones.
        "event": alert.episode if alert.state == "fired" else "",
    }
    annotations = {
        "summary": wording.summary(alert),
        "odds": wording.odds_of(alert),
        "examples": "\n".join(wording.examples_of(alert)),
        "alert": alert.id,
    }
    return {
        "labels": _not_empty(labels),
        "annotations": _not_empty(annotations),
        # A start that lies ahead of an end would be refused.
        "startsAt": min(alert.start, rfc3339(now)),
        "endsAt": rfc3339(ends),
    }


def _not_empty(values: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}


class Apprise:
    """Mail, chat and a hundred other services, in plain words."""

    def __init__(self, receiver: Receiver) -> None:
        import apprise

        self._places: list[Any] = [apprise.Apprise.instantiate(url) for url in receiver.apprise]
        self._shown = receiver.shown.split(", ")
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="apprise")

    async def send(self, notice: Notice, now: int) -> None:
        alert = msgspec.json.decode(notice.value, type=Alert)
        told = {"title": wording.title(alert), "body": wording.body(alert), "notify_type": _type_of(alert)}
        waiting = [number for number in range(len(self._places)) if number not in notice.reached]
        problems = await asyncio.gather(*(self._tell(number, told) for number in waiting))
        failed = {number: why for number, why in zip(waiting, problems, strict=True) if why is not None}
        if failed:
            reached = set(range(len(self._places))) - set(failed)
            why = "; ".join(f"{self._shown[number]}: {why}" for number, why in failed.items())
            raise NotSentError(why, reached)

    async def _tell(self, number: int, told: Mapping[str, Any]) -> str | None:
        """Why one address was not told; None when it was."""
        said: list[str] = []
        place = self._places[number]

        def tell() -> bool:
            _said.set(said)
            return bool(place.notify(**told))

        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(TIMEOUT):
                done = await loop.run_in_executor(self._threads, copy_context().run, tell)
        except TimeoutError:
            return f"no answer in {TIMEOUT:g} s"
        except Exception as error:
            # Each service is code of its own; what it throws is why it was not told.
            return f"{type(error).__name__}: {error}"
        return None if done else " ".join(said) or "it was not taken"

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _type_of(alert: Alert) -> str:
    if alert.state == "resolved":
        return "success"
    return "failure" if alert.severity in ("high", "critical") else "warning"


# What apprise says of a failure, it says to its log only.
_said: ContextVar[list[str] | None] = ContextVar("apprise_said", default=None)


class _Listener(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        said = _said.get()
        if said is not None:
            said.append(record.getMessage())


_apprise_log = logging.getLogger("apprise")
_apprise_log.addHandler(_Listener(logging.WARNING))
# It is told as the receiver's error.
_apprise_log.propagate = False


async def _post(url: str | URL, body: bytes, headers: Mapping[str, str]) -> None:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            # What is signed for one address goes to no other.
            session.post(url, data=body, headers=headers, allow_redirects=False) as response,
        ):
            if not 200 <= response.status < 300:
                raise NotSentError(_refused(response.status, await _beginning(response)))
    except TimeoutError:
        raise NotSentError(f"no answer in {TIMEOUT:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise NotSentError(f"{type(error).__name__}: {error}") from None


async def _beginning(response: aiohttp.ClientResponse) -> str:
    return " ".join((await response.content.read(_ANSWER)).decode("utf-8", "replace").split())


def _refused(status: int, answer: str) -> str:
    said = f"status {status}{': ' if answer else ''}{answer}"
    if 400 <= status < 500 and status not in (408, 429):
        return f"{said} (a refusal: trying again helps only when the receiver or its entry is mended)"
    if 300 <= status < 400:
        return f"{said} (a redirect, which is not followed; give the address it leads to)"
    return said
