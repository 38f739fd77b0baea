"""Who reads which partition: written when a worker gets it, while it lives, and when it gives it up."""

from msgspec import Struct

from schemas.events import Place


class Standing(Struct, frozen=True):
    """A partition as its new owner finds it; offsets are the next ones.

    `known` is false for a partition without progress. `unclean` says that the owner before did not give it up:
    it may have died of a record at or after `published`.
    """

    place: Place
    stored: int
    published: int
    known: bool
    unclean: bool
