"""The error tree: every failure has a named reason and says whether a retry can help."""

from collections.abc import Collection
from typing import ClassVar


class SalienceError(Exception):
    """Base of all; `str()` is a sentence for a person: what is wrong, where, and the mend.

    `reason` is a stable name, used as metric label and log field. `fatal` says that whoever starts again would
    meet the same: a worker ends with exit status 2, and its supervisor leaves it at that.
    """

    reason: ClassVar[str] = "error"
    retry: ClassVar[bool] = False
    fatal: ClassVar[bool] = False


class UsageError(SalienceError):
    """The person who called asked for something that cannot be; exit status 2."""

    reason = "usage"


class ConfigError(SalienceError):
    """A setting, a rules file or a bundle is not usable."""

    reason = "config"
    fatal = True


class TrainingError(SalienceError):
    """A training run cannot go on: a loss that is no number, or a checkpoint of another run."""

    reason = "training"
    fatal = True


class NotSentError(SalienceError):
    """A receiver did not take a notification, or said nothing in time; it is tried again.

    `reached` numbers the addresses of the receiver that did take it, from 0.
    """

    reason = "receiver"
    retry = True

    def __init__(self, message: str, reached: Collection[int] = ()) -> None:
        super().__init__(message)
        self.reached = frozenset(reached)


class ContradictionError(ConfigError):
    """The broker's topics are not those that the database knows, or have lost what it lacks."""

    reason = "contradiction"


class BundleError(ConfigError):
    """A model bundle is missing, altered, or of another version."""

    reason = "bundle"


class TooManyDeadError(SalienceError):
    """So many records of a stream cannot be used that it is no matter of single events: a format has changed."""

    reason = "too_many_dead"
    fatal = True


class DataError(SalienceError):
    """One event cannot be used; it costs that event only and goes to the dead letters.

    `stage` names where: decode, score, store, react, or process when the event ended the process itself.
    """

    reason = "data"
    stage: ClassVar[str] = "decode"


class DecodeError(DataError):
    """The bytes are no event of their stream."""

    reason = "undecodable"


class SchemaHeaderError(DecodeError):
    """The bytes begin with the header of a Confluent schema registry."""

    reason = "confluent_schema"


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


class PoisonError(DataError):
    """The process died again and again while it had this event in work, the last time with it alone."""

    reason = "poison"
    stage = "process"


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
