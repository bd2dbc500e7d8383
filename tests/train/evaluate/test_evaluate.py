"""`ambient eval` as a whole: what is evaluated against what, what the result says, what is kept and refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyiqa
import pytest
import torch
from ambient.curate.reporter import Reporter
from ambient.curate.scorers import Scorer
from ambient.schemas.errors import UserError
from ambient.schemas.manifest import METADATA_KEY, read_metadata
from ambient.schemas.space import Space
from ambient.train.evaluate import evaluate as module
from ambient.train.evaluate import reference as reference_module
from ambient.train.evaluate import sources
from ambient.train.evaluate.evaluate import EvalConfig, evaluate, plan, table
from ambient.train.evaluate.extractors import open_extractor
from ambient.train.evaluate.quality import compare_scores, win_rate
from ambient.train.evaluate.reference import reference_of
from ambient.train.evaluate.sources import common_space, is_manifest, open_source, read
from ambient.train.precondition import Denoiser
from in_process import run_command
from photo_pool import write_photo_pool
from PIL import Image
from scipy import stats
from small_pool import write_pool
from trained_run import PIXELS, write_run

QUIET = Reporter(quiet=True)
FAST = EvalConfig(num=24)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ambient" / "features"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16x16 photographs: clean 60, soft 40, blurred 40."""
    return write_photo_pool(tmp_path_factory.mktemp("photos") / "pool")


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of 36 fields of 8x8x3, every third one clean, labelled by their number mod 2."""
    folder = tmp_path_factory.mktemp("fields")
    return write_pool(folder, num=36, space=Space(resolution=8), labels=[i % 2 for i in range(36)])


def values(result: dict) -> dict[str, float]:
    return {name: measured["value"] for name, measured in result["measures"].items()}


def test_folders(pool: Path) -> None:
    """Clean against clean halves is near, blurred is far; every value lies in its interval, and the table shows it."""
    same = evaluate(pool / "clean", pool / "clean", FAST, reporter=QUIET, device="cpu")
    soft = evaluate(pool / "blurred", pool / "clean", FAST, reporter=QUIET, device="cpu")
    assert values(soft)["frechet"] > values(same)["frechet"]
    assert values(same)["memorised"] == 1
    assert values(same)["precision"] > 0.7
    assert values(soft)["memorised"] < 0.1
    assert soft["quality"]["sharpness"]["win_rate"]["high"] < 0.2
    assert soft["quality"]["sharpness"]["samples"] < soft["quality"]["sharpness"]["reference"]
    assert same["quality"]["noise"]["win_rate"]["value"] == pytest.approx(0.5, abs=0.1)
    for measured in soft["measures"].values():
        assert measured["low"] <= measured["value"] <= measured["high"]
    assert soft["samples"]["pictures"] == 24
    assert soft["reference"]["pictures"] == 60
    assert len(soft["features"]["digest"]) == 32
    assert soft["space"]["resolution"] == 16
    assert json.loads(json.dumps(soft)) == soft
    assert set(table(soft)["measure"].to_pylist()) >= {*soft["measures"], "sharpness wins"}


def test_the_command_prints_a_table_or_json_and_writes_a_file(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*options: str) -> tuple[int, str, str]:
        code = run_command("eval", pool / "soft", "--reference", pool / "clean", "--num", 20, *options)
        return code, *capsys.readouterr()

    code, out, _ = run("-o", str(tmp_path / "result.json"), "--device", "cpu")
    written = json.loads((tmp_path / "result.json").read_text())
    assert code == 0
    shown = {line.split()[0]: line.split()[1] for line in out.splitlines() if line}
    assert shown["frechet"] == f"{written['measures']['frechet']['value']:.4g}"
    code, out, _ = run("--json", "--device", "cpu")
    assert values(json.loads(out)) == pytest.approx(values(written), rel=1e-9)
    code, out, _ = run("--dry-run")
    assert (code, json.loads(out)["feature_evaluations"]) == (0, 20 + 60)
    code, out, err = run("--weights", "inception=none", "--device", "cpu")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "ambient: --weights inception=FILE: the features are texture"


def test_a_plan_says_how_much_and_writes_nothing(
    pool: Path, fields: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers are those of what is then done."""
    run = write_run(tmp_path / "run")
    config = EvalConfig(num=9)
    with monkeypatch.context() as patch:
        patch.setattr(sources, "read_bytes", None)
        before = sorted(tmp_path.rglob("*"))
        of_folders, of_run = plan(pool / "soft", pool / "clean", FAST), plan(run, fields, config)
        assert sorted(tmp_path.rglob("*")) == before
    assert [of_folders[f"{what}_pictures"] for what in ("sample", "reference")] == [24, 60]
    assert of_folders["denoiser_evaluations"] == 0
    assert of_run["pictures_to_draw"] == 9
    assert of_run["where"] == "role = 'clean'"
    assert plan(pool / "soft", fields, EvalConfig(num=9, where="label = 1"))["reference_pictures"] == 18
    calls = count_calls(monkeypatch)
    result = evaluate(run, fields, config, reporter=QUIET, device="cpu")
    assert [result[what]["pictures"] for what in ("samples", "reference")] == [9, of_run["reference_pictures"]]
    assert sum(calls) == of_run["denoiser_evaluations"]
    assert plan(run, fields, config)["pictures_to_draw"] == 0
    with pytest.raises(UserError, match="needed at least"):
        plan(pool / "soft", fields, EvalConfig(num=9, where="uri = '000.png'"))
    with pytest.raises(UserError, match="--where picks rows of a manifest"):
        plan(fields, pool / "clean", EvalConfig(num=9, where="label = 1"))


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pictures of each call of a denoiser from now on."""
    real, calls = Denoiser.forward, []

    def counted(self: Denoiser, x: torch.Tensor, *arguments: object) -> torch.Tensor:
        calls.append(len(x))
        return real(self, x, *arguments)

    monkeypatch.setattr(Denoiser, "forward", counted)
    return calls


def test_a_seed_decides(pool: Path) -> None:
    one, again, other = (
        evaluate(pool / "soft", pool / "clean", EvalConfig(num=24, seed=seed), reporter=QUIET, device="cpu")
        for seed in (0, 0, 1)
    )
    assert values(one) == pytest.approx(values(again), rel=1e-9)
    assert one["samples"]["fingerprint"] != other["samples"]["fingerprint"]


def test_a_run_is_drawn_from_once_and_its_copies_looked_for_in_its_manifest(tmp_path: Path, fields: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "config.json").write_text(json.dumps({"manifest": str(fields)}))
    result = evaluate(run, fields, FAST, reporter=QUIET, device="cpu")
    assert result["samples"]["pictures"] == 24
    assert result["samples"]["seeds"] == "0-23"
    assert result["reference"]["pictures"] == 12
    assert result["memorised_among"] == {"from": str(fields), "pictures": 36, "mirrored": False}
    npz = run / "generated" / "000000000100-24.npz"
    before = npz.stat().st_mtime_ns
    expected = pytest.approx(values(result)["frechet"], rel=1e-9)
    assert values(evaluate(run, fields, FAST, reporter=QUIET, device="cpu"))["frechet"] == expected
    assert npz.stat().st_mtime_ns == before
    assert values(evaluate(npz, fields, FAST, reporter=QUIET, device="cpu"))["frechet"] == expected


@pytest.mark.parametrize("flip", [False, True])
def test_mirrored_pictures_are_copies_where_the_run_mirrored(
    flip: bool, fields: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", flip=flip)
    (run / "config.json").write_text(json.dumps({"manifest": str(fields)}))
    pixels, _ = read(open_source(fields, where="true", workers=0, reporter=QUIET), PIXELS, workers=0, reporter=QUIET)
    np.savez(tmp_path / "mirrored.npz", arr_0=pixels.flip(3).permute(0, 2, 3, 1).numpy())
    monkeypatch.setattr(module, "draw", lambda *_, **__: tmp_path / "mirrored.npz")
    result = evaluate(run, fields, EvalConfig(num=36), reporter=QUIET, device="cpu")
    assert values(result)["memorised"] == flip
    assert result["memorised_among"]["mirrored"] == flip
    (meaning,) = (row["meaning"] for row in table(result).to_pylist() if row["measure"] == "memorised")
    assert meaning.endswith(", mirrored or not") == flip


def test_rows_of_a_manifest(fields: Path) -> None:
    def source(where: str | None):
        return open_source(fields, where=where, workers=0, reporter=QUIET)

    assert len(source(None)) == 12
    assert len(source("true")) == 36
    assert source("uri < '010.png'").uris == [f"{i:03d}.png" for i in range(10)]
    with pytest.raises(UserError, match="fits --where"):
        source("uri = 'none'")
    with pytest.raises(UserError, match="SQL"):
        source("nonsense = 1")
    pixels, kept = read(source("true"), read_metadata(fields).space, workers=2, reporter=QUIET)
    assert pixels.shape == (36, 3, 8, 8)
    assert kept == list(range(36))
    some = source("true").some(10, seed=3)
    assert some.ids == [source("true").ids[int(uri[:3])] for uri in some.uris]
    assert some.labels.tolist() == [int(uri[:3]) % 2 for uri in some.uris]


def test_a_pool_that_is_a_parquet_file_is_no_manifest(tmp_path: Path, fields: Path) -> None:
    pq.write_table(pa.table({"path": ["a.png"]}), tmp_path / "list.parquet")
    assert not is_manifest(tmp_path / "list.parquet")
    assert is_manifest(fields)


def test_pictures_that_cannot_be_read_are_left_out(tmp_path: Path, pool: Path) -> None:
    shutil.copytree(pool / "clean", tmp_path / "some")
    (tmp_path / "some" / "000.png").write_bytes(b"torn")
    source = open_source(tmp_path / "some", workers=2, reporter=QUIET)
    space = common_space(source, source)
    assert space.resolution == 16
    pixels, kept = read(source, space, workers=2, reporter=QUIET)
    assert len(pixels) == 59
    assert kept == list(range(1, 60))


def test_pools_of_two_sizes_are_compared_at_the_smaller(
    tmp_path: Path, pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which way round does not matter, and a run of that size is compared so, too."""
    for path in (pool / "clean").iterdir():
        (tmp_path / "large").mkdir(exist_ok=True)
        with Image.open(path) as picture:
            picture.resize((40, 40)).save(tmp_path / "large" / path.name)
    small, large = (open_source(path, workers=0, reporter=QUIET) for path in (pool / "clean", tmp_path / "large"))
    assert common_space(small, large).resolution == common_space(large, small).resolution == 16
    assert common_space(large, large).resolution == 32
    result = evaluate(tmp_path / "large", pool / "clean", FAST, device="cpu", workers=0)
    assert result["space"]["resolution"] == 16
    assert "pictures are compared as 16x16x3 pixels" in capsys.readouterr().err


