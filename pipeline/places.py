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


def yaml_problem(error: Exception) -> str:
    """What a YAML parser says, with the line where it is known."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0] or "it cannot be parsed"
    return f"line {mark.line + 1}: {problem}" if mark else str(problem)
