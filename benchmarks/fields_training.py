"""Does obeying the thresholds help? Gaussian fields, 2 % clean and 98 % blurred, against the optimal denoiser.

    python benchmarks/fields_training.py --name cpu --minutes 8                           # again until nothing is left
    python benchmarks/fields_training.py --name h200 --resolution 32 --fields 50000 --images 240000 --seeds 3
    python benchmarks/fields_training.py --name mild --fields 150000 --images 240000 --blurs 0.1,0.15,0.2
    python benchmarks/fields_training.py --name wide --resolution 64 --fields 5000 --images 240000 --blurs 0.05,0.1,16
    python benchmarks/fields_training.py --name strict --epsilon 0.01 ...                     # the last, strict
    python benchmarks/fields_training.py --name cpu --draw                                # plot and table alone

The error of a denoiser on fresh clean fields, in excess of the Wiener filter's, which nothing can beat. Arms: the clean
fields only; all fields as if clean; all fields above the noise level from which the best possible classifier cannot
tell them from clean ones (``sigma_min``), with the ambient and with the plain target. Every finished run is a line of
docs/fields/NAME.jsonl and is not trained again; docs/fields.md and docs/fields/NAME.png are made of these.
"""

import argparse
import json
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from ambient.curate.device import choose_device
from ambient.curate.noise import names_of
from ambient.schemas.space import Space
from ambient.train.batches import batches
from ambient.train.config import TrainConfig
from ambient.train.device import compile_network, should_compile, use_fast_kernels
from ambient.train.loop import build_backward, build_sampler, step
from ambient.train.monitor import Monitor
from ambient.train.networks.unet import UNetConfig
from ambient.train.pictures import Stored, with_pictures
from ambient.train.precondition import Denoiser
from ambient.train.rows import Rows
from ambient.train.state import State, load_weights, new_state
from ambient.train.target import fresh_noise
from ambient.train.world import World
from fields_ideal import ARMS, BLURS, ideal_excess, oracle_sigma_min
from fields_page import write_page
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fields import Fields

LEVELS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 15.0, 20.0, 40.0)
DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """resolution: of the fields. num: how many, a fiftieth of them clean, the others blurred by ``blurs`` pixels in
    equal parts. images: training pictures of a run. epsilon: how far below 0.5 thresholds cross."""

    resolution: int
    num: int
    images: int
    channels: int
    blurs: tuple[float, ...] = BLURS
    epsilon: float = 0.05

    @property
    def fields(self) -> Fields:
        return Fields(resolution=self.resolution)

    @property
    def space(self) -> Space:
        return Space(resolution=self.resolution, channels=1)

    def config(self, arm: str, seed: int, device: torch.device) -> TrainConfig:
        return TrainConfig(
            num_images=self.images,
            batch_size=512 if device.type == "cuda" else 128,
            lr=2e-3,
            warmup_images=self.images // 20,
            P_mean=-0.3,
            P_std=1.2,
            keep_composition=False,
            target=ARMS[arm].target,
            seed=seed,
            network=UNetConfig(channels=self.channels, multipliers=(1, 2, 2), blocks=1),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True, help="of the results: docs/fields/NAME.jsonl")
    parser.add_argument("--resolution", type=int, default=16)
    parser.add_argument("--fields", type=int, default=15_000)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--blurs", type=numbers, default=BLURS, help="in pixels, with commas between")
    parser.add_argument("--epsilon", type=float, default=0.05, help="of the thresholds, as of `ambient annotate`")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0, help="to share seeds out among programs, each its --name")
    parser.add_argument("--minutes", type=float, default=60.0, help="after these no further run is begun")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=DOCS / "fields")
    parser.add_argument("--draw", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.draw:
        train_all(arguments)
    if arguments.out == DOCS / "fields":
        write_page(DOCS)


def train_all(arguments: argparse.Namespace) -> None:
    """Train what is not recorded yet, seed by seed, so that every arm has as many."""
    begin = time.perf_counter()
    path = arguments.out / f"{arguments.name}.jsonl"
    setting = Setting(
        resolution=arguments.resolution,
        num=arguments.fields,
        images=arguments.images,
        channels=arguments.channels,
        blurs=arguments.blurs,
        epsilon=arguments.epsilon,
    )
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if any(set_of(record) != setting for record in records):
        sys.exit(f"{path} holds runs of another setting: choose another --name")
    done = {(record["arm"], record["seed"]) for record in records}
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    left = [(a, s) for s in seeds for a in ARMS if (a, s) not in done]
    device = choose_device(arguments.device)
    use_fast_kernels(device)
    floors = {blur: oracle_sigma_min(setting.fields, blur, setting.epsilon, device) for blur in setting.blurs}
    ideal: dict[str, dict[str, float]] = {}
    compiled: Denoiser | None = None
    for arm, seed in left:
        if time.perf_counter() - begin > 60 * arguments.minutes:
            break
        since = time.perf_counter()
        state = new_state(setting.config(arm, seed, device), setting.space, World(rank=0, size=1, device=device))
        if should_compile(device, "auto", setting.images * len(left)):
            compiled = share_compiled(state, compiled)
        train(state, setting, arm, seed, floors, device)
        excess = {str(level): excess_error(state.average, setting, level, device) for level in LEVELS}
        if arm not in ideal:
            ideal[arm] = {str(level): ideal_excess(setting.fields, arm, floors, level, device) for level in LEVELS}
        record = {
            "arm": arm,
            "seed": seed,
            "setting": asdict(setting),
            "excess": excess,
            "ideal": ideal[arm],
            "sigma_min": floors,
            "seconds": round(time.perf_counter() - since),
            "hardware": torch.cuda.get_device_name() if device.type == "cuda" else "one CPU thread",
            "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d"),
            "command": shlex.join(["python", *sys.argv]),
        }
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        said = ", ".join(f"{level}: {value:.2%}" for level, value in excess.items())
        print(f"{arm}, seed {seed}, {record['seconds']} s: {said}", file=sys.stderr, flush=True)


def numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def set_of(record: dict[str, Any]) -> Setting:
    """The setting of a recorded run; the oldest do not name their blurs, nor epsilon."""
    told = dict(record["setting"])
    return Setting(**told | {"blurs": tuple(told.get("blurs", BLURS))})


def share_compiled(state: State, compiled: Denoiser | None) -> Denoiser:
    """Have the state train the network that is compiled already, from its own first weights."""
    if compiled is None:
        compile_network(state.denoiser.network)
        return state.denoiser
    load_weights(compiled, state.denoiser.state_dict())
    state.optimizer.param_groups[0]["params"] = list(compiled.parameters())
    state.denoiser = compiled
    return compiled


def train(
    state: State, setting: Setting, arm: str, seed: int, floors: dict[float, float], device: torch.device
) -> None:
    """One arm to its end."""
    config, fields = setting.config(arm, seed, device), setting.fields
    num_clean = setting.num // 50
    parts, sigma_min = [fields.draw(num_clean, seed=100 + seed)], [torch.zeros(num_clean)]
    if ARMS[arm].rows == "all":
        per_blur = (setting.num - num_clean) // len(setting.blurs)
        for k, blur in enumerate(setting.blurs):
            parts.append(fields.draw(per_blur, blur=blur, seed=1000 + 10 * seed + k))
            sigma_min.append(torch.full((per_blur,), floors[blur] if ARMS[arm].obeys else 0.0))
    rows = rows_of(torch.cat(sigma_min), setting.space)
    pictures = Stored(pixels=torch.cat(parts).to(device))
    world = World(rank=0, size=1, device=device)
    monitor, backward = Monitor(config.batch_size, world), build_backward(state, rows, config, world)
    stream = batches(rows, build_sampler(rows, config), None, config, start=0, world=world, pictures_on=pictures.device)
    for batch, w0 in with_pictures(stream, pictures, device):
        step(state, batch, w0, config, world, monitor, backward)
    monitor.read()


def rows_of(sigma_min: Tensor, space: Space) -> Rows:
    num = len(sigma_min)
    ids = pa.chunked_array([pa.array([f"{i:032x}"[::-1] for i in range(num)])])
    return Rows(
        space=space,
        roots={},
        uris=ids,
        ids=ids,
        names=names_of(ids),
        sigma_min=sigma_min,
        sigma_max=torch.zeros(num),
        clean=sigma_min == 0,
        pool_share=torch.zeros(2, 0),
        labels=torch.full((num,), -1),
        fingerprint="",
    )


@torch.no_grad()
def excess_error(denoiser: Denoiser, setting: Setting, sigma: float, device: torch.device, num: int = 2048) -> float:
    """Mean of ||D - D_opt||^2 over fresh clean fields, relative to the error that no denoiser can avoid."""
    fields = setting.fields
    x = fields.draw(num, seed=7) + sigma * fresh_noise(torch.arange(num), setting.space.shape, seed=99)
    best = fields.optimal_denoiser(x, torch.tensor([sigma]))
    found = [denoiser(part.to(device), torch.tensor(sigma, device=device)).cpu() for part in x.split(512)]
    return float((torch.cat(found) - best).square().mean()) / fields.optimal_error(sigma)


if __name__ == "__main__":
    main()
