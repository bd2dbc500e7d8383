"""What lies beside a picture: a.json, a.txt and a.cls tell label and caption of a.jpg; dataset.json the labels of all.

The first three as in webdataset's shards, the last as EDM's and StyleGAN's archives have it. What cannot be understood
there tells nothing: the picture is as good without.
"""

import json
import re
from collections.abc import Callable
from typing import Any

EXTENSIONS = ("json", "txt", "cls")
LABELS_FILE = "dataset.json"
LABELS, CAPTIONS = ("label", "cls", "class"), ("caption", "text", "prompt")
"""Names under which they are found in JSON and in columns of tables."""

LABELS_MAX_BYTES = 64 << 20  # the 1.3 million labels of ImageNet take 45 MiB
_MAX_BYTES = 1 << 20  # of one file beside a picture
_CLASSES = range(2**31)

Known = tuple[int | None, str | None]
"""Label and caption."""


def stem_of(path: str, *, first_dot: bool) -> str:
    """A picture's path without what differs between it and the files beside it.

    first_dot: in a tar archive all from the first dot of the name on is the extension (webdataset's rule), elsewhere
    from the last.
    """
    folder, slash, name = path.rpartition("/")
    stem = name.partition(".")[0] if first_dot else name.rpartition(".")[0]
    return f"{folder}{slash}{stem or name}"


def find_beside(path: str, exists: Callable[[str], bool], *, first_dot: bool) -> str:
    """Extensions of the files beside a picture, separated by blanks. exists: whether there is a file of this path."""
    stem = stem_of(path, first_dot=first_dot)
    return " ".join(extension for extension in EXTENSIONS if exists(f"{stem}.{extension}"))


def read_beside(uri: str, beside: str, read: Callable[[str, int], bytes], *, first_dot: bool) -> Known:
    """Label and caption of a picture; .cls and .txt go before .json. read: the first bytes of a uri."""
    stem, label, caption = stem_of(uri, first_dot=first_dot), None, None
    for extension in beside.split():
        try:
            text = read(f"{stem}.{extension}", _MAX_BYTES).decode("utf-8-sig").strip()
            values = json.loads(text) if extension == "json" else {extension: text}
        except Exception:  # noqa: BLE001 (it may be missing by now, or anything at all: then it tells nothing)
            continue
        if extension == "json":
            label, caption = known_from(values)
        elif extension == "txt":
            caption = text or caption
        elif re.fullmatch(r"[+-]?[0-9]{1,10}", text):
            label = as_label(int(text))
    return label, caption


def known_from(values: Any) -> Known:
    """Label and caption among the values of a JSON object or a table's row: the first of the usual names."""
    if not isinstance(values, dict):
        return None, None
    label = next((values[name] for name in LABELS if values.get(name) is not None), None)
    caption = next((values[name] for name in CAPTIONS if values.get(name)), None)
    if isinstance(caption, list):
        caption = caption[0]
    return as_label(label), caption if isinstance(caption, str) else None


def as_label(value: Any) -> int | None:
    """A whole number from 0 to 2^31 - 1, or None. Tables hold whole numbers as floats where some are missing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and value in _CLASSES else None


def labels_from(text: bytes) -> dict[str, Any]:
    """File name -> what is said to be its label, of a ``dataset.json``: {"labels": [[name, label], ...]}.

    Raises ValueError for what is none, or is larger than LABELS_MAX_BYTES.
    """
    if len(text) > LABELS_MAX_BYTES:
        raise ValueError(f"it is larger than {LABELS_MAX_BYTES >> 20} MiB")
    try:
        return dict(json.loads(text)["labels"] or [])
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError("it has no list of names and labels") from error
