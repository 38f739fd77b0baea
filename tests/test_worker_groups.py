"""A worker and its consumer group: it comes back from wherever it was."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from test_worker import produce
from workers import Deployment, numbered

# Seconds; the least that a worker may be told to go without fetching, and a freeze that is longer.
INTERVAL, FREEZE = 10, 12


def test_a_worker_that_did_not_fetch_for_too_long_joins_again(
    kafka: Any, tmp_path: Path, deploy: Callable[..., Deployment]
) -> None:
    # SQLite, which does not end the transaction of a frozen worker: it goes on where it stood.
    deployment = deploy(
        kafka.servers,
        f"sqlite:///{tmp_path / 's.db'}",
        broker={"max_poll_interval": INTERVAL},
        database={"outage_deadline": INTERVAL - 1},
        worker={"chunk": 5},
    )
    first = deployment.worker()
    produce(deployment, numbered(100))
    deployment.until_handled(100)
    assert first.terminate() == 0
    # Only a group that has committed looks at how long ago its members fetched.
    worker = deployment.worker()
    deployment.until(lambda: worker.has_logged('"reading"'), "the worker to read")
    again = ((s, k, {**e, "id": e["id"] + "-b"}) for s, k, e in numbered(3_000))
    produce(deployment, again)
    deployment.until(lambda: deployment.counts()[0] > 150, "the backlog to be begun")
    worker.process.send_signal(signal.SIGSTOP)
    threading.Event().wait(FREEZE)
    worker.process.send_signal(signal.SIGCONT)
    deployment.until_handled(3_100)
    assert deployment.counts() == (3_100, 0, 0)
    assert worker.process.poll() is None
