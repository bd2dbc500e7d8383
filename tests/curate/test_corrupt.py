import hashlib
import math
import shutil
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from io import BytesIO

import numpy as np
import pyarrow.parquet as pq
import pytest
from ambient.curate import corrupt as corrupt_module
from ambient.curate import corruptions as corruptions_module
from ambient.curate.corrupt import TABLE, Corruption, corrupt, parse
from ambient.curate.corruptions import line_kernel
from ambient.curate.pool import find
from ambient.schemas.errors import UserError
from awkward import build, encoded, noise, picture
from PIL import Image

ALL = [parse(name) for name in ("blur-0.6", "jpeg-25", "motion-9", "mask-0.3", "down-2")]


def apply(name, pixels, seed=0):
    return parse(name)(pixels, np.random.default_rng(seed))


@pytest.mark.parametrize(("sigma", "frequency"), [(0.6, 0.1), (0.6, 0.4), (1.2, 0.1), (2.5, 0.05)])
def test_gaussian_blur_damps_a_wave_by_its_transfer_function(sigma, frequency):
    wave = 100 * np.cos(2 * math.pi * frequency * np.arange(80))
    pixels = np.rint(128 + np.tile(wave[None, :, None], (80, 1, 3))).astype(np.uint8)
    blurred, drawn = apply(f"blur-{sigma}", pixels)
    # of the sampled kernel, which is what a blur of pixels is
    x = np.arange(-40, 41)
    kernel = np.exp(-(x**2) / (2 * sigma**2))
    gain = (kernel * np.cos(2 * math.pi * frequency * x)).sum() / kernel.sum()
    difference = blurred[40, 15:-15, 0] - (128 + gain * wave[15:-15])
    assert np.abs(difference).max() <= 1.1 and abs(difference.mean()) < 0.2
    assert drawn == {}


@pytest.mark.parametrize("name", ["blur-2", "motion-5"])
def test_blur_mirrors_the_border_and_keeps_colours_apart(name):
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:, 20:] = (250, 120, 30)
    blurred, _ = apply(name, pixels)
    assert np.array_equal(blurred[:, :10], pixels[:, :10]) and np.array_equal(blurred[:, 30:], pixels[:, 30:])


def test_jpeg_is_what_pillow_writes():
    pixels = noise(40, 48)
    data = BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=25)
    assert np.array_equal(apply("jpeg-25", pixels)[0], np.asarray(Image.open(data)))


@pytest.mark.parametrize("axis", [0, 1])
def test_jpeg_of_a_picture_too_long_for_one_file(axis, monkeypatch):
    """As in one file, but for the chroma of the two columns beside a seam."""
    whole = np.ascontiguousarray(np.moveaxis(noise(32, 150), 0, 1 - axis))
    expected = apply("jpeg-25", whole)[0]
    monkeypatch.setattr(corruptions_module, "_JPEG_SIDE", 70)
    monkeypatch.setattr(corruptions_module, "_JPEG_PIECE", 64)
    found = apply("jpeg-25", whole)[0]
    assert found.shape == whole.shape and found.dtype == np.uint8
    different = np.flatnonzero((found != expected).any(axis=(1 - axis, 2)))
    assert set(different.tolist()) <= {63, 64, 127, 128}
    luma = np.array([0.299, 0.587, 0.114])
    inside = ((found > 0) & (found < 255) & (expected > 0) & (expected < 255)).all(axis=2)
    assert np.abs((found @ luma - expected @ luma)[inside]).max() < 2


@pytest.mark.parametrize("shape", [(16, 70_000), (70_000, 16)])
def test_jpeg_of_more_than_libjpeg_takes(shape):
    pixels = noise(*shape)
    found, _ = apply("jpeg-95", pixels)
    assert found.shape == pixels.shape and not np.array_equal(found, pixels)
    end = apply("jpeg-95", pixels[-16:, -16:])[0]
    assert np.array_equal(found[-15:, -15:], end[-15:, -15:])


