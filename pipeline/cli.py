"""The command `salience`: as little as can be, so that Ctrl-C is met from the first moment on."""

import sys

from pipeline.status import INTERRUPTED


def main() -> None:
    """Entry point of the console script."""
    try:
        from pipeline.commands.app import app

        app()
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(INTERRUPTED)
