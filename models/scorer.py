"""The one way in to a model: what the pipeline asks of a scorer, whichever it is."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from schemas.scores import Score


class Countable(NamedTuple):
    """A head's labels, and how many calibration texts of each (rows) were found to be which; () if unknown."""

    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...] = ()


class Scorer(Protocol):
    """Turns texts into scores. Deterministic for one text within one batch; safe for one thread at a time."""

    @property
    def bundle(self) -> str:
        """Identity of what scores: the bundle's name and the first 12 digits of its hash."""

    def heads(self, stream: str) -> tuple[str, ...]:
        """Names of the heads that answer for a stream's texts."""

    def labels(self, stream: str) -> dict[str, tuple[str, ...]]:
        """Labels of each head that answers for a stream's texts, in head order."""

    def countable(self, stream: str) -> dict[str, "Countable"]:
        """Heads that name one label of a text or of an entity, with what they confuse."""

    def score(
        self, texts: Sequence[str], stream: str, languages: Sequence[str | None] | None = None
    ) -> list[Score]:
        """Score texts in the order given, through one encoder pass each.

        Args:
            languages: of each text as its event gives it (BCP 47), None where it is to be found out.

        Raises:
            ScoringError: a text cannot be scored; the caller bisects.
        """

    def warm_up(self) -> None:
        """Run the shapes that will be met, so that the first event does not pay for them."""
