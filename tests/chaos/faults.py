"""What can go wrong, each a function of its own that says in a few words what it did."""

import json
import random
import signal
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from crew import OwnCrew, send, state
from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from world import SESSION, Round

# Calls of a stage after which a built-in fault strikes, at most.
_CALLS = 6
# Events that are let through at each look, while a built-in fault is waited for.
_TRICKLE = 4
_STAGES = ("decode", "score", "react", "store", "deliver", "acknowledge")
Action = Callable[[Round, random.Random], str]


class Fault(NamedTuple):
    """`alone` is true for what the harness can only do to workers of its own."""

    name: str
    strike: Action
    alone: bool = False


def kill(round_: Round, chosen: random.Random) -> str:
    """SIGKILL for one worker."""
    pid = _victim(round_, chosen)
    round_.crew.expect(pid)
    send(pid, signal.SIGKILL)
    return "kill"


def term(round_: Round, chosen: random.Random) -> str:
    """SIGTERM for one worker; another one takes its place."""
    pid = _victim(round_, chosen)
    round_.crew.expect(pid)
    send(pid, signal.SIGTERM)
    round_.until(lambda: state(pid) in ("", "Z"), "a worker to end")
    return "term"


def stop(round_: Round, chosen: random.Random) -> str:
    """SIGSTOP beyond the session timeout: its partitions go to others, and then it comes back."""
    pid = _victim(round_, chosen)
    send(pid, signal.SIGSTOP)
    round_.wait(SESSION * 2)
    send(pid, signal.SIGCONT)
    return f"stop {SESSION * 2:.0f} s"


def cut(round_: Round, chosen: random.Random) -> str:
    """No way to the broker, for shorter or longer than a session."""
    seconds = chosen.choice((1.0, SESSION * 2))
    round_.world.proxy.cut()
    round_.wait(seconds)
    round_.world.proxy.restore()
    return f"cut {seconds:.0f} s"


def broker_stop(round_: Round, chosen: random.Random) -> str:
    """The broker is stopped in order and started again on its data."""
    round_.world.kafka.stop()
    round_.wait(chosen.choice((0.5, SESSION)))
    round_.world.kafka.start()
    return "broker stop"


def broker_kill(round_: Round, chosen: random.Random) -> str:
    """The broker crashes and is started again on its data."""
    round_.world.kafka.kill()
    round_.wait(chosen.choice((0.5, SESSION)))
    round_.world.kafka.start()
    return "broker kill"


def database_stop(round_: Round, chosen: random.Random) -> str:
    """The database is stopped in order, for longer than a session."""
    round_.world.postgres.stop()
    round_.wait(SESSION * chosen.choice((1, 2)))
    round_.world.postgres.start()
    return "database stop"


def database_kill(round_: Round, chosen: random.Random) -> str:
    """The database crashes and recovers."""
    round_.world.postgres.kill()
    round_.wait(chosen.choice((0.1, SESSION)))
    round_.world.postgres.start()
    return "database kill"


def storm(round_: Round, chosen: random.Random) -> str:
    """Workers join and leave, one after the other, some before they were through with joining."""
    crew = _own(round_)
    times = chosen.choice((2, 3))
    for _ in range(times):
        crew.grow()
        round_.wait(chosen.uniform(1.0, 4.0))
        crew.shrink()
    return f"storm of {times}"


def clock_jump(round_: Round, chosen: random.Random) -> str:
    """All workers' clocks are an hour off."""
    hours = chosen.choice((1, -1))
    round_.clock.write_text(str(hours * 3600))
    round_.wait(1.0)
    return f"clock {hours:+d} h"


def partitions_added(round_: Round, chosen: random.Random) -> str:
    """Each topic gets two more partitions, and one worker leaves, so that all hear of them."""
    broker = round_.deployment.settings.broker
    names = round_.topics.inputs.values()

    def added() -> bool:
        try:
            return add_partitions(broker.servers, dict.fromkeys(names, broker.partitions + 2))
        except (KafkaError, OSError):
            return False

    round_.until(added, "the partitions to be added")
    round_.wait(2.5)  # the sender's own look at the topics
    term(round_, chosen)
    return "partitions +2"


