"""The annotator on real photographs: what it writes, and that a killed run continues to the same bytes."""

import hashlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ambient import __version__
from ambient.curate import measure, reading
from ambient.curate.annotate import annotate
from ambient.curate.config import AnnotateConfig
from ambient.curate.curves import Curves
from ambient.curate.noise import names_of
from ambient.curate.reporter import Reporter
from ambient.curate.threshold import decide_per_group, sigma_grid
from ambient.schemas.manifest import Metadata, check_rows, read_metadata
from ambient.schemas.space import Space
from manifests import rows_of
from photo_pool import SIDE, tiles, write_photo_pool

STEPS, DRAWS = 30, 2
SLOW_PARTS = """
import sys, time
import ambient.curate.measure as measuring
import ambient.curate.reading as reading
from ambient.cli import main
measuring.PER_PART["cpu"] = 32
last, real = sys.argv.pop(1), reading.write_table
def write_then_wait(path, table):
    real(path, table)
    time.sleep(600 if path.stem == last else 0)
measuring.write_table = reading.write_table = write_then_wait
main()
"""
"""The program with small parts, which waits after the part that its first argument names."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, and what a pool has besides: a torn file, a tiny one, and a copy of a clean one."""
    folder = write_photo_pool(tmp_path_factory.mktemp("annotate") / "pool")
    (folder / "blurred" / "torn.png").write_bytes((folder / "blurred" / "000.png").read_bytes()[:100])
    tiles(1)[0].resize((4, 4)).save(folder / "soft" / "tiny.png")
    shutil.copy(folder / "clean" / "007.png", folder / "blurred" / "copy.png")
    return folder


def config_of(pool: Path, **changes: object) -> AnnotateConfig:
    return AnnotateConfig(**{"clean": pool / "clean", "steps": STEPS, "draws": DRAWS, **changes})


@pytest.fixture(scope="module")
def manifest(pool: Path) -> Path:
    """Of an undisturbed run."""
    patch = pytest.MonkeyPatch()
    patch.setitem(measure.PER_PART, "cpu", 32)
    path = pool.parent / "manifest.parquet"
    annotate(pool, path, config_of(pool), device="cpu", reporter=Reporter(quiet=True))
    patch.undo()
    return path


def test_every_picture_is_a_valid_row(manifest: Path, pool: Path) -> None:
    rows = rows_of(manifest)
    check_rows(pq.read_table(manifest), "it")
    assert sorted(rows) == sorted(path.relative_to(pool).as_posix() for path in pool.rglob("*.png"))
    assert {uri: row["status"] for uri, row in rows.items() if row["status"] != "ok"} == {
        "blurred/torn.png": "unreadable",
        "soft/tiny.png": "too_small",
        "blurred/copy.png": "duplicate",
    }
    for uri, row in rows.items():
        ok, clean = row["status"] == "ok", uri.startswith("clean/")
        assert row["role"] == ("clean" if clean else "pool")
        assert row["source"] == uri.split("/")[0]
        assert (row["reason"] is None) == ok
        for name in ("sigma_min", "sigma_min_lo", "sigma_min_hi", "sigma_max", "p_clean", "draws", "method"):
            assert (row[name] is not None) == ok, (uri, name)
        if ok:
            assert row["id"] == hashlib.blake2b((pool / uri).read_bytes(), digest_size=16).hexdigest()
            assert (row["width"], row["height"], row["format"]) == (SIDE, SIDE, "png")
            assert row["method"] == ("clean" if clean else "classifier")
            assert len(row["p_clean"]) == len(row["draws"]) == len(sigma_grid())
            assert sum(row["draws"]) <= DRAWS * len(sigma_grid())
            assert min(row["draws"]) >= 1
            assert 0 <= row["sigma_min_lo"] <= row["sigma_min"] <= row["sigma_min_hi"]


def test_clean_is_usable_everywhere_and_blur_is_not(manifest: Path) -> None:
    ok = [row for row in rows_of(manifest).values() if row["status"] == "ok"]
    of = {s: np.array([r["sigma_min"] for r in ok if r["source"] == s]) for s in ("clean", "soft", "blurred")}
    assert (of["clean"] == 0).all()
    assert np.median(of["soft"]) > 0.03
    assert np.median(of["blurred"]) > 0.1
    assert np.mean(of["blurred"] > 0) > 0.8


def test_metadata(manifest: Path, pool: Path) -> None:
    metadata = read_metadata(manifest)
    assert metadata.space == Space(resolution=16, channels=3)
    assert metadata.roots == {"pool": str(pool)}
    assert metadata.sigma_grid == sigma_grid().tolist()
    assert (metadata.draws, metadata.epsilon, metadata.package_version) == (DRAWS, 0.05, __version__)
    assert metadata.command == (
        f"ambient annotate {pool} -o {manifest} --clean {pool / 'clean'} --draws {DRAWS} --steps {STEPS}"
    )
    assert [len(x) for x in (metadata.classifier, metadata.run, metadata.fingerprint)] == [32] * 3


def test_finished_parts_are_gone(manifest: Path) -> None:
    left = ["manifest.parquet", "manifest.parquet.classifier", "pool"]
    assert sorted(path.name for path in manifest.parent.iterdir()) == left


