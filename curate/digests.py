"""What content is known by: BLAKE2b-128 in hex, 32 digits."""

import hashlib
import json
from pathlib import Path
from typing import Any

from ..schemas.errors import UserError


def of_bytes(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def of_json(value: Any) -> str:
    """Of a JSON value, whatever the order of its keys."""
    return of_bytes(json.dumps(value, sort_keys=True).encode())


def of_file(path: Path) -> str:
    """Of the bytes of a file, a part at a time. Raises UserError where there is no file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