def test_motion_is_along_a_line():
    kernel = line_kernel(9, 0)
    expected = np.array([0.125, 0.875, *[1] * 7, 0.875, 0.125]) / 9
    assert np.allclose(kernel[5], expected, atol=2e-3) and np.allclose(np.delete(kernel, 5, axis=0), 0)
    assert np.allclose(line_kernel(9, 90), kernel.T)
    for angle in (17, 45, 133):
        kernel = line_kernel(15, angle)
        assert kernel.sum() == pytest.approx(1) and np.allclose(kernel, kernel[::-1, ::-1])
        y, x = np.mgrid[: len(kernel), : len(kernel)] - len(kernel) // 2
        along = np.array([math.cos(math.radians(angle)), -math.sin(math.radians(angle))])
        # variance of a uniform line of 15 along it, and none but the interpolation's across
        assert (kernel * (x * along[0] + y * along[1]) ** 2).sum() == pytest.approx(15**2 / 12, rel=0.03)
        assert (kernel * (x * along[1] - y * along[0]) ** 2).sum() < 0.4


def test_motion_blur_averages_along_its_angle_and_leaves_stripes_that_run_with_it(monkeypatch):
    pixels = np.ascontiguousarray(np.repeat(noise(1, 40), 40, axis=0))  # constant in each column

    class Fixed:
        def __init__(self, angle):
            self.angle = angle

        def uniform(self, low, high):
            return self.angle

    along, drawn = parse("motion-9")(pixels, Fixed(90.0))
    assert np.array_equal(along, pixels) and drawn == {"angle": 90.0}
    across, _ = parse("motion-9")(pixels, Fixed(0.0))
    weights = np.array([0.125, 0.875, *[1] * 7, 0.875, 0.125]) / 9
    expected = np.stack([np.convolve(pixels[0, :, c], weights, mode="valid") for c in range(3)], axis=-1)
    assert np.abs(across[20, 5:-5] - expected).max() <= 1.1
    angles = [apply("motion-9", pixels, seed)[1]["angle"] for seed in range(200)]
    assert min(angles) < 10 and max(angles) > 170 and abs(np.mean(angles) - 90) < 12


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.9])
def test_mask_hides_its_fraction_and_nothing_else(fraction):
    pixels = np.maximum(noise(64, 96), 129)
    masked, _ = apply(f"mask-{fraction}", pixels)
    hidden = (masked == 128).all(axis=2)
    assert hidden.mean() == pytest.approx(fraction, abs=0.5 / 96)
    assert np.array_equal(masked[~hidden], pixels[~hidden])
    patches = hidden.reshape(8, 8, 12, 8).transpose(0, 2, 1, 3).reshape(96, 64)
    assert set(patches.sum(axis=1).tolist()) == {0, 64}


def test_down_up_keeps_low_and_loses_high_frequencies():
    x = np.arange(64)
    for period, kept in ((32, True), (3, False)):
        wave = 128 + 100 * np.cos(2 * math.pi * x / period)
        pixels = np.tile(np.rint(wave)[None, :, None], (64, 1, 3)).astype(np.uint8)
        out, _ = apply("down-4", pixels)
        assert out.shape == pixels.shape
        assert (out.std() > 0.9 * pixels.std()) == kept and (out.std() < 0.1 * pixels.std()) != kept


@pytest.mark.parametrize("name", ["blur-0.6", "jpeg-25", "motion-9.5", "mask-0.3", "down-2"])
def test_names_are_read_back_and_shapes_kept(name):
    corruption = parse(name)
    assert corruption.name == name and parse(corruption.name) == corruption
    for shape in ((8, 8), (9, 31)):
        pixels = noise(*shape)
        before = pixels.copy()
        out, _ = corruption(pixels, np.random.default_rng(0))
        assert out.shape == pixels.shape and out.dtype == np.uint8 and np.array_equal(pixels, before)


BAD_STRENGTHS = ["blur-0", "blur--1", "jpeg-0", "jpeg-101", "jpeg-2.5", "mask-1", "mask-nan", "down-1", "motion-inf"]


@pytest.mark.parametrize("name", ["", "blur", "blur-", "blur-x", "fog-1", *BAD_STRENGTHS])
def test_names_of_no_corruption(name):
    with pytest.raises(UserError) as caught:
        parse(name)
    assert "\n" not in str(caught.value)


@pytest.fixture
def pool(tmp_path):
    for index in range(40):
        path = tmp_path / "pool" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(Image.fromarray(noise(16, 20, index))))
    return tmp_path / "pool"


