"""Receivers of notifications: what the rules file says of each, checked when it is loaded.

Addresses and secrets come from the file and the environment only: no database keeps them, nothing shows them.
"""

import base64
import binascii
import os
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from msgspec import Struct
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from yarl import URL

from pipeline.durations import parse_duration
from pipeline.mistakes import sentence
from schemas.errors import UsageError

# Where in the file, and what is wrong there: the sentence of an error.
Tell = Callable[[tuple[int | str, ...], str], Exception]

Severity = Literal["info", "low", "medium", "high", "critical"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FROM_ENVIRONMENT = re.compile(r"\$\{(\w+)\}")
_RATE = re.compile(r"(\d+)/(.+)")
# Bytes of a signing key; Standard Webhooks asks for 24 to 64.
_KEY = (24, 64)
_SECOND = 1_000_000
# Characters from which on a value of the environment is taken for a secret.
_SECRET = 4


class Rate(Struct, frozen=True):
    """At most `count` messages in each window of `period` microseconds."""

    count: int
    period: int


def _rate(value: Any) -> Any:
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None or int(found[1]) < 1:
        raise ValueError(f"{value!r} is no rate; write messages and a length of time, as in 20/h or 5/10m")
    length = found[2] if found[2][0].isdigit() else f"1{found[2]}"
    try:
        period = parse_duration(length)
    except UsageError as error:
        raise ValueError(str(error)) from None
    if period < _SECOND:
        raise ValueError(f"{value!r} is no rate: its length of time is below 1s")
    return Rate(int(found[1]), period)


def _repost(value: Any) -> Any:
    try:
        length = parse_duration(value) if isinstance(value, str) else 0
    except UsageError as error:
        raise ValueError(str(error)) from None
    if length < _SECOND:
        raise ValueError(f"{value!r} is no length of time of 1s or more, as in 1m")
    return length


class Receiver(BaseModel):
    """One receiver: exactly one of `apprise`, `webhook` and `alertmanager` says how it is reached.

    `rate` bounds what goes out, `severity` is the lowest that is told, `resolved` whether ends are told; `repost`
    is the time in microseconds after which Alertmanager is told again of what lasts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    apprise: tuple[str, ...] = ()
    webhook: str = ""
    secret: str = ""
    alertmanager: str = ""
    rate: Annotated[Rate | None, BeforeValidator(_rate)] = None
    severity: Severity = "info"
    resolved: bool = True
    repost: Annotated[int, BeforeValidator(_repost)] = 60 * _SECOND
    # What may stand in no message and no log: filled in, no field of the file.
    _hidden: tuple[str, ...] = ()

    @field_validator("apprise", mode="before")
    @classmethod
    def _one_url(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("apprise")
    @classmethod
    def _apprise_knows(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for number, url in enumerate(value, 1):
            if _plugin(url) is None:
                which = f"URL {number} of {len(value)} " if len(value) > 1 else ""
                raise ValueError(
                    f"{which}({_scheme(url)}) is no URL that apprise can send to; see its list of services"
                )
        return value

    @field_validator("webhook", "alertmanager")
    @classmethod
    def _http(cls, value: str) -> str:
        try:
            url = URL(value)
        except ValueError:
            raise ValueError("is no URL; write https://host/path") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"({_scheme(value)}) is no URL of http or https; write https://host/path")
        return value

    @field_validator("secret")
    @classmethod
    def _standard(cls, value: str) -> str:
        try:
            key = base64.b64decode(value.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            key = b""
        if not value.startswith("whsec_") or not _KEY[0] <= len(key) <= _KEY[1]:
            raise ValueError("is no secret of Standard Webhooks: whsec_ and 24 to 64 bytes as base64")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> "Receiver":
        ways = [name for name in KINDS if getattr(self, name)]
        if not ways:
            raise ValueError("says no way to reach it; name one of apprise, webhook or alertmanager")
        if len(ways) > 1:
            raise ValueError(
                f"names {' and '.join(ways)}; a receiver is reached in one way, so make it two receivers"
            )
        if self.webhook and not self.secret:
            raise ValueError("has a webhook but no secret; add one (whsec_...), which signs what is sent")
        if self.secret and not self.webhook:
            raise ValueError("has a secret, which signs webhooks only; take it out")
        if "repost" in self.model_fields_set and not self.alertmanager:
            raise ValueError("has a repost, which is for alertmanager only; take it out")
        return self

    @property
    def kind(self) -> str:
        return next(name for name in KINDS if getattr(self, name))

    @property
    def shown(self) -> str:
        """Where it leads, without what is secret."""
        if self.apprise:
            return ", ".join(str(_plugin(url).url(privacy=True)).partition("?")[0] for url in self.apprise)
        url = URL(self.webhook or self.alertmanager)
        return f"{url.scheme}://{url.host}:{url.port}{'/...' if url.path.strip('/') or url.query else ''}"

    def hide(self, text: str) -> str:
        """The text without the values that came from the environment, and without addresses and secrets."""
        for value in sorted(self._hidden, key=len, reverse=True):
            text = text.replace(value, "****")
        return text


# The ways a receiver is reached, as the file names them.
KINDS = ("apprise", "webhook", "alertmanager")
Receivers = Mapping[str, Receiver]


def parse_receivers(
    content: Mapping[str, Any], tell: Tell, environment: Mapping[str, str] | None = None
) -> Receivers:
    """The receivers of a rules file, `${NAME}` filled from the environment.

    Raises:
        what `tell` makes of the place and the sentence.
    """
    given = os.environ if environment is None else environment
    return {str(name): _receiver(str(name), each, tell, given) for name, each in content.items()}


def _receiver(name: str, content: Any, tell: Tell, environment: Mapping[str, str]) -> Receiver:
    where = ("receivers", name)
    if not _NAME.fullmatch(name):
        raise tell(where, f"{name!r} is no name: letters, digits, dot, dash and underscore, 100 at most")
    if not isinstance(content, dict):
        raise tell(where, f"is no mapping; write {name}: {{apprise: URL}}, or webhook or alertmanager")
    used: set[str] = set()
    filled = {
        field: _filled(value, (*where, str(field)), tell, environment, used) for field, value in content.items()
    }
    try:
        receiver = Receiver.model_validate(filled)
    except ValidationError as error:
        first = error.errors()[0]
        raise tell((*where, *first["loc"][:1]), _message(first)) from None
    addresses = (*receiver.apprise, receiver.webhook, receiver.alertmanager, receiver.secret)
    passwords = [URL(each).password or "" for each in (receiver.webhook, receiver.alertmanager)]
    hidden = {each for each in (*used, *addresses, *passwords) if len(each) >= _SECRET}
    receiver._hidden = tuple(sorted(hidden))
    return receiver


def _message(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return f"is unknown; known here are {', '.join(Receiver.model_fields)}"
    return sentence(error)


def _filled(value: Any, where: tuple[str, ...], tell: Tell, environment: Mapping[str, str], used: set[str]) -> Any:
    """The value with what the environment has; what was taken from there is added to `used`."""
    if isinstance(value, list):
        return [_filled(each, where, tell, environment, used) for each in value]
    if not isinstance(value, str):
        return value

    def fill(found: "re.Match[str]") -> str:
        filled = environment.get(found[1])
        if not filled:
            raise tell(
                where, f"the environment has no {found[1]}; set it where this runs, as {found[0]} stands for it"
            )
        used.add(filled)
        return filled

    return _FROM_ENVIRONMENT.sub(fill, value)


def _scheme(url: str) -> str:
    """What can be shown of an address that cannot be read."""
    scheme, separator, _ = url.partition("://")
    return f"{scheme}{separator}..." if separator and scheme.isalnum() else "without a scheme"


def _plugin(url: str) -> Any:
    # It knows a hundred services; whoever needs none of them does not wait for it.
    import apprise

    return apprise.Apprise.instantiate(url, suppress_exceptions=True)
