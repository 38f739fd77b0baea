"""A clock that jumps closes no ticks, and is told in a sentence."""

from pathlib import Path

import pytest
from helpers import opened
from structlog.testing import capture_logs

from pipeline.clock_guard import ClockGuard
from pipeline.times import now

SECOND = 1_000_000


class Monotonic:
    """Time as it passes, moved by a test."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize("jump", [3_600, -3_600])
async def test_a_clock_that_jumps_is_told_and_not_trusted_for_a_while(tmp_path: Path, jump: int) -> None:
    passed, wall = Monotonic(), 1_717_147_800 * SECOND
    async with opened(f"sqlite+aiosqlite:///{tmp_path}/clock.db") as pipeline:
        guard = ClockGuard(pipeline.database, passed)
        with capture_logs() as logs:
            assert await guard.agrees(wall)
            passed.seconds += 2
            assert await guard.agrees(wall + 2 * SECOND)
            passed.seconds += 2
            assert not await guard.agrees(wall + (4 + jump) * SECOND)
            passed.seconds += 61
            assert await guard.agrees(wall + (65 + jump) * SECOND)

    assert [each["message"] for each in logs] == [
        f"the clock of this machine jumped by {jump:+,} s; look after its time service; "
        "this worker closes no ticks until it is right",
        "the clock is right again",
    ]


async def test_a_clock_that_is_not_the_databases_closes_no_ticks(database: str) -> None:
    async with opened(database) as pipeline:
        assert await ClockGuard(pipeline.database).agrees(now())
        with capture_logs() as logs:
            assert not await ClockGuard(pipeline.database).agrees(now() - 7_200 * SECOND)

    assert "s behind the database's; set one of them right" in logs[0]["message"]