def rows_of(table):
    return {row["original"]: row for row in table.to_pylist()}


def test_exact_fraction_equal_shares_and_a_true_table(pool, tmp_path):
    out, steps = tmp_path / "out", []
    table = corrupt(pool, out, corruptions=ALL, fraction=0.85, seed=3, progress=lambda *s: steps.append(s))
    assert table.equals(pq.read_table(out / "corruption.parquet")) and table.schema == TABLE
    assert Counter(table["corruption"].to_pylist()) == {
        "clean": 6, "blur-0.6": 7, "jpeg-25": 7, "motion-9": 7, "mask-0.3": 7, "down-2": 6
    }  # fmt: skip
    assert steps == [(i + 1, 80) for i in range(80)]
    for row in table.to_pylist():
        original, data = (pool / row["original"]).read_bytes(), (out / row["uri"]).read_bytes()
        assert row["original_id"] == hashlib.blake2b(original, digest_size=16).hexdigest()
        assert row["id"] == hashlib.blake2b(data, digest_size=16).hexdigest()
        assert row["uri"] == f"{row['corruption']}/{row['original']}" and row["status"] == "ok"
        before, after = np.asarray(Image.open(BytesIO(original))), np.asarray(Image.open(BytesIO(data)))
        assert np.array_equal(before, after) == (row["corruption"] == "clean")
        assert (row["angle"] is not None) == row["corruption"].startswith("motion")
        assert (row["strength"] is None) == (row["corruption"] == "clean")
        if row["corruption"] == "blur-0.6":
            assert np.array_equal(after, apply("blur-0.6", before)[0])
    assert {path.suffix for path in out.rglob("*") if path.is_file()} == {".png", ".parquet", ".json"}
    assert len(find({"pool": str(out)}).candidates) == 40


def test_what_is_drawn_does_not_follow_from_who_is_chosen(pool, tmp_path):
    rows = corrupt(pool, tmp_path / "out", corruptions=[parse("motion-5")], fraction=0.5).to_pylist()
    angles = [row["angle"] for row in rows if row["angle"] is not None]
    assert len(angles) == 20 and min(angles) < 60 and max(angles) > 120


def test_the_seed_decides_and_workers_do_not(pool, tmp_path):
    first = corrupt(pool, tmp_path / "1", corruptions=ALL, seed=1, workers=0)
    assert first.equals(corrupt(pool, tmp_path / "2", corruptions=ALL, seed=1, workers=3))
    other = corrupt(pool, tmp_path / "3", corruptions=ALL, seed=2)
    assert other["corruption"].to_pylist() != first["corruption"].to_pylist()


def test_what_is_done_to_a_picture_hangs_on_its_content(pool, tmp_path):
    """Other names and a picture more: few change sides, and the same treatment gives the same bytes."""
    before = {r["original_id"]: r for r in corrupt(pool, tmp_path / "1", corruptions=ALL).to_pylist()}
    moved = tmp_path / "moved"
    moved.mkdir()
    for index, path in enumerate(sorted(pool.rglob("*.png"), reverse=True)):
        shutil.copy(path, moved / f"{index:03}.png")
    (moved / "more.png").write_bytes(encoded(Image.fromarray(noise(16, 20, 99))))
    after = {r["original_id"]: r for r in corrupt(moved, tmp_path / "2", corruptions=ALL).to_pylist()}
    same = [i for i in before if before[i]["corruption"] == after[i]["corruption"]]
    assert len(same) >= 34
    assert all(before[i]["id"] == after[i]["id"] and before[i]["angle"] == after[i]["angle"] for i in same)


def test_an_interrupted_run_is_finished(pool, tmp_path, monkeypatch):
    whole = corrupt(pool, tmp_path / "whole", corruptions=ALL)
    real, calls = corrupt_module._write, []

    def stop(task, **options):
        calls.append(task)
        if len(calls) > 25:
            raise KeyboardInterrupt
        return real(task, **options)

    monkeypatch.setattr(corrupt_module, "_write", stop)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        corrupt(pool, out, corruptions=ALL, workers=0)
    assert not (out / "corruption.parquet").exists()
    with pytest.raises(UserError, match="is half of what `ambient corrupt` was to write"):
        find({"pool": str(out)})
    done = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert len(done) == 25
    monkeypatch.setattr(corrupt_module, "_write", real)
    assert corrupt(pool, out, corruptions=ALL).equals(whole)
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())