def test_labels_of_a_folder_lie_beside_its_pictures(tmp_path: Path, pool: Path) -> None:
    shutil.copytree(pool / "clean", tmp_path / "labelled")
    for number in range(40):
        (tmp_path / "labelled" / f"{number:03d}.cls").write_text(str(number % 3))
    source = open_source(tmp_path / "labelled", workers=2, reporter=QUIET)
    assert source.labels.tolist() == [number % 3 for number in range(40)] + [-1] * 20


def test_the_reference_is_computed_once(pool: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, fields: Path) -> None:
    extractor = open_extractor("texture", torch.device("cpu"))
    source = open_source(pool / "clean", workers=0, reporter=QUIET)
    monkeypatch.setattr(reference_module, "MOST_IN_PAIRS", 20)
    first = reference_of(source, Space(resolution=16), extractor, workers=0, reporter=QUIET)
    assert (first.moments.num, len(first.features)) == (60, 20)
    (file,) = cache.iterdir()
    monkeypatch.setattr(reference_module, "features_of", None)  # not called again
    again = reference_of(source, Space(resolution=16), extractor, workers=0, reporter=QUIET)
    torch.testing.assert_close(again.features, first.features, rtol=0, atol=0)
    torch.testing.assert_close(again.moments.factor, first.moments.factor, rtol=0, atol=0)
    with pytest.raises(TypeError):  # another space, another content
        reference_of(source, Space(resolution=8), extractor, workers=0, reporter=QUIET)
    with pytest.raises(TypeError):
        reference_of(source.rows(range(50)), Space(resolution=16), extractor, workers=0, reporter=QUIET)
    monkeypatch.undo()
    file.write_bytes(file.read_bytes()[:100])
    torn = reference_of(source, Space(resolution=16), extractor, workers=0, reporter=QUIET)
    torch.testing.assert_close(torn.features[:20], first.features, rtol=0, atol=0)


