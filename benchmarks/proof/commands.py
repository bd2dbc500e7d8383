"""The command of prove.py that gives the same values again, whatever the folders."""

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

from ambient.train.config import MAY_CHANGE

_TOLD = {*MAY_CHANGE, "num_images", "seed"}  # what changes no value, and what is told by --images and by a job's name


def command(proof: str, settings: list[str], **asked: int | None) -> str:
    """settings: ``key=value``. asked: numbers by the name of their option, None for what is left to the proof."""
    words = ["python", "benchmarks/proof/prove.py", proof, "--data", "DATA", "--work", "WORK", "--out", "OUT"]
    for name, number in asked.items():
        words += [] if number is None else [f"--{name.replace('_', '-')}", str(number)]
    return shlex.join([*words, *(word for setting in settings for word in ("--set", setting))])


def changes(config: dict[str, Any], usual: dict[str, Any]) -> list[str]:
    """The settings, ``key=value``, by which a training's configuration (``to_json``) differs from a usual one."""
    settings, usual_ones = _settings(config), _settings(usual)
    return [f"{key}={value}" for key, value in settings.items() if usual_ones.get(key) != value]


def commit() -> str | None:
    """Of the checkout, ``-dirty`` where it was changed since; None without git or its folder."""
    asked = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        said = subprocess.run(asked, cwd=Path(__file__).parent, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return said.stdout.strip()


def _settings(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted key -> value as ``--set`` takes it."""
    found = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= _settings(value, f"{prefix}{key}.")
        elif key not in _TOLD:
            found[f"{prefix}{key}"] = _text(value)
    return found


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value).replace("null", "none")