def raise_in(stage: str) -> Action:
    """An error that nobody expects, in one stage of one worker."""
    return _built_in(stage, "raise")


def abort_in(stage: str) -> Action:
    """Native code aborts the process in one stage."""
    return _built_in(stage, "abort")


def stop_in(stage: str) -> Action:
    """A worker freezes in one stage, beyond its session, and comes back."""
    return _built_in(stage, "stop")


def add_partitions(servers: str, counts: dict[str, int]) -> bool:
    """Topics get so many partitions in all."""
    client = KafkaAdminClient(bootstrap_servers=servers)
    try:
        there = {each["name"]: len(each["partitions"]) for each in client.describe_topics(list(counts))}
        missing: dict[str, Any] = {name: count for name, count in counts.items() if there[name] < count}
        if missing:
            client.create_partitions(missing)
        return True
    finally:
        client.close()


def _built_in(stage: str, kind: str) -> Action:
    def strike(round_: Round, chosen: random.Random) -> str:
        crew = _own(round_)
        token = round_.deployment.folder / f"struck-{stage}-{kind}-{chosen.randrange(10**9)}"
        faults: list[Mapping[str, object]] = [
            {"stage": stage, "kind": kind, "at": chosen.randrange(_CALLS), "once": str(token)}
        ]
        if round_.brittle:
            faults.append(BRITTLE_FAULT)
        if kind == "raise" and stage == "score":
            round_.spare += 1  # an event that was alone in its chunk
        crew.arm(CHAOS_FAULTS=json.dumps(faults))
        term(round_, chosen)
        round_.until_manned(crew.size)

        def struck() -> bool:
            # A trickle, so that the stage is called until it happens.
            round_.feeder.allow(round_.feeder.sent + _TRICKLE)
            return token.exists() or round_.idle()

        round_.until(struck, f"{kind} in {stage}")
        if not token.exists():
            return f"{kind} in {stage} (not reached)"
        if kind == "stop":
            round_.wait(SESSION * 2)
            for pid in crew.pids():
                send(pid, signal.SIGCONT)
        return f"{kind} in {stage}"

    return strike


BRITTLE_FAULT = {"stage": "score", "kind": "raise", "at": "brittle"}
FAULTS = (
    Fault("kill", kill),
    Fault("term", term),
    Fault("stop", stop),
    Fault("cut", cut),
    Fault("broker stop", broker_stop),
    Fault("broker kill", broker_kill),
    Fault("database stop", database_stop),
    Fault("database kill", database_kill),
    Fault("storm", storm, alone=True),
    Fault("partitions added", partitions_added),
    Fault("clock jump", clock_jump, alone=True),
    *(Fault(f"raise in {stage}", raise_in(stage), alone=True) for stage in _STAGES),
    *(Fault(f"abort in {stage}", abort_in(stage), alone=True) for stage in _STAGES),
    *(Fault(f"stop in {stage}", stop_in(stage), alone=True) for stage in ("react", "store", "deliver")),
)
BY_NAME = {fault.name: fault for fault in FAULTS}


def draw(chosen: random.Random, rounds: int, supervised: int | None) -> list[list[Fault]]:
    """The faults of each round, 3 to 5; all kinds come before one comes again; the round `supervised` has few."""
    scripts: list[list[Fault]] = []
    waiting: list[Fault] = []
    for number in range(rounds):
        script: list[Fault] = []
        for _ in range(chosen.choice((3, 4, 5))):
            fitting = [fault for fault in waiting if number != supervised or not fault.alone]
            if not fitting:
                waiting += chosen.sample(FAULTS, len(FAULTS))
                fitting = [fault for fault in waiting if number != supervised or not fault.alone]
            script.append(fitting[0])
            waiting.remove(fitting[0])
        scripts.append(script)
    return scripts


def _own(round_: Round) -> OwnCrew:
    assert isinstance(round_.crew, OwnCrew), "this fault needs workers of the harness's own"
    return round_.crew


def _victim(round_: Round, chosen: random.Random) -> int:
    round_.until(round_.crew.pids, "a worker to run")
    return chosen.choice(round_.crew.pids())
