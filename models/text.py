"""The normalisation a text goes through before tokenising, the same in training and in serving."""

import re

from schemas.errors import BundleError

# What a manifest lists under `normalisation`, in the order in which it is done.
NORMALISATION = ("strip-urls", "fold-whitespace")

_URL = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)


def normalise(text: str) -> str:
    """Take URLs out and fold each run of white space into one space; doing it twice changes nothing."""
    return " ".join(_URL.sub(" ", text).split())


def require_known(steps: tuple[str, ...], where: str) -> None:
    """Refuse a bundle whose texts were normalised in another way than this version does it.

    Raises:
        BundleError: the steps are not `NORMALISATION`.
    """
    if steps != NORMALISATION:
        raise BundleError(
            f"{where} asks for the text normalisation {list(steps)}, and this version of Salience knows only "
            f"{list(NORMALISATION)}; train the bundle anew or use the version of Salience that made it."
        )
