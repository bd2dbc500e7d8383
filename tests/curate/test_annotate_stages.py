"""The annotator's stages with a classifier that says what the test wants: splits, refusals, curves, vanished files."""

import errno
import math
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ambient.curate import annotate as stages
from ambient.curate import digests, learn, measure, parallel, reading
from ambient.curate.annotate import annotate, plan
from ambient.curate.calibrate import Calibration
from ambient.curate.config import AnnotateConfig
from ambient.curate.crossfit import CrossFitted, folds_of
from ambient.curate.curves import Curves, search
from ambient.curate.fit import Fit
from ambient.curate.identity import options_of, work_id_of
from ambient.curate.learn import warn_of_confounds
from ambient.curate.networks import ScoreConfig
from ambient.curate.noise import names_of
from ambient.curate.noisy import Sample
from ambient.curate.parallel import stop_processes
from ambient.curate.ranks import Top
from ambient.curate.reporter import Reporter
from ambient.curate.scoring import score_target
from ambient.curate.whole import write_whole
from ambient.schemas.errors import UserError
from ambient.schemas.manifest import check_rows, read_metadata
from ambient.schemas.space import Space
from manifests import rows_of
from photo_pool import tiles, write_photo_pool
from PIL import Image


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_photo_pool(tmp_path / "pool", clean=12, per_blur=8)


