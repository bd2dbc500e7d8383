"""Does obeying the thresholds help? Gaussian fields, 2 % clean and 98 % blurred, against the optimal denoiser.

    python benchmarks/fields_training.py --out docs/fields            # trains every arm, then draws
    python benchmarks/fields_training.py --out docs/fields --draw     # table and plot from the JSON alone

The error of a denoiser on fresh clean fields, in excess of the Wiener filter's, which nothing can beat. Arms: the clean
fields only; all fields as if clean; all fields above the noise level from which the best possible classifier cannot
tell them from clean ones (``sigma_min``), with the ambient and with the plain target.
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from ambient.curate.device import choose_device
from ambient.curate.noise import names_of
from ambient.curate.threshold import crossing, isotonic, sigma_grid
from ambient.schemas.space import Space
from ambient.train.batches import batches
from ambient.train.config import TrainConfig
from ambient.train.device import use_fast_kernels
from ambient.train.loop import build_sampler, step
from ambient.train.monitor import Monitor
from ambient.train.networks.unet import UNetConfig
from ambient.train.pictures import Stored, with_pictures
from ambient.train.precondition import Denoiser
from ambient.train.rows import Rows
from ambient.train.state import new_state
from ambient.train.target import fresh_noise
from ambient.train.world import World
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fields import Fields

FIELDS = Fields(resolution=16)
SPACE = Space(resolution=16, channels=1)
BLURS = (0.5, 1.0, 2.0)
LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
ARMS = {
    "clean only": {"rows": "clean", "obey": False, "target": "plain"},
    "all as equal": {"rows": "all", "obey": False, "target": "plain"},
    "thresholds, ambient target": {"rows": "all", "obey": True, "target": "ambient"},
    "thresholds, plain target": {"rows": "all", "obey": True, "target": "plain"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="results go into OUT.json, OUT.md and OUT.png")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--fields", type=int, default=20_000)
    parser.add_argument("--images", type=int, default=2_000_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--draw", action="store_true")
    arguments = parser.parse_args()
    path = arguments.out.with_suffix(".json")
    if not arguments.draw:
        path.write_text(json.dumps(run(arguments), indent=1) + "\n")
    results = json.loads(path.read_text())
    arguments.out.with_suffix(".md").write_text(table(results))
    plot(results, arguments.out.with_suffix(".png"))


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Train every arm with every seed."""
    device = choose_device(arguments.device)
    use_fast_kernels(device)
    floors = {blur: oracle_sigma_min(blur) for blur in BLURS}
    found: dict[str, list[dict[str, float]]] = {}
    begin = time.perf_counter()
    for name, arm in ARMS.items():
        for seed in range(arguments.seeds):
            denoiser = trained(arm, seed, floors, arguments, device)
            excess = {str(level): excess_error(denoiser, level, device) for level in LEVELS}
            found.setdefault(name, []).append(excess)
            print(f"{name}, seed {seed}: {excess} ({time.perf_counter() - begin:.0f} s)", file=sys.stderr, flush=True)
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    about = {"hardware": hardware, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    command = shlex.join(["python", *sys.argv])
    return {**about, "command": command, "sigma_min": {str(b): s for b, s in floors.items()}, "excess": found}


def oracle_sigma_min(blur: float, *, num: int = 256, draws: int = 16) -> float:
    """The crossing of 0.45 of the best classifier's mean p_clean over fields of one blur, told apart from clean."""
    grid = sigma_grid()
    fields = FIELDS.draw(num, blur=blur, seed=12345)
    curve = np.empty((1, len(grid)))
    for k, sigma in enumerate(grid):
        z = torch.randn(draws, *fields.shape, generator=torch.Generator().manual_seed(k))
        x = (fields + float(sigma) * z).flatten(0, 1)
        logit = FIELDS.optimal_logit(x, torch.tensor([sigma]), blurs=[blur])
        curve[0, k] = torch.sigmoid(logit).mean()
    return float(crossing(isotonic(curve), grid, 0.45)[0])


def trained(
    arm: dict[str, object], seed: int, floors: dict[float, float], arguments: argparse.Namespace, device: torch.device
) -> Denoiser:
    """The averaged denoiser of one arm."""
    num_clean = arguments.fields // 50
    per_blur = (arguments.fields - num_clean) // len(BLURS)
    parts, sigma_min = [FIELDS.draw(num_clean, seed=100 + seed)], [torch.zeros(num_clean)]
    if arm["rows"] == "all":
        for k, blur in enumerate(BLURS):
            parts.append(FIELDS.draw(per_blur, blur=blur, seed=1000 + 10 * seed + k))
            sigma_min.append(torch.full((per_blur,), floors[blur] if arm["obey"] else 0.0))
    rows = rows_of(torch.cat(sigma_min))
    pictures = Stored(pixels=torch.cat(parts).to(device))
    config = TrainConfig(
        num_images=arguments.images,
        batch_size=512 if device.type == "cuda" else 128,
        lr=1e-3,
        warmup_images=20_000,
        P_mean=-0.3,
        P_std=1.2,
        target=str(arm["target"]),  # type: ignore[arg-type]
        seed=seed,
        precision="fp32",
        network=UNetConfig(channels=32, multipliers=(1, 2, 2), blocks=1),
    )
    world = World(rank=0, size=1, device=device)
    state, monitor = new_state(config, SPACE, world), Monitor(config.batch_size, world)
    stream = batches(rows, build_sampler(rows, config), None, config, start=0, world=world, pictures_on=pictures.device)
    for batch, w0 in with_pictures(stream, pictures, device):
        step(state, batch, w0, rows, config, world, monitor)
    monitor.read()
    return state.average


def rows_of(sigma_min: Tensor) -> Rows:
    num = len(sigma_min)
    ids = pa.chunked_array([pa.array([f"{i:032x}"[::-1] for i in range(num)])])
    return Rows(
        space=SPACE,
        roots={},
        uris=ids,
        ids=ids,
        names=names_of(ids),
        sigma_min=sigma_min,
        sigma_max=torch.zeros(num),
        labels=torch.full((num,), -1),
        fingerprint="",
    )


@torch.no_grad()
def excess_error(denoiser: Denoiser, sigma: float, device: torch.device, num: int = 4096) -> float:
    """Mean of ||D - D_opt||^2 over fresh clean fields, relative to the error that no denoiser can avoid."""
    level = torch.full((num,), sigma)
    x = FIELDS.draw(num, seed=7) + sigma * fresh_noise(torch.arange(num), SPACE.shape, seed=99)
    best = FIELDS.optimal_denoiser(x, level)
    excess = 0.0
    for part in torch.split(torch.arange(num), 1024):
        found = denoiser(x[part].to(device), level[part].to(device)).cpu()
        excess += float((found - best[part]).square().mean()) * len(part) / num
    return excess / FIELDS.optimal_error(sigma)


def table(results: dict[str, object]) -> str:
    """Mean over seeds, with the spread between them."""
    excess = results["excess"]
    lines = [f"| sigma | {' | '.join(excess)} |", "|---" * (len(excess) + 1) + "|"]
    for level in map(str, LEVELS):
        cells = []
        for runs in excess.values():
            values = np.array([run[level] for run in runs])
            spread = f" ± {values.std(ddof=1):.2%}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.2%}{spread}")
        lines.append(f"| {level} | {' | '.join(cells)} |")
    floors = ", ".join(f"{float(s):.2f} for blur {b}" for b, s in results["sigma_min"].items())
    where = f"{results['hardware']}, {results['date']}, torch {results['torch']}: `{results['command']}`"
    return f"Excess error over the Wiener filter; sigma_min {floors}. {where}\n\n" + "\n".join(lines) + "\n"


def plot(results: dict[str, object], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), constrained_layout=True)
    styles = ["o-", "s-", "D-", "^--"]
    for style, (name, runs) in zip(styles, results["excess"].items(), strict=True):
        values = np.array([[run[str(level)] for level in LEVELS] for run in runs])
        axes.plot(LEVELS, 100 * values.mean(axis=0), style, label=name, markersize=5)
        if len(runs) > 1:
            axes.fill_between(LEVELS, 100 * values.min(axis=0), 100 * values.max(axis=0), alpha=0.2)
    for blur, floor in results["sigma_min"].items():
        axes.axvline(floor, color="0.6", linewidth=0.8, linestyle=":")
        axes.annotate(
            f"blur {blur}",
            (floor, 0.98),
            xycoords=("data", "axes fraction"),
            rotation=90,
            va="top",
            ha="right",
            fontsize=7,
            color="0.4",
        )
    axes.set(xscale="log", yscale="log", xlabel="noise level sigma", ylabel="error above the optimum, %")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
