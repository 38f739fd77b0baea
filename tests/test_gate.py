"""A gate that many share or one has alone, in the order of asking; giving up while waiting leaves it as it was."""

import asyncio
import random

import pytest
from loops import finishes_at_once, settle

from pipeline.gate import Gate


class Visitors:
    """Tasks that go through a gate; each stays in until it is told to leave."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.inside: list[str] = []
        self.entered: list[str] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._leave: dict[str, asyncio.Event] = {}

    async def come(self, *names: str) -> None:
        """They ask in this order: a name in capitals asks to be alone."""
        for name in names:
            self._leave[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._visit(name))
        await settle()

    async def _visit(self, name: str) -> None:
        async with self.gate.alone() if name.isupper() else self.gate.shared():
            self.inside.append(name)
            self.entered.append(name)
            # What the gate promises: whoever is alone is.
            assert len(self.inside) == 1 or not any(each.isupper() for each in self.inside)
            try:
                await self._leave[name].wait()
            finally:
                self.inside.remove(name)

    async def go(self, *names: str) -> None:
        for name in names:
            self._leave[name].set()
        await settle()

    async def cancel(self, *names: str) -> None:
        for name in names:
            self._tasks[name].cancel()
        await settle()

    async def close(self) -> None:
        """All leave; afterwards the gate is as it was."""
        for event in self._leave.values():
            event.set()
        ends = await asyncio.wait_for(asyncio.gather(*self._tasks.values(), return_exceptions=True), 10)
        assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends), ends
        assert finishes_at_once(_through(self.gate, True))
        assert finishes_at_once(_through(self.gate, False))


async def _through(gate: Gate, alone: bool) -> None:
    async with gate.alone() if alone else gate.shared():
        pass


async def test_a_free_gate_is_gone_through_without_a_turn_of_the_loop() -> None:
    assert finishes_at_once(_through(Gate(), False))
    assert finishes_at_once(_through(Gate(), True))


async def test_many_share_it() -> None:
    visitors = Visitors()
    await visitors.come("a", "b", "c")
    assert visitors.inside == ["a", "b", "c"]
    await visitors.close()


async def test_who_is_alone_keeps_everybody_out_until_it_leaves() -> None:
    visitors = Visitors()
    await visitors.come("A", "b", "C")
    assert visitors.inside == ["A"]
    await visitors.go("A")
    assert visitors.inside == ["b"]
    await visitors.go("b")
    assert visitors.inside == ["C"]
    await visitors.close()


async def test_who_asks_to_be_alone_waits_for_all_who_share_and_not_for_who_comes_later() -> None:
    visitors = Visitors()
    await visitors.come("a", "b", "C", "d")
    await visitors.go("a")
    assert visitors.inside == ["b"]
    await visitors.go("b")
    assert visitors.inside == ["C"]
    await visitors.go("C")
    assert visitors.inside == ["d"]
    await visitors.close()


async def test_all_are_let_in_in_the_order_of_asking() -> None:
    visitors = Visitors()
    order = ["A", "b", "c", "D", "E", "f", "G", "h", "i"]
    await visitors.come(*order)
    for name in order:
        await visitors.go(name)
    assert visitors.entered == order
    await visitors.close()


@pytest.mark.parametrize("waiting", ["B", "b"])
async def test_who_gives_up_waiting_keeps_nobody_out(waiting: str) -> None:
    visitors = Visitors()
    await visitors.come("a", "X", waiting, "c", "D")
    await visitors.cancel("X")
    await visitors.cancel(waiting)
    assert visitors.inside == ["a", "c"]
    await visitors.go("a", "c")
    assert visitors.inside == ["D"]
    await visitors.close()


@pytest.mark.parametrize("waiting", ["B", "b"])
async def test_who_is_cancelled_just_as_it_is_let_in_lets_the_next_in(waiting: str) -> None:
    visitors = Visitors()
    await visitors.come("A", waiting, "C")
    visitors._leave["A"].set()
    # The event wakes A, which lets the next one in; that one is cancelled before it has had its turn.
    await asyncio.sleep(0)
    assert visitors.inside == []
    await visitors.cancel(waiting)
    assert (visitors.inside, visitors.entered) == (["C"], ["A", "C"])
    await visitors.close()


async def test_who_is_cancelled_inside_leaves() -> None:
    visitors = Visitors()
    await visitors.come("A", "b")
    await visitors.cancel("A")
    assert visitors.inside == ["b"]
    await visitors.cancel("b")
    await visitors.close()


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_is_cancelled_and_whenever_the_gate_stays_whole(seed: int) -> None:
    chosen, visitors = random.Random(seed), Visitors()
    for number in range(200):
        name = chosen.choice(("a", "a", "A")) + str(number)
        visitors._leave[name] = asyncio.Event()
        visitors._tasks[name] = asyncio.create_task(visitors._visit(name))
        for _ in range(chosen.randrange(4)):
            other = chosen.choice(list(visitors._tasks))
            if chosen.random() < 0.4:
                visitors._tasks[other].cancel()
            else:
                visitors._leave[other].set()
            await asyncio.sleep(0)
    await visitors.close()
    assert len(visitors.entered) > 50