class Constant(torch.nn.Module):
    """A classifier that says the same of everything."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, x: torch.Tensor, _sigma: torch.Tensor, _group: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x),), self.logit)


def of(classifier: torch.nn.Module) -> CrossFitted:
    """The same classifier for every fold."""
    return CrossFitted([classifier, classifier], seed=0, groups=("",))


Stub = Callable[..., None]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    """Replaces the classifier by one that always says the same logit, "trained" to the accuracy given."""

    def install(logit: float = 0.0, accuracy: float = 1.0, *, turned: bool = True) -> None:
        def fit(*sets: Sample, **_options: object) -> Fit:
            install.shapes = [tuple(sample.pictures.shape) for sample in sets]
            found = {"held_out_loss": 0.5, "accuracy": accuracy, "steps": 1, "turned": turned}
            return Fit(members=[Constant(logit)] * 2, splits=[], **found)

        monkeypatch.setattr(learn, "cross_fit", fit)
        monkeypatch.setattr(learn, "save_classifier", lambda path, _: write_whole(path, b"stub"))
        monkeypatch.setattr(learn, "load_classifier", lambda _: (of(Constant(logit)), "0" * 32))
        monkeypatch.setattr(learn, "CrossFitted", lambda *_, **__: None)
        monkeypatch.setattr(learn, "calibrate", lambda *_: Calibration(bands=[], before=[], after=[]))
        for name in ("fold_spread", "warn_of_confounds"):
            monkeypatch.setattr(learn, name, lambda *_, **__: np.zeros(1))

    return install


def run(pool: Path, **changes: object) -> dict[str, dict]:
    """Rows of the manifest that a short run writes beside the pool."""
    judged = {} if "sigma_min" in changes else {"draws": 1}
    changes = {**judged, "clean": pool / "clean", **changes}
    out = annotate(pool, pool.parent / "m.parquet", AnnotateConfig(**changes), device="cpu", workers=2)
    return rows_of(out)


def refusal(pool: Path, *, overwrite: bool = False, **changes: object) -> str:
    out = pool.parent / "m.parquet"
    before = out.read_bytes() if out.exists() else None
    with pytest.raises(UserError) as error:
        config = AnnotateConfig(**{"draws": 1, "clean": pool / "clean", **changes})
        annotate(pool, out, config, device="cpu", overwrite=overwrite, reporter=Reporter(quiet=True))
    assert (out.read_bytes() if out.exists() else None) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def test_parts_that_are_finished_are_not_done_again(small: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub()
    monkeypatch.setattr(reading, "RECORDS_PER_PART", 10)
    monkeypatch.setitem(measure.PER_PART, "cpu", 10)
    real, seen = measure.cross_search, []

    def fail_at_the_second(*arguments: object, **options: object) -> Curves:
        seen.append(arguments)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(measure, "cross_search", fail_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(small)
    monkeypatch.setattr(reading, "scan", None)
    monkeypatch.setattr(learn, "cross_fit", None)
    assert len(run(small)) == 28
    assert len(seen) == 2 + 2  # of three parts, the first was there


@pytest.mark.parametrize(("per_part", "waiting"), [(10, 0), (20, 1)])
def test_processes_that_read_wait_only_for_parts_that_need_them(
    small: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch, per_part: int, waiting: int
) -> None:
    stub()
    stop_processes()
    for module in (parallel, stages):
        monkeypatch.setattr(module, "MANY", 12)
    monkeypatch.setitem(measure.PER_PART, "cpu", per_part)
    real, seen = stages.measure, []

    def counted(*arguments: object) -> None:
        seen.append(len(parallel._pools))
        real(*arguments)

    monkeypatch.setattr(stages, "measure", counted)
    run(small)
    assert seen == [waiting]


def test_other_options_or_another_pool_need_overwrite(small: Path, stub: Stub) -> None:
    stub()
    run(small)
    assert "--overwrite" in refusal(small, epsilon=0.1)
    (small / "soft" / "000.png").unlink()
    assert "--overwrite" in refusal(small)
    out = annotate(small, small.parent / "m.parquet", AnnotateConfig(clean=small / "clean"), overwrite=True)
    assert len(rows_of(out)) == 27


def test_something_else_at_the_place_of_the_manifest(small: Path, stub: Stub) -> None:
    stub()
    out = small.parent / "m.parquet"
    out.write_text("precious")
    assert "by something else: choose another -o" in refusal(small)
    out.unlink()
    out.mkdir()
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is a folder"):
            annotate(small, out, AnnotateConfig(clean=small / "clean"), overwrite=overwrite)


def test_parts_of_other_options_are_not_used(
    small: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stages, "write_manifest", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        run(small, resolution=8)
    assert all(row["status"] == "ok" for row in run(small, resolution=16).values())
    assert "starting again" in capsys.readouterr().err
    assert read_metadata(small.parent / "m.parquet").space.resolution == 16


@pytest.mark.parametrize("option", ["scores", "classifier"])
def test_a_named_file_with_other_contents_is_another_run(
    option: str, small: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub()
    monkeypatch.setattr(stages, "load_classifier", lambda _: (SimpleNamespace(space=Space(resolution=8)), ""))
    file = score_target(small, small.parent / "file.parquet", ScoreConfig(), reporter=Reporter(quiet=True))
    table = pq.read_table(file)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stages, "write_manifest", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        run(small, **{option: file})
    pq.write_table(table.append_column("mine", pa.nulls(len(table), pa.float32())), file)
    run(small, **{option: file})
    assert "starting again" in capsys.readouterr().err
    run(small, **{option: file})
    assert "nothing to do" in capsys.readouterr().err
    pq.write_table(table, file)
    assert "--overwrite" in refusal(small, **{option: file})


def test_parts_of_another_kind_of_device_are_not_used() -> None:
    """They are cut elsewhere, and their classifier may have been trained for less long."""
    ids = [work_id_of("0" * 32, torch.device(name), None) for name in ("cpu", "cuda:0", "cuda:1")]
    assert ids[0] != ids[1] == ids[2]


@pytest.mark.parametrize("moment", ["train", "measure"])
def test_a_picture_that_changes_while_the_pool_is_annotated_is_named(
    moment: str, small: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its curve must not be that of other bytes than its id says."""
    stub()
    name = {"train": "trained", "measure": "measure"}[moment]
    real = getattr(stages, name)

    def meanwhile(*arguments: object) -> object:
        shutil.copy(small / "soft" / "003.png", small / "soft" / "002.png")
        return real(*arguments)

    monkeypatch.setattr(stages, name, meanwhile)
    found = run(small)
    row = found["soft/002.png"]
    assert (row["status"], row["reason"]) == ("unreadable", "its content has changed since it was first read")
    assert row["p_clean"] is row["sigma_min"] is None
    assert found["soft/003.png"]["status"] == "ok"


