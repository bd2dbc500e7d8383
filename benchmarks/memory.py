"""Memory and speed of a whole annotation of very many tiny pictures, stage by stage.

    python benchmarks/memory.py FOLDER [PICTURES] [-- OPTIONS]

Writes FOLDER/pool-PICTURES unless it is there: PICTURES (default a million) of 8x8 with ten damages, and 10,000 clean
ones (tiny_pool.py). Then runs `ambient annotate POOL --clean clean.zip --resolution 8 OPTIONS` from its beginning, sums
the memory of all its processes every second, shared pages counted once (proportional set size; Linux), and prints the
highest of each stage. Pages that are shared with other programs count in part: let no other run that uses PyTorch. This
one does not. What is written of a pool is kept when it is interrupted.
"""

import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

SIDE = 8
STAGES = {
    "finding": "found ",
    "reading, hashing, scores": "reading: .* in ",
    "duplicates, clean set, training of the classifier": "training the classifier: .* in ",
    "calibrating, compiling the search": "annotating: ",
    "annotating": "annotating: .* in ",
    "deciding, writing": "written: ",
    "counting by source": "no line: the end",
}
"""Stage -> how the line begins that says that it has ended."""


def family(pid: int) -> Iterator[int]:
    """The process and all that it, or one of these, has started."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for one in found:
        yield one
        found += children.get(one, [])


def memory_gib(pid: int) -> float:
    """Of a process and all that it has started."""
    total = 0
    for one in family(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 2**20


class Run:
    """An annotation under way. times: when it began and when each stage ended; highest: GiB by stage."""

    def __init__(self, command: list[str]) -> None:
        self.times = [time.monotonic()]
        self.highest = dict.fromkeys(STAGES, 0.0)
        self.rates = dict.fromkeys(STAGES, "")
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def follow(self) -> None:
        """Until it ends; exits where it fails."""
        ended = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(ended,))
        sampler.start()
        assert self.process.stderr is not None
        for line in self.process.stderr:
            print(f"{time.monotonic() - self.times[0]:8.1f} s  {line}", end="", file=sys.stderr, flush=True)
            self._hear(line)
        ended.set()
        sampler.join()
        if self.process.wait():
            sys.exit("the annotation failed")
        self._end(len(STAGES))

    def _sample(self, ended: threading.Event) -> None:
        while not ended.wait(1):
            stage = list(STAGES)[len(self.times) - 1]
            self.highest[stage] = max(self.highest[stage], memory_gib(self.process.pid))

    def _hear(self, line: str) -> None:
        for number, (stage, end) in enumerate(STAGES.items(), 1):
            if number >= len(self.times) and re.match(end, line):
                self._end(number)
                if rate := re.search(r"pictures in .*\((.*)/s\)", line):
                    self.rates[stage] = rate[1]

    def _end(self, number: int) -> None:
        """Of so many stages; of those that this run does not have, too."""
        self.times += [time.monotonic()] * (number + 1 - len(self.times))

    def table(self) -> str:
        rows = ["| stage | s | pictures/s | GiB |", "|---|---|---|---|"]
        for stage, began, ended in zip(STAGES, self.times, self.times[1:], strict=False):
            gib = f"{self.highest[stage]:.2f}" if self.highest[stage] else ""
            rows.append(f"| {stage} | {ended - began:.1f} | {self.rates[stage]} | {gib} |")
        rows.append(f"| all | {self.times[-1] - self.times[0]:.1f} | | {max(self.highest.values()):.2f} |")
        return "\n".join(rows)


def main() -> None:
    words = sys.argv[1:]
    mine = words[: words.index("--")] if "--" in words else words
    folder, count = Path(mine[0]), int(mine[1]) if len(mine) > 1 else 1_000_000
    pool = folder / f"pool-{count}"
    began = time.monotonic()
    subprocess.run([sys.executable, Path(__file__).with_name("tiny_pool.py"), pool, str(count)], check=True)
    print(f"the pool: {time.monotonic() - began:.1f} s", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        program = Path(sys.executable).with_name("ambient")
        command = [program, "annotate", pool, "-o", Path(fresh, "manifest.parquet"), "--clean", pool / "clean.zip"]
        run = Run([*map(str, command), "--resolution", str(SIDE), *words[len(mine) + 1 :]])
        run.follow()
    print(run.table())


if __name__ == "__main__":
    main()
