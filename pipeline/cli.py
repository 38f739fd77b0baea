"""The command `salience`: as little as can be, so that Ctrl-C and SIGTERM are met from the first moment on."""

import os
import signal
import sys

from pipeline.status import INTERRUPTED


def main() -> None:
    """Entry point of the console script."""
    if sys.argv[1:2] == ["worker"]:
        # Until it works there is nothing to finish, and a worker that is told to stop ends with 0.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    try:
        from pipeline.commands.app import app

        app()
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(INTERRUPTED)
