"""What words of the command line say where one word says several things."""

from pathlib import Path

from ..schemas.errors import UserError
from .remote import address
from .uris import Roots

MOST_NUMBERS = 10**8
"""That one option may name."""


def named(texts: list[str] | None, option: str, form: str) -> dict[str, str]:
    """What ``name=value`` options say. form: what an error says that they look like."""
    found = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise UserError(f"{option} is written {form}, not {text!r}")
        found[name] = value
    return found


def names_in(text: str | None) -> tuple[str, ...]:
    """``a, b`` as its names; nothing, or an empty text, has none."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def moved_roots(texts: list[str] | None) -> Roots:
    """``--root name=path`` options: absolute paths and urls by name."""
    return {name: address(Path(path)) for name, path in named(texts, "--root", "name=path").items()}


def numbers(text: str, option: str) -> list[int]:
    """``1,5,9-12`` as [1, 5, 9, 10, 11, 12]."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not first.isdecimal() or not last.isdecimal() or int(last) < int(first):
            raise UserError(f"{option} is written as numbers and ranges, such as 0-49999 or 1,5,9-12, not {text!r}")
        if (count := int(last) + 1 - int(first) + len(found)) > MOST_NUMBERS:
            raise UserError(f"{option} names {count:,} numbers: name at most {MOST_NUMBERS:,} at a time")
        found += range(int(first), int(last) + 1)
    return found
