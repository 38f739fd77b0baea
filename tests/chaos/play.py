"""One round from its first event to the account of all of them."""

import random
import time
from collections.abc import Sequence
from typing import Any

from check import Account, account, look
from faults import Fault
from msgspec import Struct
from stock import StockAccount, StockRound, settle
from world import Round, World, closing


class Outcome(Struct):
    """What was done and what came of it; `ours` or `stock` is set."""

    faults: list[str]
    seconds: float
    ours: Account | None = None
    stock: StockAccount | None = None
    # Of workers that ended without our doing, status and last words; and the statuses of the last ones.
    surprises: list[str] = []
    ends: list[int] = []
    # Why the round came to no end.
    failed: str = ""

    def wrong(self) -> dict[str, list[str]]:
        """What is not as it must be with ours; stock Faust promises nothing."""
        if self.failed:
            return {"no end": [self.failed]}
        return self.ours.wrong() if self.ours is not None else {}


def play(world: World, script: Sequence[Fault], events: int, seed: int, **options: Any) -> Outcome:
    """Our workers under these faults."""
    begun = time.monotonic()
    with closing(Round(world, events, seed=seed, **options)) as round_:
        told = _strike(round_, script, seed)
        ends = round_.crew.stop()
        found = account(round_.sent, look(round_.deployment), round_.spare)
        return Outcome(told, time.monotonic() - begun, found, None, round_.crew.surprises(), ends)


def play_stock(world: World, script: Sequence[Fault], events: int, seed: int, **options: Any) -> Outcome:
    """Stock Faust under the same faults, at the same moments."""
    begun = time.monotonic()
    with closing(StockRound(world, events, seed=seed, **options)) as round_:
        assert isinstance(round_, StockRound)
        told, failed = [fault.name for fault in script], ""
        try:
            told = _strike(round_, script, seed)
            settle(round_)
        except AssertionError as error:
            # It has stopped moving; what it has not handled by now is counted as lost.
            failed = str(error).splitlines()[0]
        ends = round_.crew.stop()
        surprises, seconds = round_.crew.surprises(), time.monotonic() - begun
        return Outcome(told, seconds, None, round_.account(), surprises, ends, failed)


def _strike(round_: Round, script: Sequence[Fault], seed: int) -> list[str]:
    """Each fault when its share of the events is handled, while half of the next share flows."""
    round_.until_manned(len(round_.crew.pids()))
    share = len(round_.sent) // (len(script) + 1)
    told = []
    for step, fault in enumerate(script, 1):
        round_.feeder.allow(share * step + share // 2)
        round_.until_handled(share * step)
        told.append(fault.strike(round_, random.Random(f"{seed}/{step}")))
    round_.until_done()
    return told
