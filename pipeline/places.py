"""Where in a YAML file something stands, for sentences about it."""

from typing import Any

import yaml


def problem_at(path: str, tree: Any, where: tuple[int | str, ...], message: str) -> str:
    """The sentence of an error: file, line, field, and what is wrong there."""
    field = ".".join(str(part) for part in where) or "the file"
    return f"{path}, line {_line(tree, where)}, {field}: {message}"


def _line(node: Any, where: tuple[int | str, ...]) -> int:
    """The line of the deepest part of `where` that the file has."""
    line = node.start_mark.line + 1 if node is not None else 1
    for part in where:
        if isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if key.value == str(part)]
            if not pairs:
                break
            line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def repeated_key(tree: Any) -> tuple[int, str] | None:
    """Line and name of the first key that its mapping has already; a YAML parser takes the last one in silence."""
    seen, waiting = set(), [tree]
    while waiting:
        node = waiting.pop(0)
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        if not isinstance(node, yaml.MappingNode):
            waiting += node.value
            continue
        names: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in names:
                return key.start_mark.line + 1, key.value
            names.add(str(key.value))
            waiting.append(value)
    return None


def yaml_problem(error: Exception) -> str:
    """What a YAML parser says, with the line where it is known."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0] or "it cannot be parsed"
    return f"line {mark.line + 1}: {problem}" if mark else str(problem)
