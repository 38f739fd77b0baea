"""Writes the JSON Schemas of the messages to schemas/json: python -m schemas.generate."""

import json
from pathlib import Path

from schemas.messages import json_schemas

FOLDER = Path(__file__).with_name("json")


def files() -> dict[str, str]:
    """Content by file name; the same types give the same bytes."""
    return {
        f"{name}.json": json.dumps(schema, indent=2, sort_keys=True) + "\n"
        for name, schema in json_schemas().items()
    }


def write(folder: Path = FOLDER) -> None:
    """Write every schema, and remove those of messages that are no more."""
    folder.mkdir(exist_ok=True)
    wanted = files()
    for path in folder.glob("*.json"):
        if path.name not in wanted:
            path.unlink()
    for name, content in wanted.items():
        (folder / name).write_text(content, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write()