def test_one_threshold_for_all_needs_no_classifier(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("trained", "measure"):
        monkeypatch.setattr(stages, name, None)
    found = run(small, sigma_min=2.0)
    assert {row["sigma_min"] for row in found.values() if row["role"] == "pool"} == {2.0}
    assert {row["method"] for row in found.values() if row["role"] == "pool"} == {"fixed"}
    assert {row["sigma_min"] for row in found.values() if row["role"] == "clean"} == {0.0}
    assert not (small.parent / "m.parquet.classifier").exists()
    assert read_metadata(small.parent / "m.parquet").classifier is None
    (small.parent / "m.parquet").unlink()
    found = run(small, clean=None, sigma_min=0.5, where="source = 'soft'")
    assert {(row["source"] == "soft", row["role"], row["sigma_min"]) for row in found.values()} == {
        (True, "pool", 0.5),
        (False, "clean", 0.0),
    }
    (small.parent / "m.parquet").unlink()
    found = run(small, clean=None, sigma_min=0.5, clean_top=Top(share=0.25, by=("sharpness",)))
    assert [row["sigma_min"] for row in found.values()].count(0.0) == 7


def test_a_predicate_that_leaves_no_clean_picture_is_said(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for where, clean in (("true", False), ("source = 'soft'", True)):
        config = AnnotateConfig(resolution=8, sigma_min=0.5, where=where)
        annotate(small, small.parent / "m.parquet", config, device="cpu", overwrite=True, reporter=Reporter())
        said = capsys.readouterr().err
        assert ("picks every picture, so none is clean" in said) != clean
        assert f"usable pictures, by what --where {where!r} leaves" in said
    assert read_metadata(small.parent / "m.parquet").clean_set == "what --where \"source = 'soft'\" leaves"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_min": -1.0}, "a number >= 0"),
        ({"sigma_min": 1.0, "per": "source"}, "takes the place of a classifier: leave out --per"),
        ({"sigma_min": 1.0, "epsilon": 0.1, "draws": 2, "steps": 9}, "leave out --epsilon, --draws, --steps"),
        ({"sigma_min": 1.0, "crossing": "first"}, "leave out --crossing"),
        ({"classifier": Path("a"), "steps": 9}, "takes the place of training one: leave out --steps"),
        ({"where": "true"}, "give that, too"),
        ({"sigma_min": 1.0, "where": "true", "clean_where": "true"}, "says what is not clean"),
    ],
)
def test_options_of_one_threshold_that_contradict_each_other(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AnnotateConfig(**options)


def test_two_halves_of_one_population_are_refused(tmp_path: Path) -> None:
    """Real training on a random split: there is nothing to learn, and it must not call everything clean."""
    pool = tmp_path / "pool"
    for number, tile in enumerate(tiles(600)):
        folder = pool / ("clean" if number % 4 < 2 else "rest")
        folder.mkdir(parents=True, exist_ok=True)
        tile.save(folder / f"{number:03d}.png")
    message = refusal(pool, steps=20)
    assert "cannot tell clean pictures from the others" in message
    assert "--accept-indistinguishable" in message
    assert not (tmp_path / "m.parquet.parts" / "classifier.safetensors").exists()


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 0.599])
def test_a_classifier_that_learned_nothing_is_refused_unless_accepted(
    small: Path, stub: Stub, accuracy: float, capsys: pytest.CaptureFixture[str]
) -> None:
    stub(0.0, accuracy)
    for _ in range(2):  # the same command again does not get past it either
        assert f"balanced accuracy {accuracy:.3f}" in refusal(small)
    assert {row["sigma_min"] for row in run(small, accept_indistinguishable=True).values()} == {0.0}
    assert "do not trust these thresholds" in capsys.readouterr().err


def test_accuracy_of_just_enough_passes(small: Path, stub: Stub) -> None:
    stub(0.0, 0.6)
    assert len(run(small)) == 28


def test_the_classifier_sees_every_usable_picture_once(small: Path, stub: Stub) -> None:
    stub()
    run(small)
    assert stub.shapes == [(12, 3, 16, 16), (16, 3, 16, 16)]


def test_a_curve_that_never_crosses_is_inf_and_said_aloud(
    small: Path, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    stub(-3.0)
    rows = run(small)
    assert {row["sigma_min"] for row in rows.values() if row["role"] == "pool"} == {math.inf}
    assert {row["sigma_min"] for row in rows.values() if row["role"] == "clean"} == {0.0}
    said = capsys.readouterr().err
    assert "warning: 16 of them look wrong at every noise level" in said
    assert "8 in soft, 8 in blurred" in said


def test_p_clean_and_epsilon(small: Path, stub: Stub) -> None:
    stub(math.log(0.42 / 0.58))
    rows = run(small)
    np.testing.assert_allclose([row["p_clean"] for row in rows.values()], 0.42, rtol=1e-6)
    assert rows["soft/000.png"]["sigma_min"] == math.inf
    config = AnnotateConfig(clean=small / "clean", draws=1, epsilon=0.1)
    again = rows_of(annotate(small, small.parent / "m.parquet", config, overwrite=True))
    assert again["soft/000.png"]["sigma_min"] == 0.0


@pytest.mark.parametrize("brightened", [0, 60])
def test_a_clean_set_of_another_brightness_is_said(
    tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], brightened: int
) -> None:
    """It is lighter, the rest is blurred: only the first counts as content."""
    stub()
    monkeypatch.setattr(learn, "warn_of_confounds", warn_of_confounds)
    pool = write_photo_pool(tmp_path / "pool", clean=100, per_blur=50)
    for path in (pool / "clean").iterdir():
        Image.open(path).point(lambda level: level + brightened).save(path)
    run(pool)
    said = [line for line in capsys.readouterr().err.splitlines() if "differ in content" in line]
    assert len(said) == bool(brightened)
    assert all("warning: clean and other" in line and "by brightness alone with 0." in line for line in said)


