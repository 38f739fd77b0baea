"""Event time of a stream: where its watermark stands, given how its partitions stand. Times in microseconds."""

from collections.abc import Sequence

from msgspec import Struct

SECOND = 1_000_000
# The watermark stays this far behind the newest event.
DELAY = 5 * SECOND
# A partition that gave nothing for this long has no say.
IDLE = 30 * SECOND
# An owner that did not write for this long is taken for gone; a worker writes every few seconds.
OWNER_GONE = 60 * SECOND
# Partitions without an owner hold the watermark for so long.
HOLD = 600 * SECOND


class Partition(Struct, frozen=True):
    """`newest` is the greatest event time stored, None before the first; `idle` as its owner has declared.

    `ahead`: all its events claim a time in the future, and count when they came in.
    """

    number: int
    newest: int | None
    owned: bool
    idle: bool
    ahead: bool = False


class Standing(Struct, frozen=True):
    """A stream's watermark (0: not begun), and since when it is held or goes by the clock."""

    watermark: int = 0
    idle_since: int | None = None
    idle_base: int | None = None
    held_since: int | None = None


class Step(Struct, frozen=True):
    """Where a stream stands now, what moved it (`events` or `clock`), and which partitions had no say."""

    standing: Standing
    moved_by: str
    left_out: list[tuple[int, str]]
    waits_for: list[int]


def advance(before: Standing, partitions: Sequence[Partition], now: int) -> Step:
    """Move a watermark; it never goes back.

    It follows the slowest partition that is not idle. A partition without an owner holds it, HOLD at most. When
    all are idle, everything that came is behind it: it goes to the newest event and on at the clock's pace.
    """
    orphans = [each.number for each in partitions if not each.owned]
    held_since = (before.held_since or now) if orphans else None
    if held_since is not None and now - held_since < HOLD:
        held = Standing(before.watermark, held_since=held_since)
        return Step(held, "events", [], orphans)
    left_out = [(each.number, "idle" if each.owned else "no owner") for each in partitions if _out(each)]
    active = [each for each in partitions if not _out(each)]
    if not active:
        return Step(_by_clock(before, partitions, now, held_since), "clock", left_out, [])
    waits_for = [each.number for each in active if each.newest is None]
    slowest = None if waits_for else min(each.newest for each in active if each.newest is not None)
    watermark = before.watermark if slowest is None else max(before.watermark, slowest - DELAY)
    return Step(Standing(watermark, held_since=held_since), "events", left_out, waits_for)


def _out(partition: Partition) -> bool:
    return partition.idle or not partition.owned


def _by_clock(before: Standing, partitions: Sequence[Partition], now: int, held_since: int | None) -> Standing:
    newest = max((each.newest for each in partitions if each.newest is not None), default=None)
    if newest is None and not before.watermark:
        if not any(each.ahead for each in partitions):
            return Standing(held_since=held_since)
        newest = now
    reached = max(before.watermark, 0 if newest is None else newest - DELAY)
    if before.idle_since is None or before.idle_base is None:
        return Standing(reached, now, reached, held_since)
    gone = before.idle_base + now - before.idle_since
    if reached > gone:
        # Events came, and their partition fell idle again, between two looks; or the clock was put back.
        return Standing(reached, now, reached, held_since)
    return Standing(gone, before.idle_since, before.idle_base, held_since)
