"""Speed of the training step: the whole one, from the manifest, against the same step on one constant batch.

    python benchmarks/train_step.py cifar10
    python benchmarks/train_step.py imagenet512-xs --set batch_size=256
    python benchmarks/train_step.py cifar10 --set pictures=stream                # what the data path costs from there
    torchrun --nproc-per-node 2 benchmarks/train_step.py cifar10 --set batch_size=1024
    python benchmarks/train_step.py small --set network.channels=64 --profile    # which kernels take the time

Pictures are random: 32 x 32 PNG files on disk, or latents in memory. One JSON line a run.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
import torch._inductor.config
from ambient.schemas.space import Space
from ambient.train.backward import Backward
from ambient.train.batches import batches, conditions
from ambient.train.config import TrainConfig
from ambient.train.device import compile_network, should_compile, use_fast_kernels
from ambient.train.loop import build_backward, build_sampler, step
from ambient.train.monitor import Monitor
from ambient.train.pictures import Pictures, Stored, open_pictures, with_pictures
from ambient.train.rows import Rows, read_rows
from ambient.train.state import State, new_state
from ambient.train.world import World, joined
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from small_pool import write_pool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--pictures", type=int, default=4096)
    parser.add_argument("--channels", type=int, default=3, help="of the pictures")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--mode", help="of torch.compile; reduce-overhead replays the network as CUDA graphs")
    parser.add_argument(
        "--inductor",
        action="append",
        default=[],
        help="NAME=VALUE of torch._inductor.config for the network, to try out; repeatable",
    )
    parser.add_argument("--cudnn-trials", type=int, help="algorithms that cuDNN tries for each convolution, to try out")
    parser.add_argument("--profile", action="store_true", help="also print the kernels that take most of a step")
    parser.add_argument("--peak", type=float, default=790.0, help="TFLOP/s that the chip's matrix products reach")
    arguments = parser.parse_args()
    config = TrainConfig.from_settings(arguments.settings, preset=arguments.preset)
    inductor = dict(map(parsed, arguments.inductor))
    if arguments.mode and inductor:
        parser.error("--mode and --inductor exclude each other")
    with joined(arguments.device) as world, tempfile.TemporaryDirectory() as folder:
        rows, pictures = prepare(config, arguments.pictures, arguments.channels, Path(folder), world)
        state = new_state(config, rows.space, world)
        use_fast_kernels(world.device)
        if arguments.cudnn_trials is not None:
            torch.backends.cudnn.benchmark_limit = arguments.cudnn_trials
        if compiled := should_compile(world.device, config.compile, config.num_images):
            if arguments.mode:
                state.denoiser.network.compile(dynamic=False, mode=arguments.mode)
            else:
                compile_network(state.denoiser.network, inductor)
        figures = measure(
            state, config, rows, pictures, world, arguments.steps, compiled=compiled, profile=arguments.profile
        )
    if world.is_first:
        flops = 3 * forward_flops(config, rows.space)
        tflops = figures["pictures_per_s"] * flops / world.size / 1e12
        about = {
            "preset": arguments.preset,
            "set": arguments.settings,
            "mode": arguments.mode,
            "inductor": arguments.inductor,
            "cudnn_trials": torch.backends.cudnn.benchmark_limit,
            "gpus": world.size,
            "torch": torch.__version__,
        }
        share = {"tflops_per_gpu": round(tflops, 1), "share_of_peak": round(tflops / arguments.peak, 3)}
        print(json.dumps({**about, **figures, "gflop_per_picture": round(flops / 1e9, 1), **share}), flush=True)


def parsed(setting: str) -> tuple[str, object]:
    """``triton.autotune_pointwise=false`` as a name and a value of JSON."""
    name, _, value = setting.partition("=")
    if not hasattr(torch._inductor.config, name):
        sys.exit(f"torch._inductor.config has no {name!r}")
    return name, json.loads(value)


def prepare(config: TrainConfig, num: int, channels: int, folder: Path, world: World) -> tuple[Rows, Pictures]:
    """A manifest whose pictures are one tenth clean, and the pictures on the device."""
    latent = config.network.__class__.__name__ == "EDM2Config"
    side = config.resolution or 32
    space = Space(resolution=side, channels=channels)
    floors = [(0.0, 0.2, 2.0, 6.0, 0.5, 0.2, 2.0, 6.0, 0.5, 1.0)[i % 10] for i in range(num)]
    labels = [i % max(1, config.num_classes) for i in range(num)]
    rows = read_rows(write_pool(folder, num=num, space=space, sigma_min=floors, labels=labels))
    if not latent:
        return rows, open_pictures(rows, world.device, place=config.pictures, workers=8)
    space = Space(resolution=side, channels=4, kind="latent", vae="random")
    latents = 0.5 * torch.randn(num, *space.shape, dtype=torch.float16, device=world.device)
    rows = Rows(**{name: getattr(rows, name) for name in Rows.__dataclass_fields__} | {"space": space})
    return rows, Stored(pixels=latents)


def measure(
    state: State,
    config: TrainConfig,
    rows: Rows,
    pictures: Pictures,
    world: World,
    steps: int,
    *,
    compiled: bool,
    profile: bool = False,
) -> dict[str, object]:
    monitor = Monitor(config.batch_size // world.size, world)
    backward = build_backward(state, rows, config, world, compiled=compiled)
    sampler, classes = build_sampler(rows, config), conditions(rows, config.num_classes)
    stream = with_pictures(
        batches(rows, sampler, classes, config, start=0, world=world, pictures_on=pictures.device),
        pictures,
        world.device,
    )
    begin = time.perf_counter()
    constant = next(stream)
    step(state, *constant, config, world, monitor, backward)
    synchronize(world)
    first, phases = time.perf_counter() - begin, compile_phases()
    if world.device.type == "cuda":
        torch._dynamo.config.error_on_recompile = True
    for batch in islice(stream, 5):
        step(state, *batch, config, world, monitor, backward)
    whole, same = [], []
    for _ in range(3):  # in turn, so that a clock that drifts meets both
        whole.append(timed(islice(stream, steps), steps, state, config, world, monitor, backward))
        same.append(timed((constant for _ in range(steps)), steps, state, config, world, monitor, backward))
    best, best_same = min(whole), min(same)
    if profile:
        print_kernels(lambda: step(state, *constant, config, world, monitor, backward), world)
    memory = torch.cuda.max_memory_allocated(world.device) / 2**30 if world.device.type == "cuda" else 0.0
    return {
        "pictures_per_s": round(steps * config.batch_size / best, 1),
        "ms_per_step": round(1000 * best / steps, 2),
        "data_path_share": round(1 - best_same / best, 4),
        "first_step_s": round(first, 1),
        "compile_s": phases,
        "memory_gib": round(memory, 1),
        "loss": round(monitor.read().loss, 4),
    }


def compile_phases() -> dict[str, float]:
    """Seconds of the compiler's phases that took two or more; some lie inside others."""
    names, seconds = torch._dynamo.utils.compile_times(repr="csv", aggregate=True)
    return {name: round(float(s), 1) for name, s in zip(names, seconds, strict=True) if float(s) >= 2}


