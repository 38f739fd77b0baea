"""Which texts made a bundle, told by hashes: a text that trained it flatters the figures. N texts."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from models.bundle import TRAINED, Bundle
from models.data import identity
from schemas.errors import BundleError

# Four bytes: among 64,000 texts a strange one is taken for known once in 67,000 times, and the file is 256 kB.
_BYTES = 4


def fingerprints(texts: Iterable[str]) -> NDArray[np.uint32]:
    """Hashes of what makes each text itself (`models.data.identity`), sorted, each once."""
    return np.unique(np.fromiter((_fingerprint(text) for text in texts), np.uint32))


def leaked(texts: Sequence[str], bundle: Bundle) -> NDArray[np.bool_]:
    """Whether each text trained, chose or calibrated the bundle: [N].

    Raises:
        BundleError: the bundle's list of hashes is none.
    """
    return np.isin(np.array([_fingerprint(text) for text in texts], np.uint32), known_by(bundle))


def known_by(bundle: Bundle) -> NDArray[np.uint32]:
    """The hashes of the texts that made a bundle.

    Raises:
        BundleError: the bundle's list of hashes is none.
    """
    path = bundle.path / TRAINED
    try:
        known: NDArray[np.uint32] = np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise BundleError(f"{path} is no list of hashes: {error}; copy the bundle again.") from error
    return known


def _fingerprint(text: str) -> int:
    key = identity(text).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(key, digest_size=_BYTES).digest(), "big")
