"""What a record says of how it was made: its command is of the day, and defaults have changed since."""

import argparse
import json
from importlib import import_module
from typing import Any

import tasks
from ablations import ABLATIONS
from ambient.train.config import TrainConfig
from commands import changes, command

Result = dict[str, Any]

_BEFORE = "-before"  # ends the labels of what was trained by code that is gone


def command_of(run: Result) -> str:
    """What trains and measures this, and what it is compared with, by the code and the defaults of today."""
    usual_size = import_module(run["proof"]).NUM_PICTURES
    return command(
        run["proof"],
        changed(run),
        images=run["config"]["num_images"],
        samples=run["samples"],
        pool_size=run.get("pool_size", usual_size and run["reference"]["pictures"]),
        **annotated(run),
    )


def config_of(run: Result) -> dict[str, Any]:
    """How it was trained. A size of the network that there was not yet has the value that changes nothing."""
    whole = TrainConfig.from_json({"network": run["config"]["network"]}).to_json()
    return {**run["config"], "network": json.loads(json.dumps(whole["network"]))}


def annotated(run: Result) -> dict[str, int]:
    """As ``tasks.annotated``; records of what is shared by all rows did not tell, but were never asked otherwise."""
    found: dict[str, int] = run.get("annotated", {"draws": tasks.DRAWS, "steps": tasks.STEPS})
    return found


def changed(run: Result) -> list[str]:
    """The settings, ``key=value``, that are not those of today for this proof and label."""
    job = tasks.Job(row=run["row"], label=run["label"].removesuffix(_BEFORE), seed=run["seed"])
    options = argparse.Namespace(images=run["config"]["num_images"], device="cpu", settings=[])
    usual = tasks.training_of(import_module(run["proof"]).SETTINGS, job, options)
    return changes(config_of(run), usual.to_json())


def runnable(label: str) -> bool:
    """Whether there is code for it still."""
    return label in (*tasks.SIMPLE, *ABLATIONS)