def test_a_changed_pool_is_another_reference(pool: Path, cache: Path, tmp_path: Path) -> None:
    """Same names, one other picture: nothing of before is taken; with one that cannot be read nothing is kept."""
    extractor, space = open_extractor("texture", torch.device("cpu")), Space(resolution=16)
    shutil.copytree(pool / "clean", tmp_path / "mine")

    def found() -> torch.Tensor:
        source = open_source(tmp_path / "mine", workers=0, reporter=QUIET)
        return reference_of(source, space, extractor, workers=0, reporter=QUIET).moments.mean

    before, path = found(), sorted((tmp_path / "mine").iterdir())[0]
    shutil.copy(sorted((pool / "blurred").iterdir())[0], path)
    assert float((found() - before).abs().max()) > 1e-3
    assert len(list(cache.iterdir())) == 2
    path.write_bytes(path.read_bytes()[:40])
    found()
    assert len(list(cache.iterdir())) == 2


def test_what_is_missing_is_said_before_pictures_are_drawn(
    fields: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "draw", None)
    run = write_run(tmp_path / "run")
    with pytest.raises(UserError, match="no features"):
        evaluate(run, fields, EvalConfig(features="nonsense"), reporter=QUIET, device="cpu")
    with pytest.raises(UserError, match="neither a folder"):
        evaluate(run, tmp_path / "nothing", FAST, reporter=QUIET, device="cpu")
    with pytest.raises(UserError, match="3; 8 are needed"):
        evaluate(run, fields, EvalConfig(where="uri < '003.png'"), reporter=QUIET, device="cpu")
    with pytest.raises(UserError, match="--root elsewhere: there is none of that name; roots are pool"):
        evaluate(run, fields, FAST, roots={"elsewhere": "/"}, reporter=QUIET, device="cpu")


