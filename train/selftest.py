"""Ten seconds that show whether annotator and trainer compute here what they computed elsewhere.

The values to compare with, and where they come from, lie in selftest.json; ``benchmarks/selftest.py`` writes it.
"""

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image

from .. import __version__
from ..curate.curves import Curves, search
from ..curate.fit import FitConfig, cross_fit
from ..curate.images import Unusable, load_many
from ..curate.manifest import write_manifest
from ..curate.noise import Purpose, names_of, normals, words
from ..curate.noisy import Sample
from ..curate.pool import find, scan, to_table
from ..curate.scores import SCORES
from ..curate.threshold import decide, draw_noise, sigma_grid
from ..curate.units import to_unit
from ..curate.uris import Roots
from ..schemas.manifest import MAIN_ROOT, Metadata, manifest_schema
from ..schemas.space import Space
from .config import TrainConfig
from .loop import train
from .networks.unet import UNetConfig

_SPACE = Space(resolution=16, channels=1)
_NUM = 60  # pictures of each kind
_BLUR = 1.5  # pixels
_DRAWS, _EPSILON = 4, 0.05
_FIT = FitConfig(steps=60, batch_size=64)
_TRAIN = TrainConfig(
    num_images=640,
    batch_size=32,
    lr=2e-3,
    warmup_images=64,
    log_images=160,
    sample_images=640,
    snapshot_images=640,
    sample_count=1,
    precision="fp32",
    compile="off",
    network=UNetConfig(channels=8, multipliers=(1, 2), blocks=1),
)

Values = dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One value of the self-test. tolerance: of the difference, absolute."""

    name: str
    found: float
    expected: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return abs(self.found - self.expected) <= self.tolerance


def self_test(folder: Path, device: torch.device) -> list[Comparison]:
    """Compare what is computed on the device with what is stored. folder: for a little pool and a run."""
    stored, found = expected(), measure(folder, device)
    return [
        Comparison(name=name, found=found[name], expected=value, tolerance=stored["tolerance"][name])
        for name, value in stored["values"].items()
    ]


def expected() -> dict[str, Any]:
    """selftest.json: values, tolerance, provenance."""
    stored: dict[str, Any] = json.loads(files(__package__).joinpath("selftest.json").read_text())
    return stored


def measure(folder: Path, device: torch.device) -> Values:
    """The values of the self-test.

    words: sum of 4,096 random integers; normals: of the squares of 4,096 normal numbers; sharpness: mean over the
    blurred pictures; p_clean: their mean over all levels; sigma_min: their geometric mean; loss: of a denoiser at the
    end of 20 steps. The classifier learns on the CPU everywhere, so that a GPU is held to the same values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = torch.arange(64, device=device)
    with _one_thread():
        records = _records(folder / "pool")
        curves = _curves(records, folder / "pool", device)
        noise = draw_noise(curves.mean, curves.variance, curves.count)
        sigma_min, *_ = decide(curves.mean, curves.count, sigma_grid(), _EPSILON, noise=noise)
        manifest = _manifest(folder, records, sigma_min)
        train(manifest, folder / "run", _TRAIN, device=str(device), workers=0)
    blurred = np.array(records["source"].to_pylist()) == "blurred"
    metrics = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return {
        "words": float(words(names, 64, seed=1, purpose=Purpose.FRESH).sum()),
        "normals": float(normals(names, 64, seed=1, purpose=Purpose.FRESH).double().square().sum()),
        "sharpness": float(records["sharpness"].to_numpy()[blurred].mean()),
        "p_clean": float(curves.mean[blurred].mean()),
        "sigma_min": float(np.exp(np.log(sigma_min[blurred].clip(*sigma_grid()[[0, -1]])).mean())),
        "loss": float(metrics[-1]["loss"]),
    }


def _records(pool: Path) -> pa.Table:
    """Write folders clean and blurred of grey PNG files, and read them as the annotator does."""
    for number, folder in enumerate(("blurred", "clean")):
        (pool / folder).mkdir(parents=True)
        for i, pixels in enumerate(_fields(first=number * _NUM, blur=0 if folder == "clean" else _BLUR)):
            Image.fromarray(pixels).save(pool / folder / f"{i:03d}.png")
    roots = _roots(pool)
    return to_table(scan(find(roots), roots, workers=0))


def _curves(records: pa.Table, pool: Path, device: torch.device) -> Curves:
    """Train a classifier of clean against blurred on the CPU, and search for the crossings on the device."""
    loaded = load_many(records["uri"].to_pylist(), _SPACE, _roots(pool), workers=0)
    pictures = torch.from_numpy(np.stack([picture for _, picture in loaded if not isinstance(picture, Unusable)]))
    names = names_of(records["id"].to_pylist())
    groups = torch.zeros(_NUM, dtype=torch.int64)
    other, clean = (
        Sample(pictures=pictures[part], names=names[part], groups=groups) for part in (slice(_NUM), slice(_NUM, None))
    )
    classifier = cross_fit(clean, other, space=_SPACE, config=_FIT).members[0].to(device)
    x, told = to_unit(pictures.to(device)), torch.zeros(2 * _NUM, dtype=torch.int64, device=device)
    return search(classifier, x, names.to(device), sigma_grid(), groups=told, draws=_DRAWS, tau=0.5 - _EPSILON)


def _manifest(folder: Path, records: pa.Table, sigma_min: NDArray[np.float64]) -> Path:
    clean = np.array(records["source"].to_pylist()) == "clean"
    thresholds = pa.array(np.where(clean, 0.0, sigma_min), pa.float32())
    nothing = pa.nulls(len(records))
    added = {
        "p_clean": nothing,
        "draws": nothing,
        **dict.fromkeys(("sigma_min", "sigma_min_lo", "sigma_min_hi"), thresholds),
        "sigma_max": pa.array(np.zeros(len(records)), pa.float32()),
        "method": pa.array(np.where(clean, "clean", "classifier")),
    }
    for name, column in added.items():
        records = records.append_column(name, column)
    metadata = Metadata(
        space=_SPACE, roots=_roots(folder / "pool"), fingerprint="", package_version=__version__, command="self-test"
    )
    write_manifest(folder / "manifest.parquet", records, manifest_schema(list(SCORES)), metadata)
    return folder / "manifest.parquet"


def _roots(pool: Path) -> Roots:
    return {MAIN_ROOT: str(pool.resolve())}


def _fields(*, first: int, blur: float) -> NDArray[np.uint8]:
    """(_NUM, 16, 16) random fields with the spectrum 1/f of photographs. blur: standard deviation in pixels."""
    side = _SPACE.resolution
    z = normals(torch.arange(first, first + _NUM), side * side, seed=2, purpose=Purpose.FIXED).double().numpy()
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :])
    amplitude = np.divide(1, frequency, out=np.zeros_like(frequency), where=frequency > 0)
    amplitude /= math.sqrt(float(np.square(amplitude).mean()))
    spectrum = np.fft.fft2(z.reshape(_NUM, side, side)) * amplitude * np.exp(-2 * (math.pi * blur * frequency) ** 2)
    return np.clip(np.rint(127.5 + 48 * np.fft.ifft2(spectrum).real), 0, 255).astype(np.uint8)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The order of additions, and so the last digits, depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
