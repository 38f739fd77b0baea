"""`salience` with faults built in from outside, so that the product needs no hook for them.

usage: CHAOS_FAULTS='[{"stage": "store", "kind": "abort", "at": 12, "once": "/tmp/token"}]' faulty.py worker ...

`stage` is one of STAGES; `kind` raise (an error nobody expects), abort (as native code does) or stop (SIGSTOP);
`at` a number of calls after which it happens, or a word: then it happens at each event whose text has it.
With `once`, a file, it happens at most once among all processes that name the same file.
CHAOS_CLOCK names a file with the seconds by which the clock is off.
"""

import inspect
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Strike = Callable[[tuple[Any, ...]], None]


def _decode() -> tuple[Any, str]:
    from pipeline.decode import Decoder

    return Decoder, "decode_all"


def _score() -> tuple[Any, str]:
    from models.stub import StubScorer

    return StubScorer, "score"


def _react() -> tuple[Any, str]:
    """In the transaction of the chunk, with its events written."""
    from pipeline.react.alerts import MatchAlerts

    return MatchAlerts, "react"


def _rule() -> tuple[Any, str]:
    """In a rule, where an error becomes a dead letter."""
    from pipeline.react import alerts

    return alerts, "_meets"


def _store() -> tuple[Any, str]:
    from pipeline.store.chunks import ChunkStore

    return ChunkStore, "apply"


def _deliver() -> tuple[Any, str]:
    from pipeline.deliver import KafkaOutlet

    return KafkaOutlet, "send"


def _acknowledge() -> tuple[Any, str]:
    from pipeline import worker

    return worker, "_acknowledge"


STAGES = {
    "decode": _decode,
    "score": _score,
    "react": _react,
    "rule": _rule,
    "store": _store,
    "deliver": _deliver,
    "acknowledge": _acknowledge,
}
# These strike when the call has done its work: what was committed is not yet delivered.
AFTER = ("store",)


def strike(kind: str) -> None:
    """Do it, in this process."""
    if kind == "raise":
        raise RuntimeError("a bug, built in by the chaos harness")
    if kind == "abort":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.abort()
    os.kill(os.getpid(), signal.SIGSTOP)


def striker(kind: str, at: int | str, once: str | None) -> Strike:
    """What is called with the arguments of each call of a stage, and strikes when it is time."""
    calls = 0

    def look(arguments: tuple[Any, ...]) -> None:
        nonlocal calls
        calls += 1
        due = calls > at if isinstance(at, int) else _mentions(arguments, at)
        if due and (once is None or _first(once)):
            strike(kind)

    return look


def main() -> None:
    """Build the faults in, then be `salience`."""
    _patch_clock(os.environ.get("CHAOS_CLOCK"))
    for fault in json.loads(os.environ.get("CHAOS_FAULTS", "[]")):
        owner, name = STAGES[fault["stage"]]()
        look = striker(fault["kind"], fault["at"], fault.get("once"))
        setattr(owner, name, _around(getattr(owner, name), look, fault["stage"] in AFTER))
    from pipeline.cli import main as salience

    salience()


def _around(original: Callable[..., Any], look: Strike, after: bool) -> Callable[..., Any]:
    async def waiting(*arguments: Any, **named: Any) -> Any:
        if after:
            done = await original(*arguments, **named)
            look(arguments)
            return done
        look(arguments)
        return await original(*arguments, **named)

    def at_once(*arguments: Any, **named: Any) -> Any:
        look(arguments)
        return original(*arguments, **named)

    return waiting if inspect.iscoroutinefunction(original) else at_once


def _mentions(value: Any, word: str) -> bool:
    """Whether some text in it has the word: texts, events with a text, records with bytes, or lists of them."""
    if isinstance(value, str):
        return word in value
    if isinstance(value, bytes):
        return word.encode() in value
    if isinstance(value, (list, tuple)):
        return any(_mentions(each, word) for each in value)
    parts = (getattr(value, name, None) for name in ("text", "event", "value", "records"))
    return any(_mentions(part, word) for part in parts if part is not None)


def _first(token: str) -> bool:
    try:
        os.close(os.open(token, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _patch_clock(file: str | None) -> None:
    if not file:
        return
    import pipeline.times as times

    original, path = times.now, Path(file)

    def jumped() -> int:
        try:
            return original() + int(float(path.read_text() or 0) * 1_000_000)
        except OSError:
            return original()

    # Before anybody else imports it: the others take the name, not the module.
    times.now = jumped


if __name__ == "__main__":
    sys.argv[0] = "salience"
    main()
