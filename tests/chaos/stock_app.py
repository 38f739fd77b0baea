"""Stock Faust on the same events: `take`, a table, default settings; faults are built in as in faulty.py.

usage: STOCK_GROUP=G STOCK_SERVERS=H:P STOCK_TOPICS=A,B STOCK_DATABASE=URL STOCK_SESSION=3 STOCK_PARTITIONS=4
       stock_app.py worker --web-port N
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import faust

# One module of this folder, whose name no installed package has.
sys.path.append(str(Path(__file__).parent))
from faulty import AFTER, striker

_SESSION = float(os.environ["STOCK_SESSION"])
app = faust.App(
    os.environ["STOCK_GROUP"],
    broker=f"kafka://{os.environ['STOCK_SERVERS']}",
    broker_session_timeout=_SESSION,
    broker_heartbeat_interval=_SESSION / 4,
)
topic = app.topic(*os.environ["STOCK_TOPICS"].split(","), key_type=str)
counts = app.Table("counts", default=int, partitions=int(os.environ["STOCK_PARTITIONS"]))
_faults = json.loads(os.environ.get("CHAOS_FAULTS", "[]"))


def _strikers(after: bool) -> list[Callable[[tuple[Any, ...]], None]]:
    """Those that strike after the row is written, or before."""
    late = (*AFTER, "deliver", "acknowledge")
    return [
        striker(each["kind"], each["at"], each.get("once")) for each in _faults if (each["stage"] in late) == after
    ]


_BEFORE, _AFTER = _strikers(False), _strikers(True)


@app.agent(topic)
async def store(stream: Any) -> None:
    """Write each event's id down."""
    async with asyncpg.create_pool(os.environ["STOCK_DATABASE"], min_size=1, max_size=2) as pool:
        async for batch in stream.take(64, within=0.2):
            for look in _BEFORE:
                look(([event["text"] for event in batch],))
            await pool.executemany("INSERT INTO seen (id) VALUES ($1)", [(event["id"],) for event in batch])
            for look in _AFTER:
                look(([event["text"] for event in batch],))


@app.agent(topic)
async def count(stream: Any) -> None:
    """Count events by key; tables are forbidden in `take`."""
    async for key, _ in stream.items():
        counts[key] += 1


if __name__ == "__main__":
    app.main()
