"""Messages on the topics. What is frozen by golden files only ever gains optional fields."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

SCHEMA_VERSION = 1

Time = Annotated[str, Meta(description="event time, RFC 3339, UTC when no offset is given")]
Attributes = dict[str, Any]
Entity = str | dict[str, Any]

Role = Literal["customer", "agent"]
Kind = Literal["message", "assigned", "resolved"]


class NewsData(Struct, kw_only=True):
    """A news item or a post: the `data` of a CloudEvent on the stream `news`."""

    text: str
    title: str | None = None
    url: str | None = None
    language: str | None = None
    entities: list[Entity] | None = None
    attributes: Attributes | None = None


def headline(title: str | None, text: str) -> str:
    """A text with its title before it."""
    if not title:
        return text
    return f"{title}. {text}" if text else title


class ChatData(Struct, kw_only=True):
    """One message, assignment or resolution of a conversation with a customer."""

    conversation: str
    role: Role
    kind: Kind
    text: str
    customer: str | None = None
    channel: str | None = None
    language: str | None = None
    attributes: Attributes | None = None


class BehaviorData(Struct, kw_only=True):
    """What a user did with an item; `version` is the version of the item's text."""

    user: str
    item: str
    action: str
    text: str | None = None
    version: str | None = None
    value: float | None = None
    session: str | None = None
    attributes: Attributes | None = None


class News(NewsData, kw_only=True):
    """The stream `news` as bare JSON."""

    source: str
    time: Time
    id: str | None = None


class Chat(ChatData, kw_only=True):
    """The stream `chat` as bare JSON."""

    source: str
    time: Time
    id: str | None = None


class Behavior(BehaviorData, kw_only=True):
    """The stream `behavior` as bare JSON."""

    source: str
    time: Time
    id: str | None = None


Data = NewsData | ChatData | BehaviorData


class Envelope(Struct, kw_only=True):
    """A CloudEvent 1.0 in structured form."""

    specversion: str
    source: str
    data: Raw
    id: str | None = None
    type: str | None = None
    time: Time | None = None
    datacontenttype: str | None = None
    traceparent: str | None = None


class Scored(Struct, kw_only=True):
    """What the model said of one stored event. `heads` maps a head's name to its result.

    A head's result has `label`, `probability` (0 to 1), `decision` (label, unsure, none, unsupported)
    and `words`: pairs of word and share of the attention, strongest first; a head that finds entities lists them
    under `entities`. `truncated_share` is the part of a truncated text that the model did not read, where that is
    known: a message that is published again does not tell.
    """

    schema_version: int = SCHEMA_VERSION
    stream: str
    source: str
    id: str
    time: Time
    bundle: str
    truncated: bool
    truncated_share: float | UnsetType = UNSET
    heads: Raw


class ScoredWord(Struct, array_like=True, frozen=True):
    """Word and its share of a head's attention."""

    text: str
    weight: float


class ScoredAnswer(Struct, frozen=True):
    """What one head says of an entity."""

    label: str
    probability: float
    decision: Literal["label", "unsure", "none", "unsupported"]
    words: list[ScoredWord]


class ScoredEntity(Struct, frozen=True):
    """An entity of the text: [start, end) in characters of the text without links and with white space folded."""

    text: str
    start: int
    end: int
    type: str
    probability: float
    heads: dict[str, ScoredAnswer]


class ScoredHead(Struct, frozen=True):
    """One head's result, as in the `heads` of a scored message."""

    label: str
    probability: float
    decision: Literal["label", "unsure", "none", "unsupported"]
    words: list[ScoredWord]
    entities: list[ScoredEntity] | UnsetType = UNSET


class ScoredSchema(Struct, kw_only=True):
    """The scored message with its heads spelled out, for readers and for the JSON Schema."""

    schema_version: int
    stream: str
    source: str
    id: str
    time: Time
    bundle: str
    truncated: bool
    truncated_share: float | UnsetType = UNSET
    heads: dict[str, ScoredHead]


class Alert(Struct, kw_only=True):
    """Something a person should look at. Identity: rule, group, episode; `version` grows with the state."""

    schema_version: int = SCHEMA_VERSION
    id: str
    rule: str
    group: str
    episode: str
    kind: str
    state: str
    version: int
    severity: str
    stream: str
    start: Time
    end: Time | None = None
    definition: str
    bundle: str
    evidence: Mapping[str, Any]


# Headers that a dead letter carries beside the original ones; key and value are the original bytes.
DEAD_LETTER_HEADERS = (
    "salience-version",
    "salience-topic",
    "salience-partition",
    "salience-offset",
    "salience-stage",
    "salience-reason",
    "salience-exception",
    "salience-message",
    "salience-attempts",
)


class DeadLetter(Struct, kw_only=True):
    """The headers of a dead letter, by name without their prefix `salience-`; all are text on the wire."""

    version: int = SCHEMA_VERSION
    topic: str
    partition: int
    offset: int
    stage: str
    reason: str
    exception: str
    message: str
    attempts: int = 1

    def headers(self) -> list[tuple[str, bytes]]:
        """Kafka headers, text as UTF-8."""
        values = msgspec.structs.asdict(self)
        return [
            (name, str(values[name.removeprefix("salience-")]).encode("utf-8", "replace"))
            for name in DEAD_LETTER_HEADERS
        ]


BARE: Mapping[str, type[News] | type[Chat] | type[Behavior]] = {
    "news": News,
    "chat": Chat,
    "behavior": Behavior,
}
DATA: Mapping[str, type[NewsData] | type[ChatData] | type[BehaviorData]] = {
    "news": NewsData,
    "chat": ChatData,
    "behavior": BehaviorData,
}


def json_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema (2020-12) of every message, by file name without its ending."""
    messages: dict[str, type[Struct]] = {
        "news": News,
        "chat": Chat,
        "behavior": Behavior,
        "scored": ScoredSchema,
        "alert": Alert,
        "dead_letter": DeadLetter,
    }
    found = {}
    for name, message in messages.items():
        schema = msgspec.json.schema(message)
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        schema["title"] = name
        found[name] = schema
    return found
