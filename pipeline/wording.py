"""An alert in plain words, for people: what fired, on what evidence."""

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.messages import Alert

# Examples, terms and sources that are told, and characters of a text.
_EXAMPLES = 5
_NAMES = 8
_QUOTE = 240
# Attention words that are told of a text.
_WORDS = 5


def title(alert: Alert) -> str:
    """One line: severity, rule, group, state."""
    about = f"{alert.rule}: {alert.group}" if alert.group else alert.rule
    return f"[{alert.severity}] {about} ({alert.state})"


def body(alert: Alert) -> str:
    """Some lines: when, how much against what is usual, and the texts."""
    group = f", group {alert.group}" if alert.group else ""
    until = f" until {alert.end}" if alert.end else ""
    first = f"{alert.kind} rule {alert.rule} on {alert.stream}{group}, severity {alert.severity}"
    lines = [f"{first}: {alert.state}, from {alert.start}{until}", *evidence(alert.evidence)]
    return "\n".join([*lines, f"alert {alert.id}"])


def summary(alert: Alert) -> str:
    """What is told where there is room for one sentence."""
    said = evidence({name: value for name, value in alert.evidence.items() if name != "examples"})
    return " ".join([title(alert), *said[:1]])


def evidence(found: Mapping[str, Any]) -> list[str]:
    """Lines about the evidence, of a rule that counts or of one that judges each event."""
    if found.get("forgotten") or found.get("pruned"):
        return [_gone(found)]
    lines = [line for line in (_counted(found),) if line]
    for name in ("terms", "sources"):
        if found.get(name):
            lines.append(f"{name}: {', '.join(map(name_of, list(found[name])[:_NAMES]))}")
    lines += [example(each) for each in found.get("examples", ())[:_EXAMPLES]]
    if "text" in found:
        lines.append(example(found))
        lines += [_head(name, head) for name, head in found.get("heads", {}).items()]
    return lines


def odds_of(alert: Alert) -> str:
    """How unusual it is, in words; empty where the rule does not count."""
    return str(alert.evidence.get("odds") or "")


def examples_of(alert: Alert) -> list[str]:
    """The texts that the alert quotes, each a line."""
    found = alert.evidence
    quoted = [found] if "text" in found else found.get("examples", ())
    return [example(each) for each in quoted[:_EXAMPLES]]


def example(each: Mapping[str, Any]) -> str:
    """A text with its source and the words that were looked at."""
    if "text" not in each:
        return f"- {_gone(each)}"
    text = " ".join(str(each["text"]).split())
    text = text if len(text) <= _QUOTE else f"{text[: _QUOTE - 4]} ..."
    label = f"{each['label']} {each['probability']:.2f}" if "label" in each else ""
    words = ", ".join(map(name_of, strongest(each)))
    seen = ": ".join(part for part in (label, words) if part)
    return f"- {each.get('source', '')}: {text}" + (f" ({seen})" if seen else "")


def strongest(each: Mapping[str, Any]) -> list[Any]:
    """The words with most attention, strongest first."""
    return list(each.get("words") or ())[:_WORDS]


def name_of(each: Any) -> str:
    """The name in a pair of name and number, or the name itself."""
    return str(each[0] if isinstance(each, Sequence) and not isinstance(each, str) and each else each)


def _gone(each: Mapping[str, Any]) -> str:
    return "(forgotten)" if each.get("forgotten") else "(pruned)" if each.get("pruned") else "(no text)"


def _counted(found: Mapping[str, Any]) -> str:
    if "count" not in found:
        return ""
    usual = f", usually {_number(found['baseline'])}" if found.get("baseline") is not None else ""
    odds = f": {found['odds']}" if found.get("odds") else ""
    texts = f" ({found['distinct']} distinct texts of {found['raw']})" if "distinct" in found else ""
    return f"{_number(found.get('value', found['count']))}{_window(found.get('window'))}{usual}{odds}{texts}"


def _window(window: Any) -> str:
    if isinstance(window, Mapping):
        return f" from {window.get('start')} to {window.get('end')}"
    return f" in {window}" if window else ""


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _head(name: str, head: Mapping[str, Any]) -> str:
    words = ", ".join(map(name_of, strongest(head)))
    return f"{name}: {head.get('label')} {head.get('probability', 0):.2f}" + (f" ({words})" if words else "")
