"""``ambient doctor``: what is here to work with, and whether it computes what it should."""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import tomllib
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import torch
from rich.console import Console

from ..curate.device import choose_device
from .pictures import host_memory
from .selftest import self_test

_LOW_DISK, _LOW_MEMORY = 5 * 2**30, 2 * 2**30
_GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One line of the report. ok: None where there is nothing to judge. advice: what to do where ok is False."""

    group: str
    name: str
    value: str
    ok: bool | None = None
    advice: str = ""


def doctor(*, device: str = "auto") -> list[Check]:
    """Look at the machine, its GPUs, packages and weights, and run the self-test on the device, and on the CPU.

    Raises UserError for a device that is not there. Takes about ten seconds on a CPU.
    """
    place = choose_device(device)
    return [*_machine(), *_gpus(), *_packages(), *_weights(), *_self_tests(place)]


def print_checks(checks: list[Check], *, as_json: bool = False) -> None:
    """Print the report on stdout: groups, and what to do about what is wrong; or one JSON object a line."""
    if as_json:
        sys.stdout.writelines(json.dumps(asdict(check)) + "\n" for check in checks)
        return
    console = Console(highlight=False, emoji=False, soft_wrap=True)
    width = max(len(check.name) for check in checks)
    for group, members in groupby(checks, key=lambda check: check.group):
        console.print(f"\n{group}", style="bold", markup=False)
        for check in members:
            mark = {None: "    ", True: "ok  ", False: "BAD "}[check.ok]
            style = "red" if check.ok is False else None
            console.print(f"  {mark}{check.name.ljust(width)}  {check.value}", style=style, markup=False)
    advice = dict.fromkeys(f"{check.name}: {check.advice}" for check in checks if check.ok is False)
    console.print("\n" + ("\n".join(advice) or "all is well"), markup=False)


def _machine() -> list[Check]:
    memory, disk = host_memory(), shutil.disk_usage(".").free
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        Check(group="machine", name="python", value=f"{platform.python_version()}, {platform.platform()}"),
        Check(group="machine", name="cpu", value=f"{cores} cores, {torch.backends.cpu.get_cpu_capability()}"),
        Check(
            group="machine",
            name="memory",
            value=f"{memory / _GIB:.1f} GiB free",
            ok=memory >= _LOW_MEMORY,
            advice="pictures are kept in memory while training: close what else is running",
        ),
        Check(
            group="machine",
            name="disk",
            value=f"{disk / _GIB:.1f} GiB free in {Path.cwd()}",
            ok=disk >= _LOW_DISK,
            advice="manifests and checkpoints need room: free some, or work elsewhere",
        ),
    ]


def _gpus() -> list[Check]:
    built = torch.version.cuda
    target = f"CUDA {built}" if built else "CPU"
    torch_says = Check(group="machine", name="torch", value=f"{torch.__version__}, built for {target}")
    if not torch.cuda.is_available():
        seen = "no GPU that PyTorch can use" + (": is the driver there (nvidia-smi)?" if built else "")
        return [torch_says, Check(group="machine", name="gpu", value=f"{seen}; everything runs on the CPU")]
    gpus = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        value = f"{properties.name}, compute {properties.major}.{properties.minor}, "
        value += f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free, bf16 {'yes' if properties.major >= 8 else 'no'}"
        gpus.append(Check(group="machine", name=f"cuda:{index}", value=value, ok=True))
    return [torch_says, *gpus]


def _packages() -> list[Check]:
    """Every package that this one requires, with its version."""
    checks = []
    for requirement in _requirements():
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        lowest = re.search(r">=\s*([\d.]+)", requirement)
        advice = f"pip install '{requirement}'"
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            checks.append(Check(group="packages", name=name, value="missing", ok=False, advice=advice))
        else:
            new_enough = lowest is None or _numbers(version) >= _numbers(lowest[1])
            checks.append(Check(group="packages", name=name, value=version, ok=new_enough, advice=advice))
    return checks


def _requirements() -> list[str]:
    """Of the installed distribution, or of the checkout that this file lies in."""
    project = Path(__file__).parent.parent / "pyproject.toml"
    if project.exists():
        listed: list[str] = tomllib.loads(project.read_text())["project"]["dependencies"]
        return listed
    return [r for r in importlib.metadata.requires("ambient-omni") or [] if "extra ==" not in r]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _weights() -> list[Check]:
    """Pretrained weights in the caches of PyTorch and Hugging Face. Nothing here needs them unless asked for."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or caches / "huggingface") / "hub")
    checks = []
    for place in (Path(torch.hub.get_dir()), hub):
        files = sorted(p for p in place.rglob("*") if p.is_file() and not p.is_symlink() and p.stat().st_size > 2**20)
        found = ", ".join(f"{_weight_name(p, hub)} ({p.stat().st_size / 2**20:,.0f} MiB)" for p in files[:12])
        more = f" and {len(files) - 12} more" if len(files) > 12 else ""
        checks.append(Check(group="weights", name=str(place), value=(found + more) or "none"))
    return checks


def _weight_name(path: Path, hub: Path) -> str:
    """The file's name, or, of a blob of Hugging Face's cache, its repository's."""
    if path.is_relative_to(hub):
        return path.relative_to(hub).parts[0].removeprefix("models--").replace("--", "/")
    return path.name


def _self_tests(place: torch.device) -> list[Check]:
    places = [torch.device("cpu")] if place.type == "cpu" else [torch.device("cpu"), place]
    return [check for where in places for check in _self_test(where)]


def _self_test(place: torch.device) -> list[Check]:
    group, start = f"self-test on {place}", time.perf_counter()
    advice = "results on this machine would differ: reinstall PyTorch, try another --device, and report it"
    try:
        with tempfile.TemporaryDirectory(prefix="ambient-doctor-") as folder:
            comparisons = self_test(Path(folder), place)
    except Exception as error:  # noqa: BLE001 (whatever is broken here is what the user wants to know)
        failed = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return [Check(group=group, name="run", value=failed, ok=False, advice=advice)]
    elapsed = time.perf_counter() - start
    checks = [
        Check(
            group=group,
            name=c.name,
            value=f"{c.found:.6g}" if c.ok else f"{c.found:.6g} instead of {c.expected:.6g} +- {c.tolerance:.1g}",
            ok=c.ok,
            advice=advice,
        )
        for c in comparisons
    ]
    return [*checks, Check(group=group, name="time", value=f"{elapsed:.1f} s")]