def test_the_same_command_again_does_nothing(
    manifest: Path, pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = manifest.stat()
    monkeypatch.setattr(reading, "scan", None)  # would fail
    annotate(pool, manifest, config_of(pool), device="cpu")
    assert manifest.stat().st_mtime_ns == before.st_mtime_ns
    assert manifest.stat().st_ino == before.st_ino
    assert "nothing to do" in capsys.readouterr().err


def test_killed_at_each_stage_and_started_again_ends_with_the_same_bytes(
    manifest: Path, pool: Path, request: pytest.FixtureRequest
) -> None:
    expected = manifest.read_bytes()
    request.addfinalizer(lambda: manifest.write_bytes(expected))
    manifest.unlink()
    options = ["--clean", str(pool / "clean"), "--draws", str(DRAWS), "--steps", str(STEPS), "--device", "cpu"]

    def start(last: str) -> subprocess.Popen:
        arguments = [last, "annotate", str(pool), "-o", str(manifest), *options, "--workers", "1"]
        return subprocess.Popen([sys.executable, "-c", SLOW_PARTS, *arguments], stderr=subprocess.PIPE, text=True)

    parts = manifest.with_name("manifest.parquet.parts")
    for stage in ("records-000000", "curves-32-000001"):
        with start(stage) as victim:
            until = time.monotonic() + 120
            while not (parts / f"{stage}.parquet").exists():
                assert victim.poll() is None, victim.stderr.read()
                assert time.monotonic() < until
                time.sleep(0.005)
            victim.send_signal(signal.SIGKILL)
        assert victim.returncode == -signal.SIGKILL
        assert not manifest.exists()
    done = {path.name: path.stat().st_mtime_ns for path in parts.iterdir() if path.suffix == ".parquet"}
    assert sorted(done) == ["curves-32-000000.parquet", "curves-32-000001.parquet", "records-000000.parquet"]
    with start("-") as again:
        _, messages = again.communicate(timeout=120)
    assert again.returncode == 0, messages
    assert "training" not in messages  # the classifier was finished
    assert manifest.read_bytes() == expected
    assert not parts.exists()


def test_per_source_is_one_threshold_from_the_mean_curve(manifest: Path, pool: Path, monkeypatch) -> None:
    """The same classifier and curves as the manifest of the module; only the decision differs."""
    known = rows_of(manifest)
    curves = {row["id"]: row["p_clean"] for row in known.values() if row["p_clean"]}

    by_name = {int(names_of([content_id])[0]): curve for content_id, curve in curves.items()}

    def remembered(_classifier: object, _x: object, names: torch.Tensor, *_: object, **__: object) -> Curves:
        mean = np.array([by_name[int(name)] for name in names])
        return Curves(mean=mean, variance=np.zeros_like(mean), count=np.ones_like(mean))

    monkeypatch.setattr(measure, "search", remembered)
    out = pool.parent / "per_source.parquet"
    annotate(pool, out, config_of(pool, per="source", steps=1, accept_indistinguishable=True), device="cpu")
    rows = [row for row in rows_of(out).values() if row["status"] == "ok"]
    spread = np.array(read_metadata(out).fold_spread)
    out.unlink()
    assert {row["method"] for row in rows if row["role"] == "pool"} == {"source"}
    assert {row["sigma_min"] for row in rows if row["role"] == "clean"} == {0.0}
    mine = [row for row in rows if row["role"] == "pool"]
    expected = decide_per_group(
        np.array([row["p_clean"] for row in mine]),
        [row["source"] for row in mine],
        sigma_grid(),
        0.05,
        spread=spread,
    )
    assert sorted(expected) == ["blurred", "soft"]
    for row in mine:
        found = (row["sigma_min"], row["sigma_min_lo"], row["sigma_min_hi"])
        assert found == pytest.approx(expected[row["source"]], rel=1e-5)


def test_the_first_crossing_is_searched_for_decided_on_and_written_down(pool: Path, monkeypatch) -> None:
    """A curve that passes tau at 0.1, falls to nothing and passes it again at 2."""
    grid, asked = sigma_grid(), []
    curve = np.where(grid < 0.1, 0.3, np.where(grid < 0.5, 0.48, np.where(grid < 2, 0.0, 0.5)))

    def falls_again(_classifier: object, _x: object, names: torch.Tensor, *_: object, how: str, **__: object) -> Curves:
        asked.append(how)
        mean = np.tile(curve, (len(names), 1))
        return Curves(mean=mean, variance=np.zeros_like(mean), count=np.full(mean.shape, 8.0))

    monkeypatch.setattr(measure, "search", falls_again)
    found = {}
    for how in ("first", "rising"):
        out = pool.parent / f"{how}.parquet"
        options = {"crossing": how, "steps": 1, "accept_indistinguishable": True}
        annotate(pool, out, config_of(pool, **options), device="cpu")
        assert read_metadata(out).crossing == how
        found[how] = {row["sigma_min"] for row in rows_of(out).values() if row["method"] == "classifier"}
        out.unlink()
    assert set(asked) == {"first", "rising"}
    assert all(0.09 < sigma < 0.13 for sigma in found["first"]) and found["first"]
    assert all(1.6 < sigma < 2.5 for sigma in found["rising"]) and found["rising"]


def test_manifest_is_read_by_plain_libraries(manifest: Path) -> None:
    import duckdb
    import pandas as pd
    import polars as pl

    count = pq.read_metadata(manifest).num_rows
    assert duckdb.sql(f"SELECT count(*) FROM '{manifest}'").fetchall() == [(count,)]
    assert len(pl.read_parquet(manifest)) == count
    assert len(pd.read_parquet(manifest)) == count
    assert isinstance(read_metadata(manifest), Metadata)
    assert pa.types.is_list(pq.read_schema(manifest).field("p_clean").type)
