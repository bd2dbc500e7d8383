"""What a pool holds beside its pictures, and what was told of these and is of no use: counted, and said."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .beside import as_label
from .candidates import Candidates

_NO_LABEL = -1  # as the library ``datasets`` writes it
_SHOWN = 40  # characters of a value


@dataclass(slots=True)
class Aside:
    """files: extension ("" for none) -> files that are no pictures. hidden: files and folders left out by their names.

    labels: place, such as a column's name -> labels there that are no whole numbers from 0 to 2^31 - 1; examples: one
    of each. notes: whatever else is worth a line.
    """

    files: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def look_at_label(self, value: Any, place: str) -> None:
        """Count a label that says something and is none."""
        if as_label(value) is not None or value is None or value == _NO_LABEL or _is_nan(value):
            return
        self.labels[place] += 1
        self.examples.setdefault(place, shortened(repr(value)))

    def note(self, line: str) -> None:
        """Keep a line, once."""
        if line not in self.notes:
            self.notes.append(line)

    def warnings(self) -> list[str]:
        """A line for each place where something was told in vain."""
        some = [
            f"labels in {place} that are left out: {count:,}, such as {self.examples[place]}; "
            "a label is a whole number from 0 on"
            for place, count in self.labels.items()
        ]
        return [*some, *self.notes]


def unlabelled(candidates: Candidates, records: pa.Table) -> int:
    """How many usable pictures have a .cls file beside them that gives them no label. records: of the candidates."""
    told = pc.match_substring(candidates.beside.cast(pa.string()), "cls")
    usable = pc.equal(records["status"].cast(pa.string()), "ok")
    return int(pc.sum(pc.and_(pc.and_(told, usable), pc.is_null(records["label"]))).as_py() or 0)


def shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
