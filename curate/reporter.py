"""How a long run speaks: on stderr, a bar in a terminal, plain lines everywhere else."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[int], None]
"""Called with how many items have been done since the last call."""

_LINE_EVERY_S = 10.0


class Reporter:
    """console: where to write; quiet drops everything but warnings."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
        self.quiet = quiet

    def say(self, message: str) -> None:
        if not self.quiet:
            self.console.print(message, markup=False)

    def warn(self, message: str) -> None:
        self.console.print(f"warning: {message}", style="yellow", markup=False)

    @contextmanager
    def track(self, label: str, total: int, unit: str = "pictures") -> Iterator[Advance]:
        """Show progress through total items: done, rate and time left."""
        if self.quiet:
            yield lambda _: None
        elif self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
            )
            with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console) as bar:
                task, start = bar.add_task(label, total=total, rate=""), time.monotonic()

                def advance(count: int) -> None:
                    bar.advance(task, count)
                    rate = bar.tasks[0].completed / max(time.monotonic() - start, 1e-9)
                    bar.update(task, rate=f"{rate:,.0f} {unit}/s")

                yield advance
        else:
            yield from self._lines(label, total, unit)

    def _lines(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        start = last = time.monotonic()
        done = 0

        def advance(count: int) -> None:
            nonlocal done, last
            done += count
            now = time.monotonic()
            if now - last >= _LINE_EVERY_S:
                last, rate = now, done / (now - start)
                left = (total - done) / rate if rate else 0.0
                self.say(f"{label}: {done:,} of {total:,} {unit}, {rate:,.0f}/s, {left:,.0f} s left")

        yield advance
        elapsed = time.monotonic() - start
        self.say(f"{label}: {done:,} {unit} in {elapsed:.1f} s ({done / max(elapsed, 1e-9):,.0f}/s)")
