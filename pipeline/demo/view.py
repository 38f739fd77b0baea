"""The live view in a terminal: rates, sentiment by topic, dead letters, and alerts with their reasons."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.demo.rates import Rates
from pipeline.demo.told import alert_lines, told_once
from pipeline.demo.watch import Snapshot
from pipeline.demo.words import COLOURS, one_line
from pipeline.times import rfc3339
from schemas.labels import STREAMS

# Lines: title and bar; the streams' panel; the panels above the alerts, and those in a low terminal.
_TITLE, _STREAMS, _UPPER, _UPPER_LOW = 3, 7, 12, 10
_LOW, _TALLEST = 24, 36
# Columns from which the view has room for the course of the rates.
_WIDE = 96
_LEFT = 53
# Lines below the view, for the summary and the next prompt.
_BELOW = 3
# Between columns of numbers.
_GAP = (0, 1, 0, 0)


class State:
    """What the view shows; the demo changes it, the terminal asks for it."""

    def __init__(self, duration: float, heads: Mapping[str, tuple[str, ...]], title: str) -> None:
        """`heads` names the heads that each rule asks, so that an alert shows the words they looked at."""
        self.duration = duration
        self.heads = heads
        self.title = title
        self.phase = "starting"
        self.done = False
        self.elapsed = 0.0
        self.market: int | None = None
        self.sent: Mapping[str, int] = {}
        self.snapshot = Snapshot()
        self.rates = Rates()


class View:
    """Draws a state to the size of the terminal."""

    def __init__(self, state: State) -> None:
        self._state = state

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        height = min(console.height - _BELOW, _TALLEST)
        tall = _UPPER if height >= _LOW else _UPPER_LOW
        upper = Table.grid(expand=True)
        left = _LEFT if width >= _WIDE else width // 2 + 3
        upper.add_column(width=left)
        upper.add_column(width=width - left)
        course = width >= _WIDE and not options.ascii_only
        upper.add_row(
            Group(self._streams(course), self._letters(left, tall - _STREAMS)),
            self._topics(width - left, tall, options.ascii_only),
        )
        yield self._title(width)
        yield upper
        yield self._alerts(width, max(4, height - _TITLE - tall))

    def _title(self, width: int) -> RenderableType:
        state = self._state
        line = Table.grid(expand=True)
        line.add_column(no_wrap=True, overflow="ellipsis")
        line.add_column(justify="right", no_wrap=True)
        name = Text.assemble((" salience demo ", "bold white on blue"), "  ", state.title)
        clock = f"{state.elapsed:5.1f} s of {state.duration:g} s"
        line.add_row(name, Text(clock, style="bold"))
        market = "" if state.market is None else f"market time {rfc3339(state.market)[11:16]}"
        line.add_row(Text(state.phase, style="cyan"), Text(market, style="cyan"))
        done = state.duration if state.done else min(state.elapsed, state.duration)
        bar = Table.grid()
        bar.add_row(ProgressBar(state.duration, done, width=width, complete_style="blue", finished_style="blue"))
        return Group(line, bar)

    def _streams(self, course: bool) -> RenderableType:
        table = Table(box=None, expand=True, padding=_GAP, pad_edge=False, header_style="dim")
        table.add_column("stream", no_wrap=True)
        for name, width in (("sent", 6), ("stored", 6), ("again", 5), ("dead", 4), ("/s", 4)):
            table.add_column(name, justify="right", no_wrap=True, min_width=width)
        if course:
            table.add_column("", no_wrap=True, justify="right")
        state, total = self._state, self._state.snapshot.total
        for stream in STREAMS:
            counts = state.snapshot.streams.get(stream)
            numbers = (counts.stored, counts.repeated, counts.dead) if counts else (0, 0, 0)
            cells = [stream, state.sent.get(stream, 0), *numbers, round(state.rates.now(stream))]
            table.add_row(*_cells(cells), *([Text(state.rates.course(stream), "cyan")] if course else []))
        sums = [sum(state.sent.values()), total.stored, total.repeated, total.dead, round(state.rates.now())]
        table.add_row(
            *_cells(["all", *sums]),
            *([Text(state.rates.course(), "cyan")] if course else []),
            style="bold",
        )
        return _panel(table, "Streams", _STREAMS)

    def _letters(self, width: int, height: int) -> RenderableType:
        snapshot = self._state.snapshot
        reasons = ", ".join(f"{count} {reason}" for reason, count in snapshot.reasons.items())
        lines = Text(no_wrap=True, overflow="ellipsis")
        for letter in snapshot.latest_letters[: height - 2]:
            kind = letter.stream if letter.reason == "undecodable" else f"{letter.stream} {letter.reason}"
            lines.append(f"{kind} ", style="yellow")
            lines.append(f"{one_line(letter.message)[:width]}\n")
        if not snapshot.latest_letters:
            lines.append("none so far", style="dim")
        return _panel(lines, f"Dead letters: {reasons}" if reasons else "Dead letters", height)

    def _topics(self, width: int, height: int, plain: bool) -> RenderableType:
        table = Table(box=None, expand=True, padding=_GAP, pad_edge=False, header_style="dim")
        table.add_column("news about", no_wrap=True, overflow="ellipsis", ratio=1)
        bar = max(6, width - 36)
        table.add_column("sentiment", no_wrap=True, min_width=bar)
        for label in COLOURS:
            table.add_column(f"{label[:3]}.", justify="right", header_style=COLOURS[label])
        counts = self._state.snapshot.topics
        totals: dict[str, int] = {}
        for (topic, _), count in counts.items():
            totals[topic] = totals.get(topic, 0) + count
        largest = max(totals.values(), default=1)
        for topic in sorted(totals, key=lambda name: (-totals[name], name))[: height - 3]:
            each = {label: counts[topic, label] for label in COLOURS}
            table.add_row(Text(topic.split(" | ")[0]), _bar(each, bar, largest, plain), *map(str, each.values()))
        empty = Text("no news scored yet", style="dim")
        return _panel(table if totals else empty, "Sentiment by topic", height)

    def _alerts(self, width: int, height: int) -> RenderableType:
        snapshot = self._state.snapshot
        lines = Text(no_wrap=True, overflow="ellipsis")
        for alert, times in told_once(snapshot.latest_alerts)[: (height - 2) // 2]:
            lines.append_text(alert_lines(alert, times, self._state.heads.get(alert.rule, ()), width - 8))
        if not snapshot.latest_alerts:
            lines.append("none so far: the rules wait for bad news", style="dim")
        order = "what many texts say first, then the latest"
        title = f"Alerts: {snapshot.alerts}, {order}" if snapshot.alerts else "Alerts"
        return _panel(lines, title, height)


def _bar(counts: Mapping[str, int], width: int, largest: int, plain: bool) -> Text:
    bar = Text()
    done = drawn = 0
    for label, count in counts.items():
        done += count
        end = round(done / largest * width)
        bar.append(("#" if plain else "█") * (end - drawn), style=COLOURS[label])
        drawn = end
    return bar


def _cells(values: Sequence[str | int]) -> list[str]:
    return [value if isinstance(value, str) else f"{value:,}" for value in values]


def _panel(content: RenderableType, title: str, height: int) -> Panel:
    return Panel(
        content, title=Text(title, "bold"), title_align="left", box=box.ROUNDED, border_style="dim", height=height
    )
