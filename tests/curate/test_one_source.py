"""A flat folder, annotated: some of it is really clean, the rest is of two blurs that nobody told apart."""

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ambient.curate.annotate import annotate
from ambient.curate.config import AnnotateConfig
from ambient.curate.reporter import Reporter
from ambient.curate.threshold import decide
from ambient.schemas.manifest import read_metadata
from field_pool import write_fields

KINDS = {"whole": 0.0, "mild": 0.8, "heavy": 2.0}


class Listener(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.heard: list[str] = []

    def say(self, message: str) -> None:
        self.heard.append(message)

    warn = say


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray], list[str]]:
    """The folder; of each kind sigma_min, lo, hi (3, N); what was said. Three in ten are whole."""
    folder = tmp_path_factory.mktemp("one")
    write_fields(folder / "clean", "whole", 150, seed=1)
    for seed, (kind, num) in enumerate({"whole": 120, "mild": 140, "heavy": 140}.items()):
        write_fields(folder / "pool", kind, num, blur=KINDS[kind], seed=10 + seed)
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
    """The groups, that a small clean set makes rough thresholds, and what calibration did in each band of levels."""
    folder, _, heard = annotated
    groups = next(line for line in heard if line.startswith("one source, cut in groups by damage: "))
    counts = [int(part.split()[0]) for part in groups.partition(": ")[2].split(", ")]
    assert sum(counts) == 400
    assert counts[0] == pytest.approx(120, abs=8)
    assert sorted(counts[1:]) == pytest.approx([140, 140], abs=8)
    rough = next(line for line in heard if line.startswith("only 150 clean pictures: thresholds are rough"))
    assert rough.endswith("`ambient threshold --use hi` is careful")
    calibrated = next(line for line in heard if line.startswith("calibration error by noise level, before and after: "))
    found = [tuple(map(float, band)) for band in re.findall(r"([\d.]+)-([\d.]+): (0\.\d+) to (0\.\d+)", calibrated)]
    assert [low for low, *_ in found] == [0.01, *(high for _, high, *_ in found[:-1])]
    assert found[-1][1] == 80
    assert all(0 < error < 0.1 for *_, before, after in found for error in (before, after))
    assert read_metadata(folder / "m.parquet").calibration == pytest.approx(np.array(found), abs=6e-4)


def test_intervals_hold_what_the_classifiers_do_not_know(
    annotated: tuple[Path, dict[str, np.ndarray], list[str]],
) -> None:
    """Not what draws scatter by alone: the spread between classifiers is measured, kept, and used."""
    folder, found, _ = annotated
    metadata = read_metadata(folder / "m.parquet")
    assert len(metadata.fold_spread) == 48
    assert min(metadata.fold_spread) > 0
    table = pq.read_table(folder / "m.parquet", filters=[("role", "=", "pool")])
    mean, count = (np.array(table[name].to_pylist(), dtype=np.float64) for name in ("p_clean", "draws"))
    grid, noise = np.array(metadata.sigma_grid), np.array(metadata.draw_noise)
    _, lo, hi = decide(mean, count, grid, metadata.epsilon, noise=noise)
    for kind in ("mild", "heavy"):
        mine = [uri.startswith(kind) for uri in table["uri"].to_pylist()]
        assert width(*found[kind][1:]) > 2 * width(lo[mine], hi[mine])


def width(lo: np.ndarray, hi: np.ndarray) -> float:
    """Of the median interval, in ln sigma."""
    return float(np.median(np.log(hi.clip(max=80.0) / lo.clip(min=0.01))))


def test_pictures_that_come_later_are_judged_alike(
    annotated: tuple[Path, dict[str, np.ndarray], list[str]],
) -> None:
    folder, before, _ = annotated
    write_fields(folder / "pool", "mild", 60, blur=KINDS["mild"], seed=99, first=500)
    manifest = folder / "m.parquet"
    annotate(folder / "pool", manifest, config(folder), device="cpu", update=True, reporter=Reporter(quiet=True))
    after = by_kind(manifest)
    assert np.array_equal(after["heavy"], before["heavy"])
    assert np.median(after["mild"][0][140:]) == pytest.approx(np.median(before["mild"][0]), rel=0.15)