@pytest.mark.parametrize("few", [12, 13])
def test_a_small_clean_set_is_said(
    small: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], few: int
) -> None:
    stub()
    monkeypatch.setattr(learn, "_SMALL", few)
    run(small)
    said = "warning: only 12 clean pictures: thresholds are rough, and their intervals wide"
    assert (said in capsys.readouterr().err) == (few == 13)


def test_without_a_compiler_nothing_is_compiled(
    small: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub()
    asked = []
    monkeypatch.setitem(measure._WORTH_COMPILING, "cpu", 0)
    monkeypatch.setattr(measure, "missing_to_compile", lambda device: "C++ compiler (g++)")
    monkeypatch.setattr(measure, "search", lambda *a, compiled, **k: asked.append(compiled) or search(*a, **k))
    run(small)
    assert asked and not any(asked)
    assert "not compiled, which would be faster: no C++ compiler (g++) was found" in capsys.readouterr().err


@pytest.mark.parametrize("turned", [True, False])
def test_training_that_ended_before_it_was_sure_is_said(
    small: Path, stub: Stub, capsys: pytest.CaptureFixture[str], *, turned: bool
) -> None:
    stub(turned=turned)
    run(small)
    assert ("before the loss on held-out pictures had turned" not in capsys.readouterr().err) == turned


def test_each_picture_is_judged_by_the_member_of_its_fold(
    small: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever parts and chunks the pictures come in."""
    stub()
    monkeypatch.setitem(measure.PER_PART, "cpu", 10)
    monkeypatch.setitem(measure._CHUNK_VALUES, "cpu", 4 * 3 * 16**2)
    both = CrossFitted([Constant(-1.0), Constant(1.0)], seed=3, groups=("",))
    monkeypatch.setattr(learn, "load_classifier", lambda _: (both, "0" * 32))
    rows = run(small).values()
    folds = folds_of(names_of([row["id"] for row in rows]), 2, 3)
    assert {0, 1} == set(folds.tolist())
    expected = torch.sigmoid(2.0 * folds - 1.0)[:, None].expand(-1, 48)
    np.testing.assert_allclose([row["p_clean"] for row in rows], expected, rtol=1e-6)


def test_what_was_written_before_there_were_folds_to_choose_is_known_again() -> None:
    before = {name: value for name, value in asdict(AnnotateConfig()).items() if name != "folds"}
    told = {name: str(before[name]) for name in ("clean", "scores", "classifier")}
    assert options_of(AnnotateConfig()) == digests.of_json(before | told)
    assert options_of(AnnotateConfig(folds=5)) != options_of(AnnotateConfig())


def test_as_many_classifiers_are_trained_as_folds_are_asked_for(
    small: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub()
    trained, asked = learn.cross_fit, []

    def fit(*sets: Sample, **options: object) -> Fit:
        asked.append(options["folds"])
        return trained(*sets, **options)

    monkeypatch.setattr(learn, "cross_fit", fit)
    run(small)
    (small.parent / "m.parquet").unlink()
    run(small, folds=5)
    assert asked == [2, 5]
    assert "folds must lie between 2 and 20, not 1" in refusal(small, folds=1)
    assert "leave out --folds" in refusal(small, folds=3, classifier=small)


@pytest.mark.parametrize("gone", [["soft/003.png"], ["clean/003.png"], ["soft", "blurred"]])
@pytest.mark.parametrize("per", ["picture", "source"])
def test_a_picture_that_vanishes_is_unreadable_and_the_run_goes_on(
    small: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch, gone: list[str], per: str
) -> None:
    stub()
    trained = learn.cross_fit

    def vanish(*sets: Sample, **options: object) -> Fit:
        for name in gone:
            shutil.rmtree(small / name) if (small / name).is_dir() else (small / name).unlink()
        return trained(*sets, **options)

    monkeypatch.setattr(learn, "cross_fit", vanish)
    rows = run(small, per=per)
    check_rows(pq.read_table(small.parent / "m.parquet"), "it")
    for uri, row in rows.items():
        missing = any(uri.startswith(name) for name in gone)
        assert row["status"] == ("unreadable" if missing else "ok")
        assert (row["sigma_min"] is None, row["p_clean"] is None, row["method"] is None) == (missing,) * 3
        assert ("No such file" in (row["reason"] or "")) == missing


def test_pictures_that_all_vanish_before_training(small: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub()
    real = stages._space
    monkeypatch.setattr(stages, "_space", lambda *arguments: (shutil.rmtree(small / "clean"), real(*arguments))[1])
    assert "is the pool being changed" in refusal(small)


def test_clean_pictures_outside_the_pool_count_once(small: Path, stub: Stub) -> None:
    stub(-3.0)
    outside = small.parent / "good"
    shutil.move(small / "clean", outside)
    for name in ("000.png", "001.png"):
        shutil.copy(outside / name, small / "soft" / f"copy-{name}")
    shutil.copy(small / "soft" / "000.png", small / "blurred" / "copy.png")
    rows = run(small, clean=outside)
    assert [u for u, r in rows.items() if r["role"] == "clean"] == [f"clean:{n:03d}.png" for n in range(12)]
    assert {u: r["reason"] for u, r in rows.items() if r["status"] == "duplicate"} == {
        "soft/copy-000.png": "same content as clean:000.png",
        "soft/copy-001.png": "same content as clean:001.png",
        "soft/000.png": "same content as blurred/copy.png",
    }
    assert {rows[f"clean:{n:03d}.png"]["status"] for n in range(12)} == {"ok"}
    roots = read_metadata(small.parent / "m.parquet").roots
    assert roots == {"pool": str(small), "clean": str(outside)}


def test_clean_by_predicate_and_by_ranks(small: Path, stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub()
    rows = run(small, clean=None, clean_where="source = 'clean' AND uri < 'clean/011'")
    assert sorted(u for u, row in rows.items() if row["role"] == "clean") == [f"clean/{n:03d}.png" for n in range(11)]
    (small.parent / "m.parquet").unlink()
    write_photo_pool(small.parent / "more", clean=100, per_blur=40, seed=5)
    rows = run(small.parent / "more", clean=None)
    assert sum(row["role"] == "clean" for row in rows.values()) == 10
    sources = [row["source"] for row in rows.values() if row["role"] == "clean"]
    assert sources.count("clean") >= 8  # of 10, on 16 x 16 pixels
    assert "blurred" not in sources
    said = capsys.readouterr().err
    assert "clean set: 10 of 180 usable pictures, by the top 5% by undamaged" in said
    assert "undamaged and sharpness" in said
    assert read_metadata(small.parent / "m.parquet").clean_set == "the top 5% by undamaged"


def test_clean_by_rank_with_a_preview(small: Path, stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub()
    out = small.parent / "m.parquet"
    config = AnnotateConfig(clean_top=Top(share=0.5, by=("sharpness", "noise"), within="source"), draws=1)
    annotate(small, out, config, device="cpu", preview=True)
    rows = rows_of(out)
    assert {s: sum(r["source"] == s and r["role"] == "clean" for r in rows.values()) for s in ("clean", "soft")} == {
        "clean": 6,
        "soft": 4,
    }
    metadata = read_metadata(out)
    assert "--clean-top 0.5 --by sharpness,noise --within source" in metadata.command
    assert metadata.clean_set == "the top 50% by the mean of the ranks in sharpness, noise within each source"
    with Image.open(small.parent / "m.clean.png") as sheet:
        assert sheet.format == "PNG"
    for other in ({"clean": small / "clean"}, {"sigma_min": 1.0}, {"classifier": small / "c"}, {"clean_where": "true"}):
        with pytest.raises(UserError, match="--preview shows a choice by rank"):
            annotate(small, out, AnnotateConfig(**other), device="cpu", preview=True)
    with pytest.raises(UserError, match="--update keeps the one there is"):
        annotate(small, out, config, device="cpu", preview=True, update=True)
    capsys.readouterr()
    annotate(small, out, config, device="cpu", preview=True)
    assert "--preview needs --overwrite here" in capsys.readouterr().err


def test_bad_clean_sets_are_one_line(small: Path, stub: Stub) -> None:
    stub()
    (small / "empty").mkdir()
    assert "no usable picture is clean by --clean" in refusal(small, clean=small / "empty")
    assert "every usable picture is clean" in refusal(small, clean=small)
    assert "there is no clean set at" in refusal(small, clean=small / "nowhere")
    assert "no usable picture is clean" in refusal(small, clean=None, clean_where="width > 1000")
    assert "every usable picture is clean" in refusal(small, clean=None, clean_where="true")
    assert "SQL: " in refusal(small, clean=None, clean_where="widht > 3")
    assert "only 8 usable clean" in refusal(small, clean=small / "soft")
    assert "give one of them" in refusal(small, clean_where="true")


def test_bad_pools_are_one_line(tmp_path: Path, stub: Stub) -> None:
    stub()
    pool = tmp_path / "pool"
    assert "there is no pool at" in refusal(pool, clean=None)
    pool.mkdir()
    assert "there is no picture in" in refusal(pool, clean=None)
    (pool / "notes.txt").write_text("hello")
    assert "1 txt" in refusal(pool, clean=None)
    for name in ("a.png", "b.jpg"):
        (pool / name).write_bytes(b"torn")
    assert "none of the 2 pictures can be used; the first, 'a.png'" in refusal(pool, clean=None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"per": "folder"}, "picture or source"),
        ({"crossing": "last"}, "rising or first"),
        ({"channels": 2}, "1 or 3 channels"),
        ({"resolution": 4}, "smallest is 8"),
        ({"resolution": 0}, "smallest is 8"),
        ({"epsilon": 0.5}, "epsilon"),
        ({"draws": 0}, "draws"),
        ({"draws": 5000}, "draws"),
        ({"steps": 0}, "steps"),
    ],
)
def test_bad_options_are_one_line_before_anything_is_read(small: Path, change: dict, words: str) -> None:
    assert words in refusal(small, **change)
    assert not (small.parent / "m.parquet.parts").exists()


def test_a_pool_that_is_one_zip_archive(small: Path, stub: Stub) -> None:
    stub()
    archive = small.parent / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(small.rglob("*.png")):
            file.write(path, path.relative_to(small).as_posix())
    rows = run(archive, clean=None, clean_where="source = 'clean'")
    assert sorted(rows) == sorted(path.relative_to(small).as_posix() for path in small.rglob("*.png"))
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert read_metadata(small.parent / "m.parquet").roots == {"pool": str(archive)}


def test_resolution_fits_the_pool_and_grey_is_one_channel(
    small: Path, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    """28 tiles of 16x16 and 28 of 80x70: the median short side is 43."""
    stub()
    for number, tile in enumerate(tiles(28, seed=1)):
        tile.resize((80, 70)).save(small / "soft" / f"large-{number}.png")
    run(small, channels=1)
    assert read_metadata(small.parent / "m.parquet").space == Space(resolution=32, channels=1)
    assert "the largest power of two <= the median short side (43)" in capsys.readouterr().err
    assert stub.shapes[0][1:] == (1, 32, 32)


def test_a_full_disk_at_each_stage_leaves_no_manifest(small: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def no_room_for_weights(path: Path, data: bytes) -> int:
        return full() if "classifier" in path.name else write_bytes(path, data)

    stub()
    write_bytes = Path.write_bytes
    for target, fails in {
        "pathlib.Path.write_bytes": no_room_for_weights,
        "ambient.curate.manifest.pq.write_table": full,
        "ambient.curate.manifest.pq.ParquetWriter": full,
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(target, fails)
            assert "is full: free some space" in refusal(small)
        assert not (small.parent / "m.parquet").exists()
    assert len(run(small)) == 28


def test_plan_says_how_much_without_reading(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "scan", None)
    (small / "notes.txt").write_text("hello")
    found = plan(small, AnnotateConfig(clean=small / "clean", draws=8))
    assert found["pictures_found"] == 28
    assert found["other_files"] == 1
    assert found["classifier_evaluations"] == 28 * 48 * 8
    assert sorted(path.name for path in small.parent.iterdir()) == ["pool"]


def test_arguments_say_the_same_configuration() -> None:
    assert AnnotateConfig().arguments() == []
    config = AnnotateConfig(clean_where="a = 'b c'", draws=3, accept_indistinguishable=True)
    assert config.arguments() == ["--clean-where", "a = 'b c'", "--draws", "3", "--accept-indistinguishable"]
