"""A flat folder, annotated: some of it is really clean, the rest is of two blurs that nobody told apart."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ambient.curate.annotate import annotate
from ambient.curate.config import AnnotateConfig
from ambient.curate.reporter import Reporter
from fields import Fields
from PIL import Image

FIELDS = Fields(resolution=8, sigma_data=0.25)  # little is clipped
KINDS = {"whole": 0.0, "mild": 0.8, "heavy": 2.0}


class Listener(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.heard: list[str] = []

    def say(self, message: str) -> None:
        self.heard.append(message)

    warn = say


def write(folder: Path, kind: str, num: int, *, seed: int, first: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    levels = (FIELDS.draw(num, blur=KINDS[kind], seed=seed)[:, 0].clamp(-1, 1) * 127.5 + 127.5).round().byte().numpy()
    for i, pixels in enumerate(levels):
        Image.fromarray(pixels).save(folder / f"{kind}-{first + i:03d}.png")


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray], list[str]]:
    """The folder; of each kind sigma_min, lo, hi (3, N); what was said. Three in ten are whole."""
    folder = tmp_path_factory.mktemp("one")
    write(folder / "clean", "whole", 150, seed=1)
    for seed, (kind, num) in enumerate({"whole": 120, "mild": 140, "heavy": 140}.items()):
        write(folder / "pool", kind, num, seed=10 + seed)
    listener = Listener()
    annotate(folder / "pool", folder / "m.parquet", config(folder), device="cpu", reporter=listener)
    return folder, by_kind(folder / "m.parquet"), listener.heard


def config(folder: Path) -> AnnotateConfig:
    return AnnotateConfig(clean=folder / "clean", channels=1, steps=150, draws=4)


def by_kind(manifest: Path) -> dict[str, np.ndarray]:
    rows = [row for row in pq.read_table(manifest).to_pylist() if row["role"] == "pool"]
    names = ("sigma_min", "sigma_min_lo", "sigma_min_hi")
    return {kind: np.array([[r[n] for r in rows if r["uri"].startswith(kind)] for n in names]) for kind in KINDS}


def test_what_is_really_clean_stays_usable(annotated: tuple[Path, dict[str, np.ndarray], list[str]]) -> None:
    _, found, _ = annotated
    blurred = np.median(np.concatenate([found["mild"][0], found["heavy"][0]]))
    assert np.median(found["whole"][0]) <= 0.1 * blurred
    assert 0 < np.median(found["mild"][0]) < np.median(found["heavy"][0])


def test_it_is_said(annotated: tuple[Path, dict[str, np.ndarray], list[str]]) -> None:
    """The groups, and that a small clean set makes rough thresholds."""
    _, _, heard = annotated
    groups = next(line for line in heard if line.startswith("one source, cut in groups by damage: "))
    counts = [int(part.split()[0]) for part in groups.partition(": ")[2].split(", ")]
    assert sum(counts) == 400
    assert counts[0] == pytest.approx(120, abs=8)
    assert sorted(counts[1:]) == pytest.approx([140, 140], abs=8)
    rough = next(line for line in heard if line.startswith("only 150 clean pictures: thresholds are rough"))
    assert rough.endswith("`ambient threshold --use hi` is careful")


def test_pictures_that_come_later_are_judged_alike(
    annotated: tuple[Path, dict[str, np.ndarray], list[str]],
) -> None:
    folder, before, _ = annotated
    write(folder / "pool", "mild", 60, seed=99, first=500)
    manifest = folder / "m.parquet"
    annotate(folder / "pool", manifest, config(folder), device="cpu", update=True, reporter=Reporter(quiet=True))
    after = by_kind(manifest)
    assert np.array_equal(after["heavy"], before["heavy"])
    assert np.median(after["mild"][0][140:]) == pytest.approx(np.median(before["mild"][0]), rel=0.15)
