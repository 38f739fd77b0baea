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

    `orphaned`: since when it has no owner, as far as those who close ticks may count, None when it has one.
    `ahead`: all its events claim a time in the future, and count when they came in.
    """

    number: int
    newest: int | None
    idle: bool
    orphaned: int | None = None
    ahead: bool = False


class Standing(Struct, frozen=True):
    """A stream's watermark (0: not begun), and since when and from where it goes by the clock."""

    watermark: int = 0
    idle_since: int | None = None
    idle_base: int | None = None


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
    holding = [each.number for each in partitions if each.orphaned is not None and now - each.orphaned < HOLD]
    if holding:
        return Step(Standing(before.watermark), "events", [], holding)
    left_out = [
        (each.number, "idle" if each.orphaned is None else "no owner") for each in partitions if _is_out(each)
    ]
    active = [each for each in partitions if not _is_out(each)]
    if not active:
        return Step(_by_clock(before, partitions, now), "clock", left_out, [])
    waits_for = [each.number for each in active if each.newest is None]
    slowest = None if waits_for else min(each.newest for each in active if each.newest is not None)
    watermark = before.watermark if slowest is None else max(before.watermark, slowest - DELAY)
    return Step(Standing(watermark), "events", left_out, waits_for)


def _is_out(partition: Partition) -> bool:
    return partition.idle or partition.orphaned is not None


def _by_clock(before: Standing, partitions: Sequence[Partition], now: int) -> Standing:
    newest = max((each.newest for each in partitions if each.newest is not None), default=None)
    if newest is None and not before.watermark:
        if not any(each.ahead for each in partitions):
            return Standing()
        newest = now
    reached = max(before.watermark, 0 if newest is None else newest - DELAY)
    if before.idle_since is None or before.idle_base is None or before.idle_since - now > OWNER_GONE:
        # It begins here; or the clock was put back by more than the clocks of workers may differ.
        return Standing(reached, now, reached)
    gone = before.idle_base + now - before.idle_since
    if newest is not None and newest - DELAY > max(gone, before.watermark):
        # Events came, and their partition fell idle again, between two looks.
        return Standing(reached, now, reached)
    # The start stays where it is: begun anew at each look, it would run away between two clocks that differ.
    return Standing(max(reached, gone), before.idle_since, before.idle_base)