def test_two_runs_on_one_output_refuse_each_other(pool, tmp_path, monkeypatch):
    """The second finds the first at work, whatever it would do itself, and does not disturb it."""
    whole, out = corrupt(pool, tmp_path / "whole", corruptions=ALL), tmp_path / "out"
    real, refused = corrupt_module._write, []

    def meet(task, **options):
        if task.number in (0, 20):
            for seed in (0, 1):
                with pytest.raises(UserError, match=r"another run is writing .*out: wait for it or") as error:
                    corrupt(pool, out, corruptions=ALL, seed=seed, workers=0)
                refused.append(str(error.value))
        return real(task, **options)

    monkeypatch.setattr(corrupt_module, "_write", meet)
    assert corrupt(pool, out, corruptions=ALL, workers=0).equals(whole)
    assert len(refused) == 4 and not any("\n" in message for message in refused)
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


KILLED = """
import os, signal, sys
from pathlib import Path
from ambient.curate import corrupt
real, done = corrupt._write, []
def write(task, **options):
    done.append(task)
    if len(done) > 5:
        (Path(sys.argv[2]) / f".{task.number}.part").write_bytes(b"half a picture")
        os.kill(os.getpid(), signal.SIGKILL)
    return real(task, **options)
corrupt._write = write
corrupt.corrupt(Path(sys.argv[1]), Path(sys.argv[2]), corruptions=[corrupt.parse("blur-2")], workers=0)
"""


def test_a_run_that_was_killed_is_finished(pool, tmp_path):
    whole, out = corrupt(pool, tmp_path / "whole", corruptions=[parse("blur-2")]), tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(pool), str(out)], check=False)
    assert killed.returncode == -signal.SIGKILL and len(list(out.rglob("*.png"))) == 5
    assert corrupt(pool, out, corruptions=[parse("blur-2")]).equals(whole)
    assert not list(out.rglob(".lock"))


@pytest.mark.parametrize("damage", [lambda data: data[:0], lambda data: data[:-1], lambda data: bytes(len(data))])
def test_a_picture_that_a_power_cut_damaged_is_written_again(pool, tmp_path, damage):
    out = tmp_path / "out"
    whole = corrupt(pool, out, corruptions=ALL)
    (out / "corruption.parquet").unlink()
    victim = out / whole["uri"][7].as_py()
    before = victim.read_bytes()
    victim.write_bytes(damage(before))
    assert corrupt(pool, out, corruptions=ALL).equals(whole)
    assert victim.read_bytes() == before


def test_a_run_that_was_killed_before_its_note_is_finished(pool, tmp_path):
    whole, out = corrupt(pool, tmp_path / "whole", corruptions=ALL), tmp_path / "out"
    out.mkdir()
    (out / ".lock").touch()
    (out / "corruption.json.partial").write_text("{")
    assert corrupt(pool, out, corruptions=ALL).equals(whole)
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == ["corruption.json", "corruption.parquet"]


def test_a_folder_with_something_else_is_left_alone(pool, tmp_path):
    corrupt(pool, tmp_path / "out", corruptions=ALL)
    for change in ({"seed": 1}, {"fraction": 0.5}, {"corruptions": ALL[:2]}):
        with pytest.raises(UserError, match="another"):
            corrupt(pool, tmp_path / "out", **{"corruptions": ALL, **change})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not empty"):
        corrupt(pool, tmp_path / "full", corruptions=ALL)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]
    for inside in (pool, pool / "out", pool / "a" / ".." / "out"):
        with pytest.raises(UserError, match="inside"):
            corrupt(pool, inside, corruptions=ALL)
    with pytest.raises(UserError, match="is a file"):
        corrupt(pool, tmp_path / "full" / "thesis.tex", corruptions=ALL)


def test_a_folder_with_something_else_is_seen_before_the_pool_is_read(pool, tmp_path, monkeypatch):
    (tmp_path / "thesis.tex").touch()
    monkeypatch.setattr(corrupt_module, "find", None)  # would fail
    with pytest.raises(UserError, match="not empty"):
        corrupt(pool, tmp_path, corruptions=ALL)


