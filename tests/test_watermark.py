"""Event time of a stream, as its partitions give it."""

from pipeline.watermark import DELAY, HOLD, SECOND, Partition, Standing, advance

T = 1_000 * SECOND
NOW = 5_000 * SECOND


def active(number: int, newest: int | None) -> Partition:
    return Partition(number, newest, idle=False)


def idle(number: int, newest: int | None) -> Partition:
    return Partition(number, newest, idle=True)


def orphan(number: int, newest: int | None, since: int = NOW) -> Partition:
    return Partition(number, newest, idle=False, orphaned=since)


def test_the_watermark_follows_the_slowest_active_partition() -> None:
    step = advance(Standing(), [active(0, T), active(1, T + 60 * SECOND)], NOW)
    assert step.standing.watermark == T - DELAY
    assert step.moved_by == "events"


def test_an_idle_partition_has_no_say() -> None:
    step = advance(Standing(), [idle(0, T), active(1, T + 60 * SECOND)], NOW)
    assert step.standing.watermark == T + 60 * SECOND - DELAY
    assert step.left_out == [(0, "idle")]


def test_an_active_partition_without_an_event_so_far_holds_the_watermark() -> None:
    step = advance(Standing(T), [active(0, None), active(1, T + 60 * SECOND)], NOW)
    assert step.standing.watermark == T
    assert step.waits_for == [0]


def test_the_watermark_never_goes_back() -> None:
    assert advance(Standing(T), [active(0, T - 60 * SECOND)], NOW).standing.watermark == T


def test_a_partition_without_an_owner_holds_the_watermark() -> None:
    step = advance(Standing(T), [orphan(0, T), active(1, T + 60 * SECOND)], NOW + HOLD - 1)
    assert step.standing == Standing(T)
    assert step.waits_for == [0]


def test_a_partition_that_stays_without_an_owner_loses_its_say() -> None:
    step = advance(Standing(T), [orphan(0, T), active(1, T + 60 * SECOND)], NOW + HOLD)
    assert step.standing.watermark == T + 60 * SECOND - DELAY
    assert step.left_out == [(0, "no owner")]


def test_one_that_has_been_without_an_owner_for_long_does_not_end_the_hold_of_another() -> None:
    lost = [orphan(0, T, NOW - 2 * HOLD), orphan(1, T), active(2, T + 60 * SECOND)]
    assert advance(Standing(T), lost, NOW).standing == Standing(T)


def test_an_idle_partition_that_lost_its_owner_holds_the_watermark() -> None:
    lost = Partition(0, T, idle=True, orphaned=NOW)
    assert advance(Standing(T), [lost, active(1, T + 60 * SECOND)], NOW).standing == Standing(T)


def test_when_all_are_idle_time_goes_on_at_the_pace_of_the_clock() -> None:
    begun = advance(Standing(T), [idle(0, T + DELAY), idle(1, None)], NOW).standing
    assert begun.watermark == T
    later = advance(begun, [idle(0, T + DELAY), idle(1, None)], NOW + 40 * SECOND)
    assert later.standing.watermark == T + 40 * SECOND
    assert later.moved_by == "clock"


def test_when_all_are_idle_everything_that_came_is_behind_the_watermark() -> None:
    step = advance(Standing(T), [idle(0, T), idle(1, T + 900 * SECOND)], NOW)
    assert step.standing.watermark == T + 900 * SECOND - DELAY


def test_a_stream_that_never_had_an_event_has_no_time() -> None:
    assert advance(Standing(), [idle(0, None)], NOW).standing == Standing()
    assert advance(Standing(), [], NOW).standing == Standing()


def test_a_clock_that_is_put_back_does_not_move_time_back() -> None:
    begun = advance(Standing(T), [idle(0, None)], NOW).standing
    gone = advance(begun, [idle(0, None)], NOW + 40 * SECOND).standing
    back = advance(gone, [idle(0, None)], NOW - 3_600 * SECOND).standing
    assert back.watermark == T + 40 * SECOND
    assert advance(back, [idle(0, None)], NOW - 3_590 * SECOND).standing.watermark == T + 50 * SECOND


def test_time_by_the_clock_ends_when_an_event_comes() -> None:
    begun = advance(Standing(T), [idle(0, T)], NOW).standing
    gone = advance(begun, [idle(0, T)], NOW + 40 * SECOND).standing
    step = advance(gone, [active(0, T + 600 * SECOND)], NOW + 41 * SECOND)
    assert step.standing == Standing(T + 600 * SECOND - DELAY)


def test_a_hold_does_not_count_as_time_that_passed() -> None:
    begun = advance(Standing(T), [idle(0, T)], NOW).standing
    held = advance(begun, [orphan(0, T)], NOW + 10 * SECOND).standing
    again = advance(held, [idle(0, T)], NOW + 200 * SECOND).standing
    assert again.watermark == T


def test_a_stream_with_nothing_but_events_of_the_future_begins_at_the_clock() -> None:
    begun = advance(Standing(), [Partition(0, None, idle=True, ahead=True)], NOW).standing
    assert begun.watermark == NOW - DELAY


def test_two_clocks_that_differ_do_not_make_time_run_away() -> None:
    standing, ahead = Standing(T), 30 * SECOND
    for second in range(0, 3_600, 2):
        standing = advance(standing, [idle(0, T)], NOW + second * SECOND + ahead).standing
        standing = advance(standing, [idle(0, T)], NOW + (second + 1) * SECOND).standing
    assert standing.watermark <= T + 3_600 * SECOND + ahead


def test_an_event_between_two_looks_moves_time_by_the_clock_on() -> None:
    begun = advance(Standing(T), [idle(0, T)], NOW).standing
    met = advance(begun, [idle(0, T + 900 * SECOND)], NOW + 10 * SECOND).standing
    assert met.watermark == T + 900 * SECOND - DELAY
    assert (
        advance(met, [idle(0, T + 900 * SECOND)], NOW + 20 * SECOND).standing.watermark
        == met.watermark + 10 * SECOND
    )
