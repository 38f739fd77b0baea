"""Exit statuses of the commands."""

FAILED = 1
BAD_USAGE = 2
# As a shell reports a program that Ctrl-C has ended.
INTERRUPTED = 130
