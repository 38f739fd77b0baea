"""Above half dead a stream is stopped: neither an outage nor a new format drains it into the dead letters."""

from collections.abc import Sequence

import pytest
from helpers import line, news, opened, outage, place, rows

from models.stub import STUB_BUNDLE, StubScorer
from pipeline.dead_share import DeadShare
from pipeline.deliver import MemoryOutlet
from pipeline.lane import Lane
from pipeline.turn import Turn
from pipeline.work import Applied, Work
from schemas.errors import (
    ConfigError,
    ContradictionError,
    DecodeError,
    OutageError,
    SalienceError,
    TooManyDeadError,
)
from schemas.events import Chunk, Dead, Line, Place, Record
from schemas.tables import dead_letters, progress


def _letter(record: Record, reason: str = "undecodable") -> Dead:
    return Dead(record, "decode", reason, "DecodeError", f"offset {record.offset} is {reason}")


def _work(start: int, alive: int, dead: int, where: Place | None = None) -> Work:
    """So many records that can be used, and behind them so many that cannot."""
    records = [Line(start + index, b"") for index in range(alive + dead)]
    letters = [_letter(record) for record in records[alive:]]
    return Work(where or place(), records, [], letters, 0, STUB_BUNDLE)


def _applied(work: Work, more: Sequence[Dead]) -> Applied:
    return Applied(0, 0, [*work.dead, *more], [], [])


def test_exactly_half_dead_is_let_through_and_one_more_is_not() -> None:
    DeadShare(0.5).enter(_work(0, 100, 100))
    with pytest.raises(TooManyDeadError):
        DeadShare(0.5).enter(_work(0, 100, 101))


def test_fewer_than_200_records_say_nothing() -> None:
    share = DeadShare(0.5)
    share.enter(_work(0, 0, 199))
    with pytest.raises(TooManyDeadError, match=r"^200 of the last 200 records of t\.news cannot be used"):
        share.enter(_work(199, 0, 1))


def test_only_the_last_1000_records_count() -> None:
    share = DeadShare(0.5)
    share.enter(_work(0, 0, 190))
    share.enter(_work(190, 1_000, 0))
    share.enter(_work(1_190, 0, 500))
    with pytest.raises(TooManyDeadError, match=r"^501 of the last 1,000 "):
        share.enter(_work(1_690, 0, 1))


def test_a_chunk_larger_than_the_window_counts_with_its_end() -> None:
    DeadShare(0.5).enter(_work(0, 3_500, 500))
    with pytest.raises(TooManyDeadError, match=r"^501 of the last 1,000 "):
        DeadShare(0.5).enter(_work(0, 3_499, 501))


def test_the_share_is_what_is_set() -> None:
    DeadShare(0.1).enter(_work(0, 900, 100))
    with pytest.raises(TooManyDeadError, match=r"more than the share of 0\.1 that is allowed"):
        DeadShare(0.1).enter(_work(0, 899, 101))


def test_a_share_of_one_never_stops() -> None:
    share = DeadShare(1)
    for number in range(10):
        share.enter(_work(number * 256, 0, 256))


def test_what_the_transaction_found_counts_from_the_next_chunk_on() -> None:
    share = DeadShare(0.5)
    work = _work(0, 200, 0)
    start = share.enter(work)
    share.add(start, work, _applied(work, [_letter(record, "conflict") for record in work.records[:101]]))
    with pytest.raises(TooManyDeadError, match=r"^101 of the last 201 .* 101 of them are conflict"):
        share.enter(_work(200, 1, 0))


def test_what_is_found_twice_counts_once() -> None:
    share = DeadShare(0.5)
    work = _work(0, 100, 100)
    share.add(share.enter(work), work, _applied(work, [_letter(work.records[150], "conflict")]))
    share.enter(_work(200, 0, 0))


def test_what_is_found_in_a_chunk_that_others_have_pushed_out_counts_as_far_as_it_is_there() -> None:
    share = DeadShare(0.5)
    work = _work(0, 400, 0)
    start = share.enter(work)
    share.enter(_work(400, 0, 400))
    share.enter(_work(800, 400, 0))
    share.add(start, work, _applied(work, [_letter(record, "conflict") for record in work.records]))
    # 200 of the conflicts are within the last 1,000: with the 400 they are more than half.
    with pytest.raises(TooManyDeadError, match=r"^600 of the last 1,000 "):
        share.enter(_work(1_200, 0, 0))


def test_records_of_a_back_fill_are_not_counted() -> None:
    share, run = DeadShare(0.5), place(origin="backfill", run="r")
    work = _work(0, 0, 1_000, run)
    share.add(share.enter(work), work, _applied(work, []))
    share.enter(_work(0, 100, 100))


