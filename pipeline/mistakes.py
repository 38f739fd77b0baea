"""What the validator found, in the words of whoever wrote the file."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import ErrorDetails

_NO_LIST = "is no list; write one value, or several as [one, other]"
_NO_MAPPING = "has no names and values; write them as `name: value`"
_NO_TEXT = "is no text; put it in quotes if it shall be one"
_NO_NUMBER = "is no number"
_NO_WHOLE = "is no whole number"
_NO_TRUTH = "is neither true nor false"
# By the validator's kind of error; what stands in braces comes from its context.
_SENTENCES: Mapping[str, str] = {
    "bool_parsing": _NO_TRUTH,
    "bool_type": _NO_TRUTH,
    "dict_type": _NO_MAPPING,
    "finite_number": _NO_NUMBER,
    "float_parsing": _NO_NUMBER,
    "float_type": _NO_NUMBER,
    "greater_than": "is too small; allowed is more than {gt}",
    "greater_than_equal": "is too small; allowed is {ge} or more",
    "int_from_float": _NO_WHOLE,
    "int_parsing": _NO_WHOLE,
    "int_type": _NO_WHOLE,
    "less_than_equal": "is too large; allowed is {le} or less",
    "literal_error": "is not allowed; allowed are {expected}",
    "missing": "is missing",
    "model_attributes_type": _NO_MAPPING,
    "model_type": _NO_MAPPING,
    "string_too_long": "is too long; allowed are {max_length} characters",
    "string_too_short": "is empty",
    "string_type": _NO_TEXT,
    "too_short": "is empty; name at least {min_length}",
    "tuple_type": _NO_LIST,
}


def sentence(error: ErrorDetails) -> str:
    """What is wrong with a value, and what is allowed; it follows the value's place."""
    told = _SENTENCES.get(error["type"])
    if told is None:
        return error["msg"].removeprefix("Value error, ")
    return told.format(**{name: _plain(value) for name, value in error.get("ctx", {}).items()})


def _plain(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, float) else value
