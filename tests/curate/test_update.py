"""Adding to a manifest: only what is new or changed is annotated, by the classifier that made it."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ambient.curate import images, learn, reading
from ambient.curate.annotate import annotate, plan
from ambient.curate.config import AnnotateConfig
from ambient.curate.crossfit import load_classifier
from ambient.curate.decide import Rule
from ambient.curate.networks import ScoreConfig
from ambient.curate.ranks import Top
from ambient.curate.reporter import Reporter
from ambient.curate.rethreshold import rethreshold
from ambient.curate.scoring import score_target
from ambient.curate.uris import close_archives
from ambient.schemas.errors import UserError
from ambient.schemas.manifest import check_rows, read_metadata
from photo_pool import tiles, write_photo_pool
from PIL import Image, ImageFilter
from shards import write_tar

SHORT = {"steps": 2, "draws": 1, "resolution": 8, "accept_indistinguishable": True}
Manifest = dict[str, dict]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write_photo_pool(tmp_path / "pool", clean=12, per_blur=8)


def run(pool: Path, *, update: bool = False, quiet: bool = True, **changes: object) -> Manifest:
    config = AnnotateConfig(**{"clean": pool / "clean", **SHORT, **changes})
    out = pool.parent / "m.parquet"
    annotate(pool, out, config, device="cpu", workers=2, update=update, reporter=Reporter(quiet=quiet))
    check_rows(pq.read_table(out), "it")
    assert not out.with_name("m.parquet.parts").exists()
    close_archives()
    return {row["uri"]: row for row in pq.read_table(out).to_pylist()}


def add(pool: Path, name: str, number: int = 0) -> Path:
    path = pool / name
    path.parent.mkdir(exist_ok=True)
    tiles(120)[60 + number].filter(ImageFilter.GaussianBlur(1.5)).save(path)
    return path


def test_only_what_is_new_or_changed_is_annotated(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = run(pool)
    metadata = read_metadata(pool.parent / "m.parquet")
    add(pool, "soft/new.png")
    add(pool, "blurred/003.png", 1)
    (pool / "soft" / "torn.png").write_bytes((pool / "soft" / "000.png").read_bytes()[:80])
    for name in ("soft/001.png", "blurred/007.png"):
        (pool / name).unlink()
    monkeypatch.setattr(learn, "cross_fit", None)  # would fail: nothing is trained
    real, scanned = reading.scan, []
    monkeypatch.setattr(
        reading, "scan", lambda found, *a, **k: scanned.extend(found.candidates) or real(found, *a, **k)
    )
    after = run(pool, update=True, quiet=False)
    changed = {"soft/new.png", "blurred/003.png", "soft/torn.png"}
    assert {candidate.uri for candidate in scanned} == changed
    assert set(after) == set(before) - {"soft/001.png", "blurred/007.png"} | changed
    assert list(after) == sorted(after)
    for uri, row in after.items():
        if uri not in changed:
            assert row == before[uri]
    assert (after["soft/torn.png"]["status"], after["soft/torn.png"]["sigma_min"]) == ("unreadable", None)
    messages = capsys.readouterr().err
    assert "2 pictures have vanished and leave the manifest: blurred/007.png, soft/001.png" in messages
    assert "2 new and 1 changed or unreadable pictures; the other 25 stay" in messages
    now = read_metadata(pool.parent / "m.parquet")
    assert (now.classifier, now.space, now.command) == (metadata.classifier, metadata.space, metadata.command)
    assert now.fingerprint != metadata.fingerprint


def test_an_update_gives_what_annotating_all_with_that_classifier_gives(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [add(pool, f"soft/new{number}.png", number) for number in range(3)]
    names += [add(pool, "clean/new.png", 7)]
    hidden = [shutil.move(path, pool.parent / f"hidden{n}.png") for n, path in enumerate(names)]
    run(pool)
    kept = (pool.parent / "m.parquet.classifier").read_bytes()
    for path, now in zip(names, hidden, strict=True):
        shutil.move(now, path)
    after, shares = run(pool, update=True), read_metadata(pool.parent / "m.parquet").pool_share
    assert after["clean/new.png"]["role"] == "clean" and after["clean/new.png"]["sigma_min"] == 0
    (pool.parent / "m.parquet").unlink()
    monkeypatch.setattr(learn, "save_classifier", lambda path, _: path.write_bytes(kept))
    whole = run(pool)
    assert whole.keys() == after.keys()
    assert shares == pytest.approx(read_metadata(pool.parent / "m.parquet").pool_share, rel=1e-3)
    num_clean, num = (
        sum(r["status"] == "ok" and r["role"] == role for r in whole.values()) for role in ("clean", "pool")
    )
    assert 0 <= shares[0] < shares[-1] == pytest.approx(num / (num + num_clean), rel=0.05)
    for uri, row in whole.items():
        for name, value in row.items():  # the batches differ, and with them the last bits
            close = name == "p_clean" or isinstance(value, float)
            assert after[uri][name] == (pytest.approx(value, rel=1e-3, abs=1e-5) if close else value), (uri, name)
    assert run(pool, update=True).keys() == whole.keys()  # and nothing is new then


def test_the_plain_command_after_an_update_has_nothing_to_do(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(pool)
    add(pool, "soft/new.png")
    after = run(pool, update=True)
    assert run(pool, quiet=False) == after
    assert "nothing to do" in capsys.readouterr().err


def test_duplicates_across_an_update(pool: Path) -> None:
    for copy, original in (("soft/copy.png", "blurred/000.png"), ("soft/same.png", "blurred/001.png")):
        shutil.copy(pool / original, pool / copy)
    before = run(pool)
    assert [before[u]["status"] for u in ("blurred/000.png", "soft/copy.png", "soft/same.png")] == [
        "ok",
        "duplicate",
        "duplicate",
    ]
    (pool / "blurred" / "000.png").unlink()  # the original: its copy comes forward
    shutil.copy(pool / "soft" / "002.png", pool / "blurred" / "a.png")  # sorts before, but comes later
    shutil.copy(pool / "soft" / "003.png", pool / "clean" / "late.png")  # clean wins
    after = run(pool, update=True)
    assert (after["soft/copy.png"]["status"], after["soft/copy.png"]["method"]) == ("ok", "classifier")
    assert after["soft/same.png"] == before["soft/same.png"]
    assert after["blurred/a.png"]["reason"] == "same content as soft/002.png"
    assert after["soft/002.png"] == before["soft/002.png"]
    assert after["clean/late.png"]["status"] == "ok"
    gone = after["soft/003.png"]
    assert (gone["status"], gone["reason"]) == ("duplicate", "same content as clean/late.png")
    assert gone["sigma_min"] is gone["p_clean"] is gone["method"] is gone["sigma_max"] is None


def test_a_predicate_sees_the_whole_pool(pool: Path) -> None:
    """Of the new pictures alone, each would be among the sharpest third."""
    sharpest = "sharpness >= (SELECT quantile_disc(sharpness, 0.6) FROM records WHERE status = 'ok')"
    options = {"clean": None, "clean_where": sharpest}
    before = run(pool, **options)
    assert before["soft/000.png"]["role"] == "pool"
    add(pool, "soft/new.png")
    after = run(pool, update=True, **options)
    assert (after["soft/new.png"]["role"], after["soft/new.png"]["method"]) == ("pool", "classifier")


def test_a_clean_picture_that_was_renamed_stays_clean(pool: Path) -> None:
    options = {"clean": None, "clean_top": Top(share=0.4, by=("sharpness",))}
    before = run(pool, **options)
    uri = next(uri for uri, row in before.items() if row["role"] == "clean")
    (pool / uri).rename(pool / "renamed.png")
    add(pool, "soft/new.png")
    after = run(pool, update=True, **options)
    assert (after["renamed.png"]["role"], after["renamed.png"]["method"]) == ("clean", "clean")
    assert after["soft/new.png"]["role"] == "pool"


def test_what_could_not_be_read_is_tried_again(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its bytes, which tell what has changed, are the same."""
    with monkeypatch.context() as patch:
        real = images.load
        patch.setattr(images, "load", lambda uri, *rest: real(uri if uri != "soft/001.png" else "gone.png", *rest))
        before = run(pool)
    assert before["soft/001.png"]["status"] == "unreadable"
    after = run(pool, update=True)
    assert (after["soft/001.png"]["status"], after["soft/001.png"]["method"]) == ("ok", "classifier")
    assert all(after[uri] == row for uri, row in before.items() if uri != "soft/001.png")


