"""Choosing the clean set by rank where the pool holds copies."""

import shutil
from pathlib import Path

import pytest
from ambient.curate import clean
from ambient.curate.annotate import annotate
from ambient.curate.config import AnnotateConfig
from ambient.curate.ranks import Top
from ambient.curate.reporter import Reporter
from manifests import rows_of
from photo_pool import tiles

TOP = Top(share=0.5, by=("sharpness",))


def run(pool: Path, **changes: object) -> dict[str, dict]:
    out, config = pool.parent / "m.parquet", AnnotateConfig(**{"sigma_min": 2.0, "clean_top": TOP, **changes})
    annotate(pool, out, config, device="cpu", workers=2, overwrite=True, preview=True, reporter=Reporter(quiet=True))
    return rows_of(out)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """30 photographs."""
    folder = tmp_path / "pool"
    folder.mkdir()
    for number, tile in enumerate(tiles(30)):
        tile.save(folder / f"{number:03d}.png")
    return folder


@pytest.mark.parametrize("name", ["copy", "0-copy"])  # behind the original and before it
def test_copies_take_no_places_in_the_best_share(pool: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run(pool)
    chosen = {row["id"] for row in before.values() if row["role"] == "clean"}
    assert len(chosen) == 15
    best = max(before.values(), key=lambda row: row["sharpness"])["uri"]
    for number in range(30):
        shutil.copy(pool / best, pool / f"{name}-{number:03d}.png")
    shown = []
    monkeypatch.setattr(clean, "write_preview", lambda _, records, mask, rank, *__, **___: shown.append((mask, rank)))
    found = [row for row in run(pool).values() if row["status"] == "ok"]
    assert len(found) == 30
    assert {row["id"] for row in found if row["role"] == "clean"} == chosen
    [(mask, rank)] = shown
    assert (mask.sum(), (rank > 0).sum()) == (15, 30)


def test_copies_that_are_kept_count_and_stay_on_one_side(pool: Path) -> None:
    best = max(run(pool).values(), key=lambda row: row["sharpness"])
    for number in range(10):
        shutil.copy(pool / best["uri"], pool / f"copy-{number:03d}.png")
    found = run(pool, duplicates="keep").values()
    assert {row["status"] for row in found} == {"ok"}
    assert {row["role"] for row in found if row["id"] == best["id"]} == {"clean"}
    assert sum(row["role"] == "clean" for row in found) == 20
