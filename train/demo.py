"""The whole idea on real photographs: cut, corrupt, annotate, ask, train, sample."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from ..curate.annotate import annotate
from ..curate.config import AnnotateConfig
from ..curate.corrupt import corrupt
from ..curate.corruptions import parse
from ..curate.device import choose_device
from ..curate.images import load
from ..curate.noise import Purpose, name_of, normals
from ..curate.query import query
from ..curate.report.page import report as write_report
from ..curate.reporter import Reporter
from ..curate.tables import print_table
from ..curate.units import to_uint8, to_unit
from ..schemas.errors import UserError
from ..schemas.manifest import read_metadata
from .config import load_preset
from .generate import generate
from .loop import train
from .run import spoken
from .samples import save_grid

SIDE = 32
CORRUPTIONS = ("blur-0.6", "blur-1.2", "blur-2.5", "jpeg-50", "jpeg-25", "jpeg-10")
PHOTOGRAPHS = [
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "ihc",
    "moon",
    "motorcycle_left",
    "motorcycle_right",
    "retina",
    "rocket",
]
_FLATTEST = 8.0  # a tile whose standard deviation is below this many grey levels shows neither blur nor JPEG
_IMAGES_PER_MINUTE = {"cpu": 20_000, "cuda": 160_000}

TABLE = """
    SELECT source AS corruption, count(*) AS pictures, round(median(sigma_min), 3) AS sigma_min_median,
           round(quantile_cont(sigma_min, 0.1), 3) AS p10, round(quantile_cont(sigma_min, 0.9), 3) AS p90
    FROM manifest WHERE status = 'ok' AND role = 'pool'
    GROUP BY source ORDER BY split_part(source, '-', 1), sigma_min_median
"""


def demo(out: Path, *, device: str = "auto", minutes: float = 1.0, reporter: Reporter | None = None) -> None:
    """Run the demonstration in a folder; the same call continues one that was stopped.

    minutes: of training the denoiser, turned into a fixed number of pictures before it starts.
    """
    reporter = reporter or Reporter()
    place = choose_device(device)
    cuda = place.type == "cuda"
    photographs, pool, manifest, run = out / "photographs", out / "pool", out / "manifest.parquet", out / "run"

    reporter.say(f"1. {cut(photographs):,} photographs of {SIDE}x{SIDE} pixels in {photographs}")
    corrupt(photographs, pool, corruptions=[parse(name) for name in CORRUPTIONS], fraction=0.9, seed=0)
    reporter.say(f"2. nine in ten are now blurred or JPEG-compressed: {pool}, one folder per corruption")

    reporter.say("3. ambient annotate: from which noise level on is each of them as good as a clean one?")
    config = AnnotateConfig(clean=pool / "clean", steps=3000 if cuda else 400, draws=8 if cuda else 3)
    annotate(pool, manifest, config, device=device, workers=os.cpu_count() or 1, reporter=reporter)
    print_table(query(manifest, TABLE))
    levels = show_levels(manifest, pool, photographs, out / "levels.png")
    page = write_report(manifest, out / "report.html", reporter=reporter)

    reporter.say("4. ambient train: a denoiser that sees every picture above its own noise level, and only there")
    num_images = round(minutes * _IMAGES_PER_MINUTE[place.type])
    preset = load_preset("small" if cuda else "smoke")
    length = replace(preset, num_images=num_images, sample_images=max(num_images // 4, 1))
    train(manifest, run, length, device=device, workers=os.cpu_count() or 1, report=spoken(reporter))
    samples = generate(run, out / "samples", range(64), device=device)

    reporter.say("What to look at:")
    reporter.say("  the table above: stronger blur and stronger JPEG need more noise before they can be trusted")
    reporter.say(f"  {levels}: one row per corruption: damaged; damaged + noise at its sigma_min; undamaged + the same")
    reporter.say("    noise; undamaged. The middle two should be hard to tell apart.")
    reporter.say(f"  {page}: thresholds, coverage and curves of the whole pool; open it in a browser")
    reporter.say(f"  {samples}: pictures drawn from the model; {run}/samples shows how they came to be")
    reporter.say(f'  ambient sql {manifest} "FROM coverage": how many pictures each noise level could use')


def cut(out: Path) -> int:
    """Cut scikit-image's photographs, at full and half size, into tiles. Returns how many there are.

    JPEG photographs are used at half size only, so that their own compression is gone; flat tiles are left out.
    """
    folder = photograph_folder()
    count = 0
    for name in PHOTOGRAPHS:
        path = next(folder.glob(f"{name}.*"), None)
        if path is None:
            raise UserError(f"scikit-image's photograph {name!r} is not in {folder}: reinstall scikit-image")
        with Image.open(path) as opened:
            photograph = opened.convert("RGB")
        (out / name).mkdir(parents=True, exist_ok=True)
        for factor in (1, 2) if path.suffix == ".png" else (2,):
            pixels = np.asarray(photograph.reduce(factor))
            for y in range(0, pixels.shape[0] - SIDE + 1, SIDE):
                for x in range(0, pixels.shape[1] - SIDE + 1, SIDE):
                    tile = pixels[y : y + SIDE, x : x + SIDE]
                    if tile.std() >= _FLATTEST:
                        Image.fromarray(tile).save(out / name / f"{factor}-{y:04d}-{x:04d}.png")
                        count += 1
    return count


def show_levels(manifest: Path, pool: Path, photographs: Path, path: Path) -> Path:
    """Draw, for the median picture of each corruption, damaged and undamaged, without and with noise at sigma_min."""
    done = {row["uri"]: row["original"] for row in pq.read_table(pool / "corruption.parquet").to_pylist()}
    space = read_metadata(manifest).space
    rows = []
    for source in CORRUPTIONS:
        median = query(
            manifest,
            f"SELECT uri, id, sigma_min FROM manifest WHERE source = '{source}' AND status = 'ok' "
            "AND NOT isinf(sigma_min) ORDER BY sigma_min OFFSET (SELECT count(*) // 2 FROM manifest "
            f"WHERE source = '{source}' AND status = 'ok' AND NOT isinf(sigma_min)) LIMIT 1",
        ).to_pylist()
        for picture in median:
            damaged = to_unit(torch.from_numpy(load(picture["uri"], space, {"pool": str(pool)})))
            undamaged = to_unit(torch.from_numpy(load(done[picture["uri"]], space, {"pool": str(photographs)})))
            name = torch.tensor([name_of(picture["id"])])
            z = normals(name, damaged.numel(), seed=0, purpose=Purpose.FIXED).view(space.shape)
            noise = picture["sigma_min"] * z
            rows += [damaged, damaged + noise, undamaged + noise, undamaged]
    save_grid(path, to_uint8(torch.stack(rows)), columns=4, zoom=3)
    return path


def photograph_folder() -> Path:
    import skimage

    return Path(skimage.__file__).parent / "data"
