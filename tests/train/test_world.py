"""Several processes train together on CPUs: the same weights as one, whatever is spread over them, and clear ends."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ambient.schemas.errors import UserError
from ambient.train import checkpoint
from ambient.train.loop import check_world, train
from ambient.train.networks.ddpmpp import DDPMPPConfig
from ambient.train.networks.edm2 import EDM2Config
from ambient.train.state import parts_of
from ambient.train.world import World
from small_pool import SHORT, write_pool

CONFIG = SHORT

BF16 = {
    f"bf16-{name}": replace(CONFIG, precision="bf16", sharding="fsdp", sample_count=0, network=network)
    for name, network in {
        "unet": CONFIG.network,
        "ddpmpp": DDPMPPConfig(channels=8, multipliers=(1, 2), blocks=1, dropout=0.0),
        "edm2": EDM2Config(channels=8, multipliers=(1, 2), blocks=1),
    }.items()
}
"""Runs by their names."""

LONG = replace(CONFIG, num_images=8000)  # more than a test waits for

SCRIPT = """
import os, sys, time, torch
from dataclasses import replace
from pathlib import Path
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_world import BF16, CONFIG, LONG
from ambient.curate import images
from ambient.schemas.errors import UserError
from ambient.train.loop import train
from ambient.train.state import State
if os.environ["RANK"] != "0":
    State.to_checkpoint = None  # only the first one has memory for a copy
looks, load = [], images.load
images.load = lambda uri, *how: (looks.append(uri), load(uri, *how))[1]
manifest, out = Path(sys.argv[2]), Path(sys.argv[3])
for name, port in zip(sys.argv[4:], os.environ["PORTS"].split(","), strict=True):
    os.environ["MASTER_PORT"] = port
    config, stop = BF16.get(name, CONFIG), lambda: False
    if name.startswith("fsdp"):
        config = replace(CONFIG, sharding="fsdp")
    if name.startswith("slow"):
        config, stop = replace(LONG, sharding=name.removeprefix("slow-")), lambda: bool(time.sleep(0.02))
    try:
        train(manifest, out / name, config, device="cpu", stop=stop)
    except UserError as error:
        sys.exit(f"UserError: {error}")
    print(name, len(looks), flush=True)
