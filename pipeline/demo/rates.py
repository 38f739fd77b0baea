"""How many events are stored each second, now and over the last while."""

from collections import deque
from collections.abc import Mapping

from pipeline.demo.watch import Counts

# Seconds over which a rate is taken, and looks that the course shows.
_WINDOW = 2.0
_LOOKS = 9
_STEPS = "▁▂▃▄▅▆▇█"


class Rates:
    """Remembers what was stored at each look."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Mapping[str, int]]] = deque(maxlen=64)
        self._courses: dict[str, deque[float]] = {}

    def note(self, seconds: float, streams: Mapping[str, Counts]) -> None:
        """What is stored `seconds` after the start."""
        stored = {name: counts.stored for name, counts in streams.items()}
        stored[""] = sum(stored.values())
        if self._seen:
            before, then = self._seen[-1]
            for name, count in stored.items():
                course = self._courses.setdefault(name, deque([0.0] * _LOOKS, maxlen=_LOOKS))
                course.append((count - then.get(name, 0)) / max(seconds - before, 0.01))
        self._seen.append((seconds, stored))

    def now(self, stream: str = "") -> float:
        """Events a second of a stream, or of all."""
        if not self._seen:
            return 0.0
        last, stored = self._seen[-1]
        first, then = next(each for each in self._seen if last - each[0] <= _WINDOW)
        return (stored.get(stream, 0) - then.get(stream, 0)) / (last - first) if last > first else 0.0

    def course(self, stream: str = "") -> str:
        """The last looks as a row of bars, each as high as its share of the highest."""
        course = self._courses.get(stream, deque([0.0] * _LOOKS))
        highest = max(*course, 1.0)
        return "".join(_STEPS[round(rate / highest * (len(_STEPS) - 1))] for rate in course)
