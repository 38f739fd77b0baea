"""The graphs of a bundle, ready to run; needs no torch. B texts, T tokens, S spans."""

from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.bundle import EMBEDDING
from models.interpret import Outputs
from models.session import open_session
from models.tokens import Batch, feed


class Graphs:
    """The graph for texts and, where the bundle has heads for spans, the one for those.

    Raises:
        ConfigError, BundleError: as `models.session.open_session`.
    """

    def __init__(self, texts: Path, spans: Path | None, provider: str, threads: int) -> None:
        self._texts = open_session(texts, provider, threads)
        self._spans = open_session(spans, provider, threads) if spans else None
        self._inputs = [each.name for each in self._texts.get_inputs()]
        self._outputs = [each.name for each in self._texts.get_outputs()]
        self._span_inputs = [each.name for each in self._spans.get_inputs()] if self._spans else []
        self._span_outputs = [each.name for each in self._spans.get_outputs()] if self._spans else []

    @property
    def providers(self) -> tuple[str, ...]:
        """The ONNX Runtime providers in force, first the one that is preferred."""
        return tuple(self._texts.get_providers())

    @property
    def judges_spans(self) -> bool:
        return self._spans is not None

    def texts(self, batch: Batch) -> Outputs:
        """`<head>.logits` [B, L] and `<head>.alpha` [B, T] of label heads, `<head>.logits` [B, T, L] of entity
        heads, `<head>.states` [B, T, D] for span heads, `embedding` [B, D].
        """
        found = self._texts.run(self._outputs, feed(batch, self._inputs))
        return dict(zip(self._outputs, found, strict=True))

    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """The sentence vectors [B, D] alone: what no head reads is not computed."""
        options = import_module("onnxruntime").RunOptions()
        options.only_execute_path_to_fetches = True
        vectors: NDArray[np.float32]
        (vectors,) = self._texts.run([EMBEDDING], feed(batch, self._inputs), options)
        return vectors

    def spans(self, outputs: Outputs, rows: NDArray[np.int64], relation: NDArray[np.int64]) -> Outputs:
        """`<head>.logits` [S, L] and `<head>.alpha` [S, T] of every span head.

        Args:
            outputs: of `texts`, for the states.
            rows: [S], the text of each span in the batch.
            relation: [S, T], as `models.spans.relations`.
        """
        if self._spans is None or not len(rows):
            return {}
        given = {"rows": rows, "relation": relation}
        inputs = {name: given[name] if name in given else outputs[name] for name in self._span_inputs}
        return dict(zip(self._span_outputs, self._spans.run(self._span_outputs, inputs), strict=True))