def test_what_is_measured_of_a_run_is_written_down(fields: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Which checkpoint, how far it had come, which average and how it was drawn; one that is not finished is said."""
    run = write_run(tmp_path / "run")
    result = evaluate(run, fields, FAST, reporter=Reporter(), device="cpu")
    drawn = np.load(run / "generated" / "000000000100-24.npz")
    about = json.loads(str(drawn["about"]))
    assert result["samples"]["run"] == {
        "checkpoint": about["checkpoint"],
        "images": 100,
        "of_images": 200_000,
        "ema_std": 0.05,
        "solver": about["solver"],
        "steps": about["steps"],
    }
    said = f"{run} is not finished: 100 of 200,000 pictures are trained on"
    assert said in " ".join(capsys.readouterr().err.split())
    assert plan(run, fields, FAST)["run"] == result["samples"]["run"]
    assert said in " ".join(capsys.readouterr().err.split())
    of_file = evaluate(run / "generated" / "000000000100-24.npz", fields, FAST, reporter=QUIET, device="cpu")
    assert of_file["samples"]["run"] is None


def test_a_run_without_a_checkpoint_is_no_folder_of_grids(pool: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(pool / "soft", run / "samples")
    (run / "config.json").write_text(json.dumps({"manifest": str(tmp_path / "m.parquet")}))
    for measured in (evaluate, plan):
        with pytest.raises(UserError, match="has no checkpoint yet"):
            measured(run, pool / "clean", EvalConfig(num=8))
    (run / "config.json").write_text('{"of": "something else"}')
    assert plan(run, pool / "clean", EvalConfig(num=8))["run"] is None


def test_samples_of_a_manifest_are_all_its_usable_rows(fields: Path) -> None:
    config = EvalConfig(num=100)
    assert plan(fields, fields, config)["sample_pictures"] == 36
    result = evaluate(fields, fields, config, reporter=QUIET, device="cpu")
    assert [result[what]["pictures"] for what in ("samples", "reference")] == [36, 12]


def test_a_root_is_moved_in_the_manifest_that_has_it(fields: Path, tmp_path: Path) -> None:
    """Samples and reference are two manifests, of which one has moved."""
    other = write_pool(tmp_path / "other", num=12, space=Space(resolution=8))
    table, metadata = pq.read_table(other), read_metadata(other)
    moved = replace(metadata, roots={"theirs": str(tmp_path / "gone")})
    uris = pa.array([f"theirs:{uri}" for uri in table["uri"].to_pylist()])
    table = table.set_column(table.column_names.index("uri"), "uri", uris)
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: moved.to_bytes()}), other)
    roots = {"theirs": str(tmp_path / "other" / "pool")}
    result = evaluate(other, fields, EvalConfig(num=12), roots=roots, reporter=QUIET, device="cpu")
    assert result["samples"]["pictures"] == 12


def test_labels_train_a_classifier_on_the_other_half(
    fields: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file that it is kept in, which may be named another time, is said, also where it was there before."""
    config = EvalConfig(num=24, features="labels", where="true")
    for _ in range(2):
        result = evaluate(fields, fields, config, device="cpu")
        (kept,) = cache.glob("*-labels.safetensors")
        assert f"the classifier of these labels is {kept}\n" in capsys.readouterr().err
    assert open_extractor(str(kept), torch.device("cpu")).digest == result["features"]["digest"]
    assert result["features"]["dimensions"] == 128
    assert 8 <= result["reference"]["pictures"] <= 28
    with pytest.raises(UserError, match="no labels of two kinds"):
        evaluate(fields, write_pool(tmp_path / "p", num=20, space=Space(resolution=8)), config, reporter=QUIET)


def test_the_classifier_of_labels_is_kept_by_its_seed_and_not_trained_for_nothing(
    fields: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(seed: int) -> str:
        config = EvalConfig(num=24, features="labels", where="true", seed=seed)
        return evaluate(fields, fields, config, reporter=QUIET, device="cpu")["features"]["digest"]

    assert digest(0) == digest(0) != digest(1)
    monkeypatch.setattr(module, "train_classifier", None)
    config = EvalConfig(num=24, features="labels", where="uri < '010.png'")
    with pytest.raises(UserError, match=r"the half of .* that no classifier is trained on: [0-7]; 8 are needed"):
        evaluate(fields, fields, config, reporter=QUIET, device="cpu")


def test_measures_by_networks_come_with_their_good_end(pool: Path) -> None:
    """pyiqa's piqe, which needs no weights and is better when low, against pyiqa itself."""
    config = replace(FAST, by=("piqe", "sharpness"))
    found = evaluate(pool / "blurred", pool / "clean", config, reporter=QUIET, device="cpu")["quality"]
    metric = pyiqa.create_metric("piqe", device="cpu")
    pixels = [np.array(Image.open(path)) for path in sorted((pool / "clean").iterdir())]
    alone = [float(metric(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)) for image in pixels]
    assert found["piqe"]["reference"] == pytest.approx(np.median(alone), rel=1e-4)
    wins = found["piqe"]["win_rate"]["value"]
    assert (wins > 0.5) == (found["piqe"]["samples"] < found["piqe"]["reference"])
    assert wins != 0.5
    assert set(found) - {"piqe"} == set(evaluate(pool / "clean", pool, FAST, reporter=QUIET, device="cpu")["quality"])


def test_a_measure_that_can_judge_nothing_is_left_out_aloud(pool: Path) -> None:
    def measure(_: torch.Tensor) -> torch.Tensor:
        raise ValueError("too small")

    scorer, said = Scorer(name="musiq", cut=lambda pixels: [pixels], measure=measure), list[str]()
    pixels = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    found = compare_scores(pixels, pixels, workers=0, scorers=[scorer], warn=said.append)
    assert "musiq" not in found
    assert "sharpness" in found
    assert said[0] == "musiq failed on some pictures: ValueError: too small"
    assert said[-1] == "musiq can judge 0 of 3 samples and 0 of 3 reference pictures: left out"


def test_pictures_that_a_measure_cannot_judge_are_counted() -> None:
    """As flat ones: they are not the best of the samples."""

    def measure(x: torch.Tensor) -> torch.Tensor:
        means = x.float().mean(dim=(1, 2, 3))
        return torch.where(means > 0, means, torch.nan)

    scorer, said = Scorer(name="musiq", cut=lambda pixels: [pixels], measure=measure), list[str]()
    real = torch.arange(1, 7, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 16, 16).contiguous()
    samples = torch.cat([torch.zeros(4, 3, 16, 16, dtype=torch.uint8), real[:2]])
    found = compare_scores(samples, real, workers=0, scorers=[scorer], warn=said.append)["musiq"]
    assert found["unjudged"] == {"samples": 4, "reference": 0}
    assert found["samples"] == 1.5
    assert said == ["musiq can judge 2 of 6 samples and 6 of 6 reference pictures, and tells of those"]


@pytest.mark.parametrize(
    ("by", "weights", "message"),
    [
        ("musik", {}, "did you mean 'musiq'"),
        ("phash", {}, "by measures of quality, which phash is not"),
        ("clip_embedding", {}, "by measures of quality, which clip_embedding is not"),
        ("musiq", {"cnniqa": "x"}, "--weights cnniqa=FILE: the features are texture"),
    ],
)
def test_measures_that_there_are_not(pool: Path, by: str, weights: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(pool, pool, replace(FAST, by=(by,), weights=weights), reporter=QUIET, device="cpu")


def test_win_rate_is_that_of_mann_and_whitney() -> None:
    random = np.random.default_rng(0)
    x, y = random.integers(0, 9, 50).astype(float), random.integers(2, 9, 70).astype(float)
    found = win_rate(x, y)
    assert found.value == pytest.approx(stats.mannwhitneyu(x, y).statistic / (50 * 70))
    repeated = [
        win_rate(random.integers(0, 9, 50).astype(float), random.integers(2, 9, 70).astype(float)).value
        for _ in range(300)
    ]
    assert found.error == pytest.approx(np.std(repeated), rel=0.25)


def test_a_win_rate_of_0_or_1_is_not_certain() -> None:
    low, high = np.arange(20.0), np.arange(20.0, 50.0)
    for x, y, value in ((low, high, 0.0), (high, low, 1.0)):
        found = win_rate(x, y)
        assert found.value == value
        assert found.within is not None
        assert found.within == pytest.approx((0.0, 0.119) if value == 0 else (0.881, 1.0), abs=1e-3)  # Wilson, n = 20


def test_what_cannot_be_evaluated_is_one_line(tmp_path: Path, pool: Path, fields: Path) -> None:
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "flat.npz", arr_0=np.zeros((9, 4), np.uint8))
    np.savez(tmp_path / "large.npz", arr_0=np.zeros((9, 32, 32, 3), np.uint8))
    (tmp_path / "torn.npz").write_bytes(b"PK")
    (tmp_path / "nothing.npz").touch()
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros((9, 8, 8, 3), np.uint8))
    np.savez(tmp_path / "scalar.npz", arr_0=np.uint8(3))
    np.savez_compressed(tmp_path / "bits.npz", arr_0=np.zeros((99, 32, 32, 3), np.uint8))
    data = bytearray((tmp_path / "bits.npz").read_bytes())
    data[60:70] = bytes(range(240, 250))
    (tmp_path / "bits.npz").write_bytes(data)
    for name, label in {"short": np.arange(8), "words": np.array(["cat"] * 9)}.items():
        np.savez(tmp_path / f"{name}.npz", arr_0=np.zeros((9, 8, 8, 3), np.uint8), label=label)
    cases = [
        (tmp_path / "empty", pool, "no picture in"),
        (tmp_path / "none", pool, "neither a folder"),
        (tmp_path / "flat.npz", pool, "square uint8"),
        *((tmp_path / f"{name}.npz", pool, "no npz with pictures") for name in ("torn", "nothing", "array", "bits")),
        (tmp_path / "scalar.npz", pool, "no npz with pictures"),
        (tmp_path / "short.npz", pool, "label of .*short.npz is int64 .8,.: a whole number for each of its 9"),
        (tmp_path / "words.npz", pool, "label of .*words.npz"),
        (tmp_path / "large.npz", fields, "pictures of one size"),
    ]
    for samples, reference, said in cases:
        with pytest.raises(UserError, match=said) as error:
            evaluate(samples, reference, FAST, reporter=QUIET, device="cpu")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"reference pictures of .*five: 5; 8 are needed"):
        (tmp_path / "five").mkdir()
        for path in sorted((pool / "clean").iterdir())[:5]:
            shutil.copy(path, tmp_path / "five")
        evaluate(pool / "clean", tmp_path / "five", EvalConfig(num=8), reporter=QUIET, device="cpu")
    with pytest.raises(UserError, match="leave it out"):
        evaluate(pool, pool, EvalConfig(where="true"), reporter=QUIET, device="cpu")
    with pytest.raises(UserError, match="at least 8"):
        EvalConfig(num=2)


def test_too_few_pictures_are_said(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module.warn_of_few(100, 50, 134, Reporter())
    assert "too large" in capsys.readouterr().err
    module.warn_of_few(1000, 500, 134, Reporter())
    assert capsys.readouterr().err == ""