def test_a_folder_that_something_else_came_to_meanwhile_is_left_alone(pool, tmp_path, monkeypatch):
    out, real = tmp_path / "out", corrupt_module.find

    def meet(roots):
        out.mkdir()
        (out / "thesis.tex").touch()
        return real(roots)

    monkeypatch.setattr(corrupt_module, "find", meet)
    with pytest.raises(UserError, match="not empty"):
        corrupt(pool, out, corruptions=ALL)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("note", [b"", b"{", b"\xff"])
def test_a_note_that_is_damaged_is_one_line(pool, tmp_path, note):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "corruption.json").write_bytes(note)
    with pytest.raises(UserError, match=r"corruption.json is damaged: delete .* or name another folder") as error:
        corrupt(pool, tmp_path / "out", corruptions=ALL)
    assert "\n" not in str(error.value)


def test_pools_without_pictures(tmp_path):
    (tmp_path / "pool").mkdir()
    with pytest.raises(UserError, match="no usable picture"):
        corrupt(tmp_path / "pool", tmp_path / "out", corruptions=ALL)
    (tmp_path / "pool" / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="no usable picture"):
        corrupt(tmp_path / "pool", tmp_path / "out", corruptions=ALL)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="neither a folder"):
        corrupt(tmp_path / "none", tmp_path / "out", corruptions=ALL)


def test_a_disk_that_is_full_is_the_users_to_clear(pool, tmp_path, monkeypatch):
    def fail(self, path, *_):
        path.write_bytes(b"half a picture")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(UserError, match="is full: free some space"):
        corrupt(pool, tmp_path / "out", corruptions=[parse("blur-1")])
    assert not list((tmp_path / "out").rglob("*.p*"))


def test_awkward_pictures_are_listed_and_nothing_is_written_outside(tmp_path):
    (tmp_path / "pool").mkdir()
    expected = {e.uri: e for e in build(tmp_path / "pool")}
    out = tmp_path / "deep" / "out"
    rows = rows_of(corrupt(tmp_path / "pool", out, corruptions=[parse("blur-1")], fraction=0.5))
    assert {u for u in rows if u != "failing.png"} == {u for u in expected if u != "failing.png"}
    good = [row for row in rows.values() if row["status"] == "ok"]
    assert len(good) > 40 and sum(row["corruption"] == "clean" for row in good) == len(good) - round(len(good) / 2)
    assert len({row["uri"].casefold() for row in good}) == len(good)
    assert all((out / row["uri"]).resolve().is_relative_to(out) and (out / row["uri"]).is_file() for row in good)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "pool"]
    assert all(row["uri"] is None and row["reason"] for row in rows.values() if row["status"] != "ok")
    assert rows["shard.zip!/deep/er/good.png"]["uri"].endswith("/shard.zip/deep/er/good.png")


def test_names_that_clash(tmp_path):
    pool = tmp_path / "pool"
    for number, name in enumerate(["a.png", "a.bmp", "A.PNG", "b.jpg", "b.png/c.png", "shard.zip.png/d.png"]):
        (pool / name).parent.mkdir(parents=True, exist_ok=True)
        (pool / name).write_bytes(encoded(Image.fromarray(noise(8, 8, number))))
    with zipfile.ZipFile(pool / "shard.zip", "w") as archive:
        archive.writestr("../../../e.png", encoded(Image.fromarray(picture())))
        archive.writestr("y" * 300 + "/" + "z" * 300 + ".png", encoded(Image.fromarray(255 - picture())))
    rows = rows_of(corrupt(pool, tmp_path / "out", corruptions=[Corruption(kind="blur", strength=1)], fraction=0))
    uris = {original: row["uri"] for original, row in rows.items()}
    assert uris["A.PNG"] == "clean/A.png" and uris["a.bmp"] == "clean/a-2.png" and uris["a.png"] == "clean/a-3.png"
    assert uris["b.jpg"] == "clean/b-2.png" and uris["b.png/c.png"] == "clean/b.png/c.png"
    assert uris.pop("shard.zip!/../../../e.png") is None
    for original, uri in uris.items():
        with Image.open(tmp_path / "out" / uri) as image:
            assert image.size == ((20, 24) if "!" in original else (8, 8))
