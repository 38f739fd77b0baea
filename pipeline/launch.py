"""Become another program, as another user if asked, that Linux ends when the process that wanted it dies.

usage: launch.py PARENT SIGNAL USER GROUP PROGRAM [ARGUMENT ...]      (USER and GROUP -1: stay who we are)

Run by `child.Child` in front of each program. A `preexec_fn` would do the same, but it forks a process that
has threads, which is unsafe and warned of.
"""

import ctypes
import os
import sys


def main(words: list[str]) -> None:
    """Give up root, ask for SIGNAL at PARENT's death, and become PROGRAM (an absolute path)."""
    parent, on_orphaned, user, group = map(int, words[:4])
    if user >= 0:
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, on_orphaned, 0, 0, 0)  # PR_SET_PDEATHSIG; a change of user would clear it
        if os.getppid() != parent:
            sys.exit("the process that wanted this program ended before it began")
    os.execv(words[4], words[4:])


if __name__ == "__main__":
    main(sys.argv[1:])
