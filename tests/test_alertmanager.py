"""A real Prometheus Alertmanager is told, told again while an alert lasts, and told when it ends."""

import asyncio
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from desk import EVIDENCE, Desk, alert, desk, dispatch, empty, ended, raised, run, set_alert
from helpers import EVENT_TIME, SECOND, Clock, rows

from pipeline import child
from pipeline.receivers import Receiver
from pipeline.store.database import Database
from pipeline.times import microseconds, now
from pipeline.transports import MOMENT
from schemas.counting import receivers, reposts

BINARY = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
CONFIG = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n"
MINUTE = 60 * SECOND


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an Alertmanager of this module's own."""
    if BINARY is None:
        pytest.skip("no Alertmanager is installed (Debian: prometheus-alertmanager)")
    folder = tmp_path_factory.mktemp("alertmanager")
    (folder / "config.yml").write_text(CONFIG)
    address = f"127.0.0.1:{child.free_port()}"
    words = [
        BINARY,
        f"--config.file={folder / 'config.yml'}",
        f"--storage.path={folder}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    with (folder / "log").open("w") as log, subprocess.Popen(words, stdout=log, stderr=log) as process:
        try:
            _wait_until_ready(process, f"http://{address}/-/ready", folder / "log")
            yield f"http://{address}"
        finally:
            process.terminate()


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    pytest.fail(f"Alertmanager did not start: {log.read_text()}")


def _ask(url: str, episode: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{url}/api/v2/alerts", timeout=5) as answer:
        return [each for each in json.load(answer) if each["annotations"].get("alert", "").endswith(f"/{episode}")]


async def known(url: str, episode: str) -> list[dict[str, Any]]:
    """Our alerts that Alertmanager takes for active."""
    return await asyncio.to_thread(_ask, url, episode)


def moment(text: str) -> int:
    return microseconds(datetime.fromisoformat(text.replace("Z", "+00:00")))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with empty(f"sqlite+aiosqlite:///{tmp_path / 'salience.db'}") as it:
        yield it


def prometheus(url: str, **fields: Any) -> Receiver:
    return Receiver.model_validate({"alertmanager": url, **fields})


def stands_in(it: Desk) -> Receiver:
    return prometheus(it.url)


# The real one


async def test_alertmanager_has_the_alert_with_labels_and_evidence(alertmanager: str, database: Database) -> None:
    start = now()
    await raised(database, alert("prom", episode="post"), start)
    await run(dispatch(database, Clock(start + 1), prom=prometheus(alertmanager)))
    [found] = await known(alertmanager, "post")
    assert found["status"]["state"] == "active"
    assert found["labels"] == {"alertname": "bad-mood", "group": "CRVN", "severity": "high", "stream": "news"}
    assert found["annotations"] == {
        "summary": "[high] bad-mood: CRVN (firing) 42 from 2024-05-31T08:30:00Z to 2024-05-31T09:30:00Z, "
        f"usually 3.5: {EVIDENCE['odds']} (42 distinct texts of 60)",
        "odds": EVIDENCE["odds"],
        "examples": "- wire: Corvane sinks (negative 0.93: sinks)\n- feed: Corvane falls (falls)",
        "alert": "bad-mood/CRVN/post",
    }
    assert moment(found["startsAt"]) == EVENT_TIME
    assert abs(moment(found["endsAt"]) - (start + 1 + 4 * MINUTE)) < SECOND


async def test_alertmanager_is_told_again_until_the_alert_ends(alertmanager: str, database: Database) -> None:
    clock = Clock(now())
    receiver = prometheus(alertmanager, repost="10s")
    row = await raised(database, alert("prom", episode="again", group="AGN"), clock.now - 1)
    await run(dispatch(database, clock, prom=receiver))
    [first] = await known(alertmanager, "again")
    clock.now += 10 * SECOND
    await run(dispatch(database, clock, prom=receiver))
    [same] = await known(alertmanager, "again")
    assert same["endsAt"] == first["endsAt"]
    clock.now += 1
    await run(dispatch(database, clock, prom=receiver))
    [second] = await known(alertmanager, "again")
    assert moment(second["endsAt"]) - moment(first["endsAt"]) == pytest.approx(10 * SECOND, abs=SECOND // 10)
    assert second["startsAt"] == first["startsAt"]

    clock.now = now()
    await ended(database, row, clock.now - 1)
    await run(dispatch(database, clock, prom=receiver))
    assert await known(alertmanager, "again") == []
    assert await rows(database, reposts) == []
    clock.now += MINUTE
    await run(dispatch(database, clock, prom=receiver))
    assert await known(alertmanager, "again") == []


async def test_alerts_about_single_events_are_different_ones(alertmanager: str, database: Database) -> None:
    start = now()
    for number in range(2):
        it = alert("prom", state="fired", kind="match", group="", episode=f"news/wire/single{number}")
        await raised(database, it, start)
    await run(dispatch(database, Clock(start + 1), prom=prometheus(alertmanager)))
    for number in range(2):
        [found] = await known(alertmanager, f"single{number}")
        assert found["labels"]["event"] == f"news/wire/single{number}"
        assert "group" not in found["labels"]
        assert abs(moment(found["endsAt"]) - (start + 1 + MOMENT)) < SECOND
    assert await rows(database, reposts) == []


# What a stand-in must not be told


async def test_two_workers_tell_again_once(database_url: str) -> None:
    async with empty(database_url) as database, empty(database_url) as other, desk() as it:
        clock = Clock(now())
        await raised(database, alert("prom"), clock.now - 1)
        await run(dispatch(database, clock, prom=stands_in(it)))
        clock.now += MINUTE + 1
        await asyncio.gather(*(run(dispatch(each, clock, prom=stands_in(it))) for each in (database, other)))
    assert len(it.got) == 2


async def test_an_alert_that_is_acknowledged_lasts(database: Database) -> None:
    async with desk() as it:
        clock = Clock(now())
        row = await raised(database, alert("prom"), clock.now - 1)
        await run(dispatch(database, clock, prom=stands_in(it)))
        await set_alert(database, row, state="acknowledged")
        clock.now += MINUTE + 1
        await run(dispatch(database, clock, prom=stands_in(it)))
    [again] = json.loads(it.got[1]["body"])
    assert moment(again["endsAt"]) > clock.now


async def test_a_failed_repeat_is_tried_before_alertmanager_takes_the_alert_for_over(database: Database) -> None:
    async with desk() as it:
        clock = Clock(now())
        await raised(database, alert("prom"), clock.now - 1)
        await run(dispatch(database, clock, prom=stands_in(it)))
        it.status = 500
        clock.now += MINUTE + 1
        await run(dispatch(database, clock, prom=stands_in(it)))
        [row] = await rows(database, receivers)
        assert (row["failures"], row["error"]) == (1, "status 500: so it is")
        it.status = 200
        clock.now += MINUTE // 4 + 1
        await run(dispatch(database, clock, prom=stands_in(it)))
        [row] = await rows(database, receivers)
        assert (row["failures"], row["error"]) == (0, None)
        [again] = await rows(database, reposts)
        assert again["due_at"] == clock.now + MINUTE
    assert len(it.got) == 3


async def test_an_end_waits_for_a_repeat_that_is_on_its_way(database: Database) -> None:
    async with desk() as it:
        clock = Clock(now())
        row = await raised(database, alert("prom"), clock.now - 1)
        await run(dispatch(database, clock, prom=stands_in(it)))
        clock.now += MINUTE + 1
        it.gate.clear()
        it.came.clear()
        again = dispatch(database, clock, prom=stands_in(it))
        await again.round()
        await it.came.wait()
        await ended(database, row, clock.now - 1)
        await run(dispatch(database, clock, prom=stands_in(it)))
        assert len(it.got) == 2
        it.gate.set()
        await again.idle()
        await again.close()
        await run(dispatch(database, clock, prom=stands_in(it)))
        assert len(it.got) == 3
    [last] = json.loads(it.got[2]["body"])
    assert abs(moment(last["endsAt"]) - clock.now) <= 1


async def test_who_is_alertmanager_no_more_is_not_told_again(database: Database) -> None:
    async with desk() as it:
        clock = Clock(now())
        await raised(database, alert("prom"), clock.now - 1)
        await run(dispatch(database, clock, prom=stands_in(it)))
        other = Receiver.model_validate({"apprise": it.url.replace("http", "json")})
        clock.now += MINUTE + 1
        await run(dispatch(database, clock, prom=other))
        assert await rows(database, reposts) == []
    assert len(it.got) == 1
