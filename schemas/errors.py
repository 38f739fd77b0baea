"""The error tree: every failure has a named reason and says whether a retry can help."""

from typing import ClassVar


class SalienceError(Exception):
    """Base of all; `str()` is a sentence for a person: what is wrong, where, and the mend.

    `reason` is a stable name, used as metric label and log field.
    """

    reason: ClassVar[str] = "error"
    retry: ClassVar[bool] = False


class UsageError(SalienceError):
    """The person who called asked for something that cannot be; exit status 2."""

    reason = "usage"


class ConfigError(SalienceError):
    """A setting, a rules file or a bundle is not usable."""

    reason = "config"


class BundleError(ConfigError):
    """A model bundle is missing, altered, or of another version."""

    reason = "bundle"


class DataError(SalienceError):
    """One event cannot be used; it costs that event only and goes to the dead letters.

    `stage` names where: decode, score, store, react.
    """

    reason = "data"
    stage: ClassVar[str] = "decode"


class DecodeError(DataError):
    """The bytes are no event of their stream."""

    reason = "undecodable"


class ConflictError(DataError):
    """The same (stream, source, id) was stored before with other content."""

    reason = "conflict"
    stage = "store"


class ScoringError(DataError):
    """The model cannot score this text."""

    reason = "unscorable"
    stage = "score"


class StoreError(DataError):
    """The database refuses this event for its content."""

    reason = "unstorable"
    stage = "store"


class ReactionError(DataError):
    """A reaction fails on this event."""

    reason = "reaction_failed"
    stage = "react"


class OutageError(SalienceError):
    """Something around us is away; a retry can help, and nothing may be given up for it."""

    reason = "outage"
    retry = True


class BrokerError(OutageError):
    """The Kafka broker cannot be reached or refuses us."""

    reason = "broker"


class DatabaseError(OutageError):
    """The database cannot be reached or refuses us."""

    reason = "database"
