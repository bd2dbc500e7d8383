"""The log of a run, metrics.jsonl: a line of JSON for each entry."""

import json
from pathlib import Path
from typing import Any

from ..curate.whole import write_whole


def append(path: Path, line: dict[str, Any]) -> None:
    """Add one line."""
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def cut(path: Path, num_images: int) -> None:
    """Remove lines beyond num_images, and a last one cut short by a kill, so that a resumed run repeats none."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["images"] > num_images:
            break
        kept.append(line)
    write_whole(path, "".join(kept).encode())