"""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(tmp_path_factory.mktemp("world"))


def free_ports(num: int) -> list[str]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(num)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [str(one.getsockname()[1]) for one in sockets]


def start(manifest: Path, *runs: str, size: int = 2) -> list[subprocess.Popen[str]]:
    """The processes that torchrun would start, each training these runs in turn."""
    ports = ",".join(free_ports(len(runs)))  # a port of its own for each run, or one would meet the end of the last
    here = Path(__file__)
    processes = []
    for rank in range(size):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(here.parent), str(here.parents[1]), *sys.path]),
            "MASTER_ADDR": "localhost",
            "PORTS": ports,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "XDG_CACHE_HOME": str(manifest.parent / "cache"),
        }
        command = [sys.executable, "-c", SCRIPT, str(here.parent), str(manifest), str(manifest.parent), *runs]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    return processes


def assert_close_runs(a: Path, b: Path) -> None:
    """The same newest checkpoint up to the order of sums."""
    left, right = (checkpoint.read(checkpoint.folders(run)[-1], parts_of(CONFIG)) for run in (a, b))
    assert left.num_images == right.num_images == 96
    for part in ("weights", "ema0", "ema1"):
        for name, tensor in left.parts[part].items():
            torch.testing.assert_close(tensor, right.parts[part][name], rtol=1e-3, atol=2e-4)


def test_two_processes_reach_what_one_does_and_any_number_continues(manifest: Path) -> None:
    alone = manifest.parent / "alone"
    train(manifest, alone, CONFIG, device="cpu")
    half = manifest.parent / "half"
    steps = iter(range(100))
    train(manifest, half, CONFIG, device="cpu", stop=lambda: next(steps) == 6)
    assert checkpoint.folders(half)[-1].name == "000000000048"
    shutil.copytree(half, manifest.parent / "fsdp-half")
    processes = start(manifest, "two", "fsdp", "half", "fsdp-half")
    looks = []
    for process in processes:
        out, error = process.communicate(timeout=200)
        assert process.returncode == 0, error
        looks.append([int(line.split()[1]) for line in out.splitlines()])
    assert looks == [[12, 20, 28, 36], [0, 0, 0, 0]]  # decoded once, by one; compared in eight pictures later
    for name in ("two", "fsdp", "half", "fsdp-half"):
        assert_close_runs(manifest.parent / name, alone)
        assert sorted(p.name for p in (manifest.parent / name / "samples").iterdir()) == sorted(
            p.name for p in (alone / "samples").iterdir()
        )
    lines = {
        name: [json.loads(line) for line in (manifest.parent / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("alone", "two", "fsdp")
    }
    for name in ("two", "fsdp"):
        for one, other in zip(lines["alone"], lines[name], strict=True):
            assert one["images"] == other["images"]
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
            assert one["by_use"].keys() == other["by_use"].keys()
    steps = iter(range(100))
    continued = replace(CONFIG, sharding="fsdp")  # what FSDP wrote, one process reads
    assert train(manifest, manifest.parent / "fsdp", continued, device="cpu").name == "000000000096"


def test_every_network_is_spread_in_bfloat16(manifest: Path) -> None:
    processes = start(manifest, *BF16)
    for name, config in BF16.items():
        train(manifest, manifest.parent / "alone" / name, config, device="cpu")
    for process in processes:
        _, error = process.communicate(timeout=200)
        assert process.returncode == 0, error
    for name in BF16:
        spread, alone = (
            [json.loads(line)["loss"] for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
            for folder in (manifest.parent, manifest.parent / "alone")
        )
        assert spread == pytest.approx(alone, rel=0.02)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_a_killed_process_ends_the_others_in_one_line_and_one_continues(manifest: Path, sharding: str) -> None:
    first, second = start(manifest, f"slow-{sharding}")
    run = manifest.parent / f"slow-{sharding}"
    deadline = time.monotonic() + 120
    while not checkpoint.folders(run):
        assert first.poll() is None, first.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    _, error = first.communicate(timeout=60)
    assert first.returncode == 1
    assert error.splitlines()[-1].startswith("UserError: another process of this run has ended")
    for folder in checkpoint.folders(run):
        found = checkpoint.read(folder, parts_of(CONFIG)).num_images
    steps = iter(range(100))
    assert int(train(manifest, run, LONG, device="cpu", stop=lambda: next(steps) == 3).name) == found + 3 * 8


def test_a_picture_that_cannot_be_read_ends_both_in_its_words(tmp_path: Path) -> None:
    manifest = write_pool(tmp_path)
    (tmp_path / "pool" / "007.png").unlink()
    for process in start(manifest, "gone"):
        _, error = process.communicate(timeout=60)
        assert process.returncode != 0
        assert "UserError: '007.png' was usable when the pool was annotated and now is not" in error


STUCK = """
import ctypes
from ambient.curate.signals import until_signal
from ambient.train.world import joined
until_signal()
with joined("cpu"):
    print("waits", flush=True)
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):  # the second never returns, and no signal handler runs meanwhile
        ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""


def test_a_process_that_waits_for_its_device_ends_when_another_is_killed() -> None:
    port = free_ports(1)[0]
    common = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STUCK],
            env={**common, "RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        assert process.stdout and process.stdout.readline() == "waits\n"
    processes[1].kill()
    processes[0].terminate()  # as torchrun does
    _, error = processes[0].communicate(timeout=60)
    processes[1].communicate()
    assert processes[0].returncode == 1
    assert error.splitlines()[-1].startswith("ambient: another process of this run has ended")


LEAVES = """
import sys, threading
from ambient.schemas.errors import UserError
from ambient.train.world import joined
try:
    with joined("cpu") as world:
        if world.rank == 0:
            raise UserError("wrong")
        print("stays", flush=True)
        sys.stdin.read()
except UserError:
    print(threading.active_count())
"""


def test_no_thread_is_left_of_a_process_that_leaves_alone() -> None:
    """Python aborts where it ends while a thread comes back from C++, which is when the others end, too."""
    common = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MASTER_ADDR": "localhost"}
    common |= {"MASTER_PORT": free_ports(1)[0], "WORLD_SIZE": "2"}
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", LEAVES],
            env={**common, "RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    )
    try:
        assert first.communicate(timeout=60)[0] == "1\n"
        assert second.stdout and second.stdout.readline() == "stays\n"
        assert second.poll() is None
    finally:
        second.kill()
        second.communicate()


def test_what_the_user_can_put_right_is_one_line_of_all_processes(tmp_path: Path) -> None:
    manifest = write_pool(tmp_path)
    (tmp_path / "pool").rename(tmp_path / "moved")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "ambient.cli", "train", str(manifest), "-o", str(tmp_path / "run"), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1  # torchrun's
    assert ended.stderr.count("pool is gone") == ended.stderr.count("ambient: ") == 1, ended.stderr
    assert "SIGABRT" not in ended.stderr
    assert "terminate called" not in ended.stderr
    assert ended.stderr.count("exitcode  : 2") >= 1


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size 8 is not a multiple of the 3 processes"):
        check_world(CONFIG, World(rank=0, size=3, device=torch.device("cpu")))