def timed(  # type: ignore[no-untyped-def]
    stream, steps: int, state: State, config: TrainConfig, world: World, monitor: Monitor, backward: Backward
) -> float:
    """Seconds for all steps of a stream of (batch, pictures), which must have so many."""
    synchronize(world)
    begin, done = time.perf_counter(), 0
    for batch, w0 in stream:
        step(state, batch, w0, config, world, monitor, backward)
        done += 1
    synchronize(world)
    if done < steps:
        sys.exit(f"the run is over after {done} of {steps} steps: set a larger num_images")
    return time.perf_counter() - begin


def print_kernels(work: Callable[[], None], world: World, times: int = 5) -> None:
    """Where the time of a step on one constant batch goes, on the device and on the CPU."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if world.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(times):
            work()
        synchronize(world)
    order = "self_cuda_time_total" if world.device.type == "cuda" else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=70), file=sys.stderr)


def synchronize(world: World) -> None:
    world.wait()
    if world.device.type == "cuda":
        torch.cuda.synchronize()


def forward_flops(config: TrainConfig, space: Space) -> float:
    """Multiplications and additions of one picture's way through the network."""
    from ambient.train.networks.kinds import build_network

    network = build_network(
        config.network, channels=space.channels, resolution=space.resolution, num_classes=config.num_classes
    )
    condition = torch.zeros(1, dtype=torch.int64) if config.num_classes else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *space.shape), torch.zeros(1), condition)
    return counter.get_total_flops()


if __name__ == "__main__":
    main()
