"""What the tests of forgetting share: a person called Ann, what she says and does, and her being forgotten."""

from pathlib import Path
from typing import Any

from helpers import NOW, RULE, SECOND, chat, place
from helpers import rows as read

from pipeline.compose import Pipeline
from pipeline.store.forget import Forgotten, forget
from pipeline.topics import Topics
from schemas.events import Line
from schemas.tables import events

CHAT = place("chat")
BEHAVIOR = place("behavior")
TOPICS = Topics("salience")
SETTLE = 300 * SECOND
LATER = "2024-05-31T09:31:00Z"  # after NOW
LONG_AFTER = NOW + 3600 * SECOND
RULES = RULE + "  - {name: lost-card, kind: match, stream: chat, when: {words: card}}\n"


def rules_in(folder: Path) -> dict[str, str]:
    """Settings of rules by which every message about a card raises an alert."""
    file = folder / "rules.yaml"
    file.write_text(RULES)
    return {"file": str(file)}


async def forget_her(pipeline: Pipeline, subject: str = "ann", now: int = NOW) -> Forgotten:
    return await forget(pipeline.database, subject, now, TOPICS, SETTLE)


def from_ann(offset: int, text: str = "my card is lost", **fields: Any) -> Line:
    """A message of hers in the conversation k1."""
    known = {"customer": "ann", "language": "en", "attributes": {"branch": "7"}}
    return chat(offset, text, **(known | fields))


def agent(offset: int, text: str = "dear Ann, which card?", **fields: Any) -> Line:
    """A message in the conversation k1 that names no customer."""
    return chat(offset, text, role="agent", **fields)


async def event_named(pipeline: Pipeline, name: str) -> dict[str, Any]:
    [found] = [row for row in await read(pipeline.database, events) if row["event_id"] == name]
    return found


def told(row: dict[str, Any]) -> dict[str, Any]:
    """What of a row tells what was said, or by whom."""
    names = ("text", "title", "url", "entities", "attributes", "subject", "signature", "session", "language")
    return {name: row[name] for name in names if row[name] is not None}