def test_thresholds_that_were_decided_again_are_not_mixed_with_others(pool: Path) -> None:
    run(pool)
    manifest = pool.parent / "m.parquet"
    rethreshold(manifest, manifest, Rule(sql="7.5"), overwrite=True, reporter=Reporter(quiet=True))
    add(pool, "soft/new.png")
    with pytest.raises(UserError, match=r"were decided again \(ambient threshold .*7\.5\)"):
        run(pool, update=True)


def test_one_threshold_without_a_classifier_grows_too(pool: Path) -> None:
    fixed = {"clean": None, "sigma_min": 1.5, "where": "source = 'soft'", "steps": None, "draws": 6}
    before = run(pool, **fixed)
    add(pool, "soft/new.png")
    add(pool, "blurred/new.png", 1)
    after = run(pool, update=True, **fixed)
    assert all(after[uri] == row for uri, row in before.items())
    assert {uri: (after[uri]["role"], after[uri]["sigma_min"]) for uri in after.keys() - before.keys()} == {
        "soft/new.png": ("pool", 1.5),
        "blurred/new.png": ("clean", 0.0),
    }


def test_a_new_source_is_warned_of_and_a_known_one_keeps_its_threshold(
    pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = run(pool, per="source")
    add(pool, "soft/new.png", 3)
    add(pool, "strange/new.png", 4)
    after = run(pool, update=True, quiet=False, per="source")
    for name in ("sigma_min", "sigma_min_lo", "sigma_min_hi"):
        assert after["soft/new.png"][name] == before["soft/000.png"][name]
    assert "nothing, or too little, of the source strange (pictures: 1)" in capsys.readouterr().err


def test_new_shards_join_a_pool(pool: Path) -> None:
    before = run(pool)
    write_tar(pool / "shard.tar", {f"{n}.png": add(pool, "x/x.png", n).read_bytes() for n in range(4)})
    (pool / "x" / "x.png").unlink()
    after = run(pool, update=True)
    assert set(after) - set(before) == {f"shard.tar!/{n}.png" for n in range(4)}
    assert all(after[uri] == row for uri, row in before.items())


def test_what_an_update_needs_is_one_line(pool: Path) -> None:
    with pytest.raises(UserError, match="there is no manifest"):
        run(pool, update=True)
    run(pool)
    with pytest.raises(UserError, match=r"--update needs the options .* --draws 1"):
        run(pool, update=True, epsilon=0.1)
    classifier = pool.parent / "m.parquet.classifier"
    data = classifier.read_bytes()
    classifier.write_bytes(data + b"x")
    with pytest.raises(UserError, match="is not the classifier that made"):
        run(pool, update=True)
    classifier.unlink()
    with pytest.raises(UserError, match="put it back, or use --overwrite"):
        run(pool, update=True)
    classifier.write_bytes(data)
    run(pool, update=True)


def test_a_pool_with_a_torn_file_and_scores_of_a_table_can_be_updated(
    pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pool / "soft" / "torn.png").write_bytes((pool / "soft" / "000.png").read_bytes()[:80])
    table = pool.parent / "s.parquet"
    score_target(pool, table, ScoreConfig(by=("phash",)), device="cpu", workers=1, reporter=Reporter(quiet=True))
    before = run(pool, scores=table)
    assert run(pool, scores=table, update=True) == before
    first = shutil.copy(add(pool, "soft/late.png", 5), pool / "soft" / "again.png")
    with Image.open(first) as picture:
        picture.save(first, compress_level=1)  # other bytes, the same to look at
    after = run(pool, scores=table, update=True, quiet=False)
    assert "has no scores of 2 of the new pictures: score the pool again" in capsys.readouterr().err.replace("\n", " ")
    assert after["soft/late.png"]["phash"] is None
    assert after["soft/late.png"]["near_duplicate_of"] is None


def test_near_duplicates_are_told_of_old_and_new_pictures(pool: Path) -> None:
    table = pool.parent / "s.parquet"

    def scored() -> None:
        config = ScoreConfig(by=("phash",))
        score_target(pool, table, config, device="cpu", workers=1, overwrite=True, reporter=Reporter(quiet=True))

    scored()
    run(pool, scores=table)
    with Image.open(pool / "soft" / "001.png") as picture:
        picture.save(pool / "soft" / "zz.png", compress_level=1)
    scored()
    assert run(pool, scores=table, update=True)["soft/zz.png"]["near_duplicate_of"] == "soft/001.png"
    (pool / "soft" / "001.png").unlink()
    scored()
    assert run(pool, scores=table, update=True)["soft/zz.png"]["near_duplicate_of"] is None


def test_a_dry_run_of_an_update_counts_names(pool: Path) -> None:
    config, out = AnnotateConfig(**{"clean": pool / "clean", **SHORT}), pool.parent / "m.parquet"
    with pytest.raises(UserError, match="there is no manifest"):
        plan(pool, config, out, update=True)
    run(pool)
    for name in ("soft/a.png", "soft/b.png"):
        add(pool, name)
    (pool / "soft" / "000.png").unlink()
    found = plan(pool, config, out, update=True)
    counted = [found[f"pictures_{what}"] for what in ("found", "new", "to_compare", "vanished")]
    assert counted == [29, 2, 27, 1]
    assert found["classifier_evaluations"] == 2 * 48
    for wrong in ({"preview": True}, {"overwrite": True}):
        with pytest.raises(UserError, match=f"--{next(iter(wrong))}"):
            plan(pool, config, out, update=True, **wrong)
    with pytest.raises(UserError, match="leave one of them out"):
        annotate(pool, out, config, device="cpu", update=True, overwrite=True)


def test_a_new_source_needs_no_classifier_that_was_never_asked(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"sigma_min": 1.0, "steps": None, "draws": 6, "accept_indistinguishable": False}
    run(pool, **asked)
    add(pool, "strange/0.png")
    run(pool, **asked, update=True, quiet=False)
    assert "the classifier was trained with" not in capsys.readouterr().err


def test_keeping_duplicates_leaves_none_on_both_sides(pool: Path) -> None:
    shutil.copy(pool / "clean" / "000.png", pool / "soft" / "copy.png")
    shutil.copy(pool / "blurred" / "000.png", pool / "soft" / "twice.png")
    rows = run(pool, duplicates="keep")
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert (rows["soft/copy.png"]["role"], rows["soft/copy.png"]["sigma_min"]) == ("clean", 0)
    assert rows["soft/twice.png"]["role"] == "pool"
    assert rows["soft/twice.png"]["p_clean"] == rows["blurred/000.png"]["p_clean"]
    with pytest.raises(UserError, match="mark or keep"):
        AnnotateConfig(duplicates="drop")


def test_a_manifest_of_another_pool_is_not_replaced(pool: Path, tmp_path: Path) -> None:
    run(pool, sigma_min=1.0, steps=None, draws=6, accept_indistinguishable=False)
    before = (tmp_path / "m.parquet").read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    for number in range(3):
        tiles(120)[90 + number].save(other / f"{number}.png")
    config = AnnotateConfig(clean=pool / "clean", resolution=8, sigma_min=1.0)
    with pytest.raises(UserError, match=rf"m\.parquet is of another pool, {pool}, of which nothing is here"):
        annotate(other, tmp_path / "m.parquet", config, device="cpu", update=True, reporter=Reporter(quiet=True))
    assert (tmp_path / "m.parquet").read_bytes() == before


def test_a_pool_that_moved_is_updated(pool: Path, tmp_path: Path) -> None:
    asked = {"sigma_min": 1.0, "steps": None, "draws": 6, "accept_indistinguishable": False, "clean": None}
    before = run(pool, **asked)
    (tmp_path / "elsewhere").mkdir()
    moved = pool.rename(tmp_path / "elsewhere" / "pool")
    config = AnnotateConfig(resolution=8, sigma_min=1.0)
    annotate(moved, tmp_path / "m.parquet", config, device="cpu", update=True, reporter=Reporter(quiet=True))
    assert pq.read_table(tmp_path / "m.parquet").to_pylist() == list(before.values())
    assert read_metadata(tmp_path / "m.parquet").roots == {"pool": str(moved)}


def test_a_pool_that_changed_is_told_of_update(pool: Path) -> None:
    asked = {"sigma_min": 1.0, "steps": None, "draws": 6, "accept_indistinguishable": False}
    run(pool, **asked)
    add(pool, "soft/new.png")
    with pytest.raises(UserError, match=r"the pool has changed since .*m\.parquet was written: add --update"):
        run(pool, **asked)
    with pytest.raises(UserError, match="written with other options"):
        run(pool, **{**asked, "sigma_min": 2.0})


def test_a_manifest_is_no_pool(pool: Path, tmp_path: Path) -> None:
    run(pool, sigma_min=1.0, steps=None, draws=6, accept_indistinguishable=False)
    for act in (annotate, lambda path, out, config: plan(path, config, out)):
        with pytest.raises(UserError, match=rf"is a manifest or a table of scores, not a pool, which is at {pool}"):
            act(tmp_path / "m.parquet", tmp_path / "n.parquet", AnnotateConfig(sigma_min=1.0))


def test_a_given_classifier_is_warned_of_sources_that_it_was_not_trained_on(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(40):  # enough of each to be told apart by name
        add(pool, f"{('soft', 'blurred')[number % 2]}/more{number}.png", number)
    run(pool)
    classifier = tmp_path / "m.parquet.classifier"
    known, _ = load_classifier(classifier)
    assert known.groups == ("blurred", "soft")
    capsys.readouterr()
    config = AnnotateConfig(classifier=classifier, draws=1)

    def said(name: str) -> str:
        annotate(pool, tmp_path / name, config, device="cpu", workers=2, reporter=Reporter())
        return capsys.readouterr().err

    shutil.rmtree(pool / "clean")
    assert "the classifier was trained with" not in said("a.parquet")
    add(pool, "strange/0.png", 50)
    add(pool, "strange/1.png", 51)
    assert "nothing, or too little, of the source strange (pictures: 2)" in said("b.parquet")


def test_labels_and_captions_are_those_of_now(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        (pool / "soft" / f"00{number}.cls").write_text(str(number))
    (pool / "soft" / "002.txt").write_text("a harbour")
    before = run(pool)
    assert (before["soft/002.png"]["label"], before["soft/002.png"]["caption"]) == (2, "a harbour")
    (pool / "soft" / "001.cls").write_text("7")
    (pool / "soft" / "002.txt").write_text("a harbour at night")
    for name in ("002.cls", "003.cls"):
        (pool / "soft" / name).unlink()
    (pool / "soft" / "000.cls").write_text("no number")
    (pool / "blurred" / "005.txt").write_text("new")
    monkeypatch.setattr(learn, "cross_fit", None)  # would fail: nothing is trained
    after = run(pool, update=True, quiet=False)
    said = capsys.readouterr().err
    assert "3 pictures have another label or caption now" in said
    assert "warning: 3 pictures had a label or caption that is nowhere now: they keep it" in said
    told = {uri: (row["label"], row["caption"]) for uri, row in after.items() if row != before[uri]}
    assert told == {
        "soft/001.png": (7, None),
        "soft/002.png": (2, "a harbour at night"),
        "blurred/005.png": (None, "new"),
    }
    for uri, row in after.items():  # and nothing else
        assert {**row, "label": 0, "caption": ""} == {**before[uri], "label": 0, "caption": ""}
    run(pool, update=True, quiet=False)
    assert "another label" not in capsys.readouterr().err


def test_a_damaged_dataset_json_costs_no_label(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(path.relative_to(pool).as_posix() for path in pool.rglob("*.png"))
    told = {name: number % 3 for number, name in enumerate(names)}
    (pool / "dataset.json").write_text(json.dumps({"labels": list(told.items())}))
    assert {uri: row["label"] for uri, row in run(pool).items()} == told
    (pool / "dataset.json").write_text(json.dumps({"labels": list(told.items())})[:60])
    assert {uri: row["label"] for uri, row in run(pool, update=True, quiet=False).items()} == told
    assert f"{len(told)} pictures had a label or caption that is nowhere now" in capsys.readouterr().err
    told[names[4]] = 9
    (pool / "dataset.json").write_text(json.dumps({"labels": list(told.items())}))
    assert {uri: row["label"] for uri, row in run(pool, update=True).items()} == told
