"""Speed of annotation on one device: its parts, a decoded cache, and a whole run from encoded files.

    python benchmarks/annotate.py [cuda|cpu] [RESOLUTION [PICTURES [FOLDER]]]

Parts: evaluations per second of the classifier, normal numbers per second. Cache: pictures per second through the
search at the default draws, from pixels in memory, with and without the seconds of compiling. Whole run, when PICTURES
is given: crops of scikit-image's photographs, a tenth of them clean, the others blurred or compressed, in zip files in
FOLDER; what `ambient annotate` says of each stage, and pictures per second without the training of the classifier.
"""

import io
import os
import sys
import time
import zipfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from ambient.curate.annotate import AnnotateConfig, annotate
from ambient.curate.classifier import ClassifierConfig, QualityClassifier
from ambient.curate.corruptions import parse
from ambient.curate.curves import search
from ambient.curate.device import choose_device, fast_matmul
from ambient.curate.noise import Purpose, normals
from ambient.curate.parallel import map_in_order
from ambient.curate.reporter import Reporter
from ambient.curate.threshold import sigma_grid
from ambient.schemas.space import Space
from ambient.train.demo import CORRUPTIONS, PHOTOGRAPHS, photograph_folder
from PIL import Image

DRAWS = AnnotateConfig.__dataclass_fields__["draws"].default
TRAINED = "training the classifier"


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Median wall-clock time of one call, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]


def cores() -> int:
    """How many this program may use: with taskset fewer than there are."""
    return len(os.sched_getaffinity(0))


def parts(device: torch.device, space: Space) -> None:
    batch = (1 << 25 if device.type == "cuda" else 1 << 20) // (3 * space.resolution**2)
    classifier = QualityClassifier(space, ClassifierConfig(groups=6)).to(device).eval()
    x = torch.randn(batch, *space.shape, device=device)
    sigma, names = torch.rand(batch, device=device) + 0.1, torch.arange(batch, device=device)
    with torch.inference_mode(), fast_matmul(device):
        forward = seconds(lambda: classifier(x, sigma), device)
        noise = seconds(lambda: normals(names, x[0].numel(), seed=0, purpose=Purpose.CURVE), device)
        print(f"classifier                  {batch / forward:12,.0f} evaluations/s")
        print(f"noise                       {x.numel() / noise / 1e6:12,.0f} million normal numbers/s")
        count = (16384 if device.type == "cuda" else 64) * 32**2 // space.resolution**2
        pictures = torch.rand(count, *space.shape, device=device) * 2 - 1
        groups = torch.arange(count, device=device) % 6

        def run_cache(compiled: bool) -> None:
            for part in torch.arange(count, device=device).split(2048):
                told = groups[part]
                search(
                    classifier,
                    pictures[part],
                    part,
                    sigma_grid(),
                    groups=told,
                    draws=DRAWS,
                    tau=0.45,
                    compiled=compiled,
                )

        for compiled in (False, True) if device.type == "cuda" else (False,):
            start = time.perf_counter()
            run_cache(compiled)
            first, again = time.perf_counter() - start, seconds(lambda c=compiled: run_cache(c), device, repeats=1)
            name = "compiled" if compiled else "as it is"
            rate = f"{count / again:12,.0f} pictures/s, {count / again * DRAWS * len(sigma_grid()):,.0f} evaluations/s"
            print(f"from a cache, {name}      {rate}; first {count:,} in {first:.1f} s")


@cache
def photographs(resolution: int) -> list[Image.Image]:
    """Those that are large enough; JPEG ones at half size, so that their own compression is gone."""
    found = []
    for name in PHOTOGRAPHS:
        path = next(photograph_folder().glob(f"{name}.*"))
        with Image.open(path) as opened:
            found.append(opened.convert("RGB").reduce(1 if path.suffix == ".png" else 2))
    return [photograph for photograph in found if min(photograph.size) >= resolution]


def crop(number: int, resolution: int) -> tuple[str, bytes]:
    """Name and PNG of a picture: a random crop, perhaps flipped, damaged by the corruption of its number."""
    random = np.random.default_rng([number, resolution])
    photograph = photographs(resolution)[random.integers(len(photographs(resolution)))]
    left, top = (int(random.integers(side - resolution + 1)) for side in photograph.size)
    pixels = np.asarray(photograph.crop((left, top, left + resolution, top + resolution)))
    pixels = pixels[:, :: random.choice([-1, 1])]
    kind = "clean" if number % 10 == 0 else CORRUPTIONS[number % len(CORRUPTIONS)]
    if kind != "clean":
        pixels, _ = parse(kind)(pixels, random)
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(data, "PNG", compress_level=1)
    return f"{kind}/{number:07d}.png", data.getvalue()


def write_pool(folder: Path, count: int, resolution: int) -> tuple[Path, Path]:
    """(pool, clean set) of zip files."""
    folder.mkdir(parents=True, exist_ok=True)
    pool, clean = folder / f"pool-{resolution}-{count}.zip", folder / f"clean-{resolution}-{count}.zip"
    if not (pool.exists() and clean.exists()):
        from annotate import crop as known  # processes do not see what is in __main__

        cut = partial(known, resolution=resolution)
        with zipfile.ZipFile(pool, "w") as bad, zipfile.ZipFile(clean, "w") as good:
            for name, data in map_in_order(cut, range(count), workers=cores(), processes=True):
                (good if name.startswith("clean/") else bad).writestr(name, data)
    return pool, clean


def whole(device: str, folder: Path, count: int, resolution: int) -> None:
    pool, clean = write_pool(folder, count, resolution)
    start = time.perf_counter()
    config = AnnotateConfig(clean=clean, resolution=resolution, draws=DRAWS)
    out = folder / f"manifest-{resolution}-{count}.parquet"
    times: dict[str, float] = {}

    class Timed(Reporter):
        def say(self, message: str) -> None:
            super().say(f"{time.perf_counter() - start:6.1f} s  {message}")

        def track(self, what: str, *rest: object, **more: object) -> object:
            times[what] = time.perf_counter()
            return super().track(what, *rest, **more)  # type: ignore[arg-type]

    workers = cores()
    annotate(pool, out, config, device=device, workers=workers, overwrite=True, reporter=Timed())
    end = time.perf_counter()
    training = times["annotating"] - times[TRAINED]
    print(f"whole run: {count:,} pictures of {resolution}x{resolution} in {end - start:.1f} s")
    print(f"without training ({training:.1f} s): {count / (end - start - training):,.0f}/s")


def main() -> None:
    arguments = sys.argv[1:]
    device = choose_device(arguments[0] if arguments else "auto")
    resolution = int(arguments[1]) if len(arguments) > 1 else 32
    print(f"device                      {torch.cuda.get_device_name() if device.type == 'cuda' else 'cpu'}")
    parts(device, Space(resolution=resolution))
    if len(arguments) > 2:
        whole(
            str(device),
            Path(arguments[3] if len(arguments) > 3 else "annotate-benchmark"),
            int(arguments[2]),
            resolution,
        )


if __name__ == "__main__":
    main()
