"""What the tests of changing the bundle share: stubs under other names, and where they are opened."""

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from models.stub import STUB_BUNDLE, StubScorer
from pipeline.settings import Settings
from pipeline.store.bundles import Registered
from schemas.errors import BundleError
from schemas.scores import Score

STUB = Registered(STUB_BUNDLE, "stub", "stub", STUB_BUNDLE)
OTHER = Registered("other@2", "other", "/bundles/other", "other@2")


class NamedScorer(StubScorer):
    """A stub under another name, which answers sentiment with one label, or has no heads at all."""

    def __init__(self, bundle: str, label: str = "positive", heads: bool = True) -> None:
        super().__init__()
        self._bundle, self._label, self._has_heads = bundle, label, heads

    @property
    def bundle(self) -> str:
        return self._bundle

    def heads(self, stream: str) -> tuple[str, ...]:
        return super().heads(stream) if self._has_heads else ()

    def score(self, texts: Sequence[str], stream: str, *more: Any) -> list[Score]:
        return [self._named(score) for score in super().score(texts, stream, *more)]

    def _named(self, score: Score) -> Score:
        if "sentiment" not in score.heads:
            return score
        return replace(
            score, heads={**score.heads, "sentiment": replace(score.heads["sentiment"], label=self._label)}
        )


class Shelf:
    """Bundles by their path, in place of folders; `asked` are the paths that were opened (None: the settings')."""

    def __init__(self) -> None:
        self.scorers = {"stub": StubScorer(), OTHER.path: NamedScorer(OTHER.identity)}
        self.asked: list[str | None] = []

    def open(self, settings: Settings, path: str | None = None) -> StubScorer:
        self.asked.append(path)
        found = self.scorers.get(settings.model.bundle if path is None else path)
        if found is None:
            raise BundleError(f"There is no model bundle at {path}; give the folder of one.")
        return found