def test_the_sentence_names_the_commonest_reason_an_example_and_the_mend() -> None:
    work = _work(0, 0, 256)
    work.dead[:100] = [_letter(each.record, "unscorable") for each in work.dead[:100]]
    with pytest.raises(TooManyDeadError) as caught:
        DeadShare(0.5).enter(work)
    told = str(caught.value)
    assert told.startswith(
        "256 of the last 256 records of t.news cannot be used, more than the share of 0.5 that is"
    )
    assert (
        "156 of them are undecodable, like this one: offset 255 is undecodable. Nothing of this chunk is" in told
    )
    assert "Mend the producer, then start once with SALIENCE_EVENTS__DEAD_SHARE=1" in told
    assert (TooManyDeadError.reason, TooManyDeadError.retry) == ("too_many_dead", False)


def test_an_error_says_whether_starting_again_would_meet_it_again() -> None:
    assert [each.fatal for each in (TooManyDeadError, ConfigError, ContradictionError)] == [True, True, True]
    assert [each.fatal for each in (SalienceError, OutageError, DecodeError)] == [False, False, False]


def _changed(start: int, count: int) -> list[Line]:
    """What a producer sends that has renamed a field."""
    return [line(start + index, {"source": "wire", "body": "shares rise"}) for index in range(count)]


async def _lane(lane: Lane, chunks: Sequence[Chunk]) -> list[int]:
    """Take them all; returns the offsets that were acknowledged."""
    done: list[int] = []
    for chunk in chunks:
        await lane.submit(chunk, lambda applied: done.append(applied.until))
    assert await lane.drain(30)
    return done


async def test_a_change_of_format_is_neither_stored_nor_acknowledged_and_met_again(database_url: str) -> None:
    chunks = [Chunk(place(), [news(index) for index in range(256)]), Chunk(place(), _changed(256, 257))]
    outlet = MemoryOutlet()
    for begin in (0, 1):
        async with opened(database_url) as pipeline:
            lane = pipeline.lane("news", outlet)
            assert await _lane(lane, chunks[begin:]) == [256][begin:]
            assert isinstance(lane.failed.result(), TooManyDeadError)
            [row] = await rows(pipeline.database, progress)
            assert (row["stored"], row["new"], row["dead"]) == (256, 256, 0)
            assert await rows(pipeline.database, dead_letters) == []
    assert outlet.dead == []


async def test_when_it_is_allowed_a_change_of_format_goes_to_the_dead_letters(database_url: str) -> None:
    async with opened(database_url, events={"dead_share": 1}) as pipeline:
        lane = pipeline.lane("news", MemoryOutlet())
        assert await _lane(lane, [Chunk(place(), _changed(0, 256))]) == [256]
        assert len(await rows(pipeline.database, dead_letters)) == 256


async def test_a_model_that_fails_on_everything_drains_nothing(database_url: str) -> None:
    async with opened(database_url, scorer=StubScorer(refuse="shares")) as pipeline:
        lane = pipeline.lane("news", MemoryOutlet())
        assert await _lane(lane, [Chunk(place(), [news(index) for index in range(256)])]) == []
        assert "256 of them are unscorable" in str(lane.failed.result())
        assert await rows(pipeline.database, dead_letters) == []


async def test_chunks_that_overlap_are_counted_once_each(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        lane = pipeline.lane("news", MemoryOutlet())
        # 180 dead of 180 say nothing yet; the fourth chunk makes it 240.
        await _lane(lane, [Chunk(place(partition=number), _changed(0, 60)) for number in range(4)])
        assert "240 of the last 240 " in str(lane.failed.result())
        assert len(await rows(pipeline.database, dead_letters)) == 180


async def test_a_chunk_whose_transaction_is_tried_again_is_counted_once(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        lane = pipeline.lane("news", MemoryOutlet())
        with outage(pipeline.database, 3, "INTO dead_letters") as failed:
            assert await _lane(lane, [Chunk(place(), _changed(0, 199))]) == [199]
        assert len(failed) == 3
        assert not lane.failed.done()


async def test_conflicts_that_the_transaction_finds_stop_the_next_chunk(database_url: str) -> None:
    changed = [news(index, "other", id=f"n{index % 200}") for index in range(200, 400)]
    chunks = [Chunk(place(), [news(index) for index in range(200)]), Chunk(place(), changed)]
    async with opened(database_url) as pipeline:
        lane = pipeline.lane("news", MemoryOutlet())
        assert await _lane(lane, chunks) == [200, 400]
        assert await _lane(lane, [Chunk(place(), _changed(400, 1))]) == []
        assert "201 of the last 401 records" in str(lane.failed.result())
        assert "200 of them are conflict" in str(lane.failed.result())


async def test_each_flow_counts_for_itself(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        for number in range(2):
            flow = pipeline.flow("news", MemoryOutlet())
            applied = await flow.process(Chunk(place(), _changed(number * 199, 199)), Turn())
            assert len(applied.dead) == 199
