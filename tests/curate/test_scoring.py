"""`ambient score` on pools and manifests: columns, what is kept, bad pictures, resuming, SQL."""

import json
import shutil
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
import torch
from ambient.curate import networks, reading, scoring
from ambient.curate.annotate import annotate
from ambient.curate.config import AnnotateConfig
from ambient.curate.images import decode
from ambient.curate.known import join_scores
from ambient.curate.networks import ScoreConfig
from ambient.curate.openclip import ClipConfig
from ambient.curate.pool import content_id
from ambient.curate.query import query
from ambient.curate.ranks import Top
from ambient.curate.reporter import Reporter
from ambient.curate.scorers import Scorer
from ambient.curate.scores import SCORES, score
from ambient.curate.scoring import plan, score_target
from ambient.schemas.errors import UserError
from ambient.schemas.manifest import METADATA_KEY, RECORD, Metadata
from ambient.schemas.scored import read_scored
from ambient.schemas.space import Space
from manifests import rows
from photo_pool import write_photo_pool
from PIL import Image
from shards import png, write_pictures


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """28 photographs, a torn one, and a copy of one."""
    folder = write_photo_pool(tmp_path / "pool", clean=12, per_blur=8)
    (folder / "soft" / "torn.png").write_bytes((folder / "soft" / "000.png").read_bytes()[:90])
    shutil.copy(folder / "clean" / "003.png", folder / "soft" / "copy.png")
    return folder


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """pyiqa's cnniqa and musiq replaced by means of pictures; says which are asked for."""
    asked: list[str] = []

    def scorer(name: str, _weights: object, _device: object) -> Scorer:
        asked.append(name)
        return Scorer(name=name, cut=lambda pixels: [pixels], measure=lambda x: x.float().mean(dim=(1, 2, 3)))

    monkeypatch.setattr(networks.iqa, "scorer", scorer)
    return asked


def run(target: Path, *by: str, out: str = "s.parquet", **options: object) -> pa.Table:
    path = target.parent / out
    score_target(target, path, ScoreConfig(by=by), device="cpu", reporter=Reporter(quiet=True), **options)
    return pq.read_table(path)


def manifest_of(pool: Path, **columns: object) -> Path:
    """A manifest of the pool's pictures with a column of the user's own."""
    uris = sorted(path.relative_to(pool).as_posix() for path in pool.rglob("*.png"))
    status = ["unreadable" if "torn" in uri else "ok" for uri in uris]
    ids = [content_id((pool / uri).read_bytes()) for uri in uris]
    table = rows(len(uris), **{"uri": uris, "id": ids, "status": status, **columns})
    table = table.append_column("mine", pa.array(np.arange(len(uris)), pa.int64()))
    space = Space(resolution=16)
    metadata = Metadata(space=space, roots={"pool": str(pool)}, fingerprint="0", package_version="0", command="c")
    path = pool.parent / "m.parquet"
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: metadata.to_bytes(), b"other": b"kept"}), path)
    return path


def test_a_pool_becomes_a_table_without_thresholds(pool: Path, fake: list[str]) -> None:
    table = run(pool, "cnniqa", "phash")
    assert table.column_names == [*RECORD.names, *SCORES, "cnniqa", "phash", "near_duplicate_of"]
    found = {row["uri"]: row for row in table.to_pylist()}
    assert len(found) == 30
    assert (found["soft/torn.png"]["status"], found["soft/copy.png"]["status"]) == ("unreadable", "duplicate")
    pixels = decode((pool / "clean" / "005.png").read_bytes()).pixels
    row = found["clean/005.png"]
    assert {name: row[name] for name in SCORES} == pytest.approx(score(pixels), rel=1e-5)
    assert row["cnniqa"] == pytest.approx(pixels.mean(), rel=1e-5)
    assert found["soft/torn.png"]["cnniqa"] is None
    assert fake == ["cnniqa"]


def test_a_parquet_file_of_pictures_is_a_pool(tmp_path: Path) -> None:
    run(write_pictures(tmp_path / "pictures.parquet", [png(0), png(1), b"torn"]), out="s.parquet")
    assert read_scored(tmp_path / "s.parquet").roots == {"pool": str(tmp_path / "pictures.parquet")}
    more = run(tmp_path / "s.parquet", "phash", out="more.parquet")
    assert more["status"].to_pylist() == ["ok", "ok", "unreadable"]
    assert more["phash"].null_count == 1


def test_sql_over_a_table_of_scores(pool: Path) -> None:
    run(pool)
    out = pool.parent / "s.parquet"
    assert query(out, "SELECT count(*) AS n FROM manifest WHERE status = 'ok'")["n"].to_pylist() == [28]
    with pytest.raises(UserError, match="by_source"):
        query(out, "FROM by_source")


def test_a_manifest_keeps_everything_and_gains_columns(pool: Path, fake: list[str]) -> None:
    manifest = manifest_of(pool)
    before = pq.read_table(manifest)
    table = run(manifest, "sharpness", "musiq")
    assert table.select(before.column_names).equals(before)
    assert {k: v for k, v in table.schema.metadata.items() if k != b"ambient-scores"} == before.schema.metadata
    for name in before.column_names:
        assert table.schema.field(name).equals(before.schema.field(name))
    assert table.column_names.index("musiq") < table.column_names.index("p_clean")
    assert table["sharpness"].null_count == table["musiq"].null_count == 1
    # another run replaces a score and adds one; the first stays
    again = run(pool.parent / "s.parquet", "musiq", "noise", out="t.parquet")
    assert again["sharpness"].equals(table["sharpness"])
    assert again["musiq"].equals(table["musiq"])
    assert again["noise"].null_count == 1
    assert query(pool.parent / "t.parquet", "FROM usable(5.0)").num_rows == 29


def test_a_bad_picture_has_no_score_and_the_others_do(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = decode((pool / "clean" / "007.png").read_bytes()).pixels

    def measure(x: torch.Tensor) -> torch.Tensor:
        if any(np.array_equal(picture.permute(1, 2, 0).numpy(), victim) for picture in x):
            raise RuntimeError("no")
        out = x.float().mean(dim=(1, 2, 3))
        out[out == out.max()] = torch.nan
        return out

    monkeypatch.setattr(networks.iqa, "scorer", lambda name, *_: Scorer(name=name, cut=lambda p: [p], measure=measure))
    manifest = manifest_of(pool)
    (pool / "clean" / "009.png").unlink()
    score_target(manifest, pool.parent / "s.parquet", ScoreConfig(by=("musiq",)), device="cpu")
    found = {row["uri"]: row["musiq"] for row in pq.read_table(pool.parent / "s.parquet").to_pylist()}
    missing = {uri for uri, value in found.items() if value is None}
    assert {"soft/torn.png", "clean/007.png", "clean/009.png"} < missing
    assert len(missing) < 12
    said = capsys.readouterr().err
    assert "musiq failed on some pictures: RuntimeError: no" in said
    assert "of 29 pictures have no musiq, such as 'clean/009.png': No such file" in said


def test_a_changed_picture_of_a_manifest_has_no_score(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its id is that of the old content."""
    manifest = manifest_of(pool)
    shutil.copy(pool / "blurred" / "000.png", pool / "clean" / "009.png")
    score_target(manifest, pool.parent / "s.parquet", ScoreConfig(by=("phash", "sharpness")), device="cpu")
    found = {row["uri"]: row for row in pq.read_table(pool.parent / "s.parquet").to_pylist()}
    for name in ("sharpness", "phash"):
        assert {uri for uri, row in found.items() if row[name] is None} == {"soft/torn.png", "clean/009.png"}
    said = capsys.readouterr().err
    assert "1 of 29 pictures have no sharpness, such as 'clean/009.png': its content is not what it was" in said


def test_a_picture_that_changed_since_a_pool_was_read_has_no_more_scores(
    pool: Path, fake: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(scoring, "write_table", stop)
        run(pool, "musiq")
    before = content_id((pool / "clean" / "009.png").read_bytes())
    shutil.copy(pool / "blurred" / "000.png", pool / "clean" / "009.png")
    row = {row["uri"]: row for row in run(pool, "musiq").to_pylist()}["clean/009.png"]
    assert (row["id"], row["musiq"]) == (before, None)
    assert "such as 'clean/009.png': its content is not what it was" in capsys.readouterr().err


def test_parts_that_are_finished_are_not_done_again(
    pool: Path, fake: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "ROWS_PER_PART", 10)
    undisturbed = run(pool, "musiq", "phash", out="u.parquet")
    real, written = scoring.write_table, []

    def stop_after_two(path: Path, table: pa.Table) -> None:
        if path.stem == "scores-000002":
            raise KeyboardInterrupt
        written.append(path.name)
        real(path, table)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(scoring, "write_table", stop_after_two)
        patch.setattr(reading, "write_table", stop_after_two)
        run(pool, "musiq", "phash")
    monkeypatch.setattr(reading, "scan", None)  # would fail
    seen: list[str] = []
    real_encoded = scoring.encoded
    monkeypatch.setattr(scoring, "encoded", lambda uri, roots: seen.append(uri) or real_encoded(uri, roots))
    table = run(pool, "musiq", "phash")
    assert written == ["records-000000.parquet", "scores-000000.parquet", "scores-000001.parquet"]
    assert len(seen) == 28 - 20
    assert table.equals(undisturbed)
    assert not (pool.parent / "s.parquet.parts").exists()


def test_a_finished_table_says_what_of_changed_pictures(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pool's are scored again when asked; a manifest's are not its pictures any more."""
    words, out = "pictures that were changed since are scored again with --overwrite", pool.parent / "s.parquet"
    run(pool)
    shutil.copy(pool / "blurred" / "000.png", pool / "clean" / "009.png")
    score_target(pool, out, ScoreConfig(), device="cpu")
    assert words in capsys.readouterr().err
    ids = {row["uri"]: row["id"] for row in run(pool, overwrite=True).to_pylist()}
    assert ids["clean/009.png"] == ids["blurred/000.png"]
    for _ in range(2):
        score_target(out, pool.parent / "t.parquet", ScoreConfig(by=("noise",)), device="cpu")
    said = capsys.readouterr().err
    assert "nothing to do" in said
    assert words not in said


def test_the_same_command_again_does_nothing_and_another_needs_overwrite(
    pool: Path, fake: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(pool, "musiq")
    before = (pool.parent / "s.parquet").stat().st_mtime_ns
    left = pool.parent / "s.parquet.parts"  # as by a run that was killed when its table was complete
    left.mkdir()
    for name in ("lock", "scores-000000.parquet"):
        (left / name).touch()
    run(pool, "musiq")
    assert (pool.parent / "s.parquet").stat().st_mtime_ns == before
    assert not left.exists()
    with pytest.raises(UserError, match="--overwrite"):
        run(pool, "cnniqa")
    assert "cnniqa" in run(pool, "cnniqa", overwrite=True).column_names
    (pool.parent / "text.parquet").write_text("precious")
    with pytest.raises(UserError, match="by something else"):
        run(pool, "musiq", out="text.parquet")
    assert json.loads(pq.read_schema(pool.parent / "s.parquet").metadata[b"ambient-scores"])["command"].startswith(
        f"ambient score {pool} --by cnniqa"
    )
    assert read_scored(pool.parent / "s.parquet").roots == {"pool": str(pool)}


def test_a_manifest_that_has_changed_is_another_run(pool: Path) -> None:
    """Thresholds, captions and metadata are copied, so they count as pictures do."""
    run(manifest_of(pool), "noise")
    run(manifest_of(pool), "noise")  # the same again: finished
    for change in ({"sigma_min": 2.0}, {"caption": "a cat"}):
        manifest = manifest_of(pool, **change)
        with pytest.raises(UserError, match="--overwrite"):
            run(manifest, "noise")
        table = run(manifest, "noise", overwrite=True)
        assert {name: table[name][0].as_py() for name in change} == change


def test_a_manifest_may_be_scored_in_place(pool: Path) -> None:
    manifest = manifest_of(pool)
    before = pq.read_table(manifest)
    with pytest.raises(UserError, match="--overwrite"):
        run(manifest, "noise", out=manifest.name)
    scored = run(manifest, "noise", out=manifest.name, overwrite=True)
    assert scored.drop_columns("noise").equals(before)
    time = manifest.stat().st_mtime_ns
    assert run(manifest, "noise", out=manifest.name).equals(scored)
    assert manifest.stat().st_mtime_ns == time
    # what measures depend on has changed since
    at = scored.column_names.index("caption")
    pq.write_table(scored.set_column(at, "caption", pa.array(["a cat"] * len(scored))), manifest)
    with pytest.raises(UserError, match="--overwrite"):
        run(manifest, "noise", out=manifest.name)


def test_weights_with_other_contents_are_another_run(pool: Path, fake: list[str]) -> None:
    weights, out = pool.parent / "weights", pool.parent / "s.parquet"
    config = ScoreConfig(by=("musiq",), weights={"musiq": str(weights)})
    weights.write_bytes(b"one")
    score_target(pool, out, config, device="cpu")
    weights.write_bytes(b"two")
    with pytest.raises(UserError, match="--overwrite"):
        score_target(pool, out, config, device="cpu")
    weights.write_bytes(b"one")
    score_target(pool, out, config, device="cpu")
    assert fake == ["musiq"]


def test_roots_may_have_moved(pool: Path) -> None:
    manifest = manifest_of(pool)
    shutil.move(pool, pool.parent / "moved")
    table = run(manifest, "noise", roots={"pool": str(pool.parent / "moved")})
    assert table["noise"].null_count == 1


def test_a_root_that_is_not_there_to_move_is_an_error(pool: Path) -> None:
    config, manifest = ScoreConfig(by=("noise",)), manifest_of(pool)
    for target, name, words in (
        (manifest, "pol", "has no root named 'pol': its roots are pool"),
        (pool, "pool", "is a pool, and --root is for a manifest"),
        (pool.parent / "nowhere", "pool", "there is no pool at"),
    ):
        with pytest.raises(UserError, match=words) as error:
            run(target, "noise", roots={name: str(pool)})
        assert "\n" not in str(error.value)
        with pytest.raises(UserError, match=words):
            plan(target, config, roots={name: str(pool)})
    assert not (pool.parent / "s.parquet").exists()


def test_a_root_that_is_gone_is_an_error(pool: Path) -> None:
    """And scores that are there stay."""
    out = pool.parent / "s.parquet"
    run(manifest_of(pool), "noise")
    before = out.read_bytes()
    shutil.move(pool, pool.parent / "moved")
    run(pool.parent / "m.parquet", "noise")  # finished
    with pytest.raises(UserError, match=r"pool is gone \('blurred/000.png' is in it\).*`--root pool=/new/place`"):
        run(out, "noise", overwrite=True)
    assert out.read_bytes() == before
    assert not (pool.parent / "s.parquet.parts").exists()
    assert run(out, "noise", roots={"pool": str(pool.parent / "moved")}, overwrite=True)["noise"].null_count == 1


def test_a_list_may_be_gone_while_its_pictures_are_there(pool: Path) -> None:
    listed = pool.parent / "list.txt"
    listed.write_text("".join(f"{path}\n" for path in sorted(pool.rglob("*.png"))))
    run(listed)
    listed.unlink()
    assert run(pool.parent / "s.parquet", "phash", out="t.parquet")["phash"].null_count == 2
    shutil.rmtree(pool)
    with pytest.raises(UserError, match=r"list.txt is gone"):
        run(pool.parent / "s.parquet", "phash", out="u.parquet")


def test_near_duplicates_in_sql(pool: Path) -> None:
    run(pool, "phash")
    sql = "SELECT count(*) AS n FROM manifest WHERE status = 'ok' AND near_duplicate_of IS NULL"
    assert query(pool.parent / "s.parquet", sql)["n"].to_pylist()[0] <= 28
    table = pq.read_table(pool.parent / "s.parquet")
    assert set(table["near_duplicate_of"].drop_null().to_pylist()) <= set(table["uri"].to_pylist())
    assert table["phash"].null_count == 2


def test_annotate_ranks_by_scores_of_a_table_and_keeps_them(pool: Path, fake: list[str]) -> None:
    """Accepting anything: what is chosen is looked at, not what is learned."""
    run(pool, "musiq", "cnniqa")
    top = Top(share=0.4, by=("musiq",))
    config = AnnotateConfig(
        clean_top=top, scores=pool.parent / "s.parquet", steps=1, draws=1, accept_indistinguishable=True
    )
    out = annotate(pool, pool.parent / "m.parquet", config, device="cpu", reporter=Reporter(quiet=True))
    found = [row for row in pq.read_table(out).to_pylist() if row["status"] == "ok"]
    clean = {row["uri"] for row in found if row["role"] == "clean"}
    brightest = sorted(found, key=lambda row: -row["musiq"])[: len(clean)]
    assert 11 <= len(clean) <= 12  # of 28 pictures and a copy
    assert clean == {row["uri"] for row in brightest}
    assert all(row["cnniqa"] is not None for row in found)
    assert fake == ["musiq", "cnniqa"]  # not asked again


def test_annotate_measures_what_it_ranks_by(pool: Path, fake: list[str]) -> None:
    config = AnnotateConfig(clean_top=Top(share=0.4, by=("musiq",)), steps=1, draws=1, accept_indistinguishable=True)
    out = annotate(pool, pool.parent / "m.parquet", config, device="cpu", reporter=Reporter(quiet=True))
    assert pq.read_table(out)["musiq"].null_count == 1
    assert fake == ["musiq"]


def test_scores_of_other_pictures(pool: Path) -> None:
    table = run(pool)
    manifest = manifest_of(pool, id="0" * 32)
    with pytest.raises(UserError, match="scores of other pictures"):
        join_scores(table, manifest)


def test_joined_near_duplicates_are_of_this_pool(pool: Path) -> None:
    """Scored from above, or with more pictures, uris are others."""
    for name in ("0", "twin"):
        with Image.open(pool / "clean" / "003.png") as image:
            image.save(pool / f"{name}.png", compress_level=1 if name == "0" else 0)
    above = run(pool.parent, "phash", out=f"{pool.parent.name}/above.parquet")
    assert "pool/0.png" in above["near_duplicate_of"].to_pylist()
    here = run(pool, "phash")
    records = here.drop_columns(["phash", "near_duplicate_of"])
    joined = join_scores(records, pool.parent / "above.parquet")
    expected = {row["uri"]: row["near_duplicate_of"] for row in here.to_pylist() if row["status"] == "ok"}
    assert expected["twin.png"] == expected["clean/003.png"] == "0.png"
    found = {row["uri"]: row["near_duplicate_of"] for row in joined.to_pylist()}
    assert {uri: found[uri] for uri in expected} == expected
    # without the picture that leads there, the next leads here
    without = join_scores(records.filter(pc.not_equal(records["uri"], "0.png")), pool.parent / "above.parquet")
    found = {row["uri"]: row["near_duplicate_of"] for row in without.to_pylist()}
    assert (found["clean/003.png"], found["twin.png"]) == (None, "clean/003.png")
    assert found["soft/copy.png"] is None  # a copy of clean/003.png: whichever is kept leads
    # and nothing is said without hashes
    pq.write_table(above.drop_columns("phash"), pool.parent / "other.parquet")
    assert not {"phash", "near_duplicate_of"} & {*join_scores(records, pool.parent / "other.parquet").column_names}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"by": ("sharpnes",)}, "there is no measure 'sharpnes': did you mean 'sharpness'"),
        ({"by": ("noise",), "weights": {"musiq": "f"}}, "--by does not name this measure"),
        ({"by": ("fid",)}, "there is no measure 'fid'"),
        ({"by": ("xyzzyx",)}, "there are undamaged, sharpness, .*, and those of pyiqa"),
    ],
)
def test_bad_configurations(config: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        ScoreConfig(**config)
    assert ScoreConfig(by=("clipiqa_64",), weights={"clipiqa": "f"}).clip == ClipConfig()


def test_bad_targets_are_one_line(pool: Path) -> None:
    (pool.parent / "text.parquet").write_text("text")
    pq.write_table(pa.table({"a": [1]}), pool.parent / "plain.parquet")
    (pool.parent / "empty").mkdir()
    for name, words in {
        "nowhere": "there is no pool at",
        "none.parquet": "there is no pool at",
        "text.parquet": "not a readable Parquet",
        "plain.parquet": "neither a column of pictures",
        "empty": "there is no picture",
    }.items():
        with pytest.raises(UserError, match=words):
            run(pool.parent / name, "noise")
    with pytest.raises(UserError, match="--by names the scores to add"):
        run(manifest_of(pool))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("key", ["uri", "id"])
def test_numbers_of_any_table_are_joined(pool: Path, kind: str, key: str) -> None:
    records = run(pool)
    ok = records.filter(pc.equal(records["status"].cast(pa.string()), "ok"))
    values = np.arange(len(ok))[::-1]
    mine = pa.table({key: ok[key][::-1], "plddt": values, "note": ["x"] * len(ok), "good": values > 3})
    for name in ("width", "sigma_min", *(["id"] if key == "uri" else [])):  # an id may be its own
        mine = mine.append_column(name, pa.array(values))
    mine = mine.slice(1)  # the last is not in it
    path = pool.parent / f"mine.{kind}"
    csv.write_csv(mine, path) if kind == "csv" else pq.write_table(mine, path)
    joined = join_scores(records, path)
    assert [joined.schema.field(name).type for name in ("plddt", "good")] == [pa.float32()] * 2
    assert not {"note", "sigma_min"} & set(joined.column_names)
    assert joined["width"] == records["width"]
    found = dict(zip(joined["uri"].to_pylist(), joined["plddt"].to_pylist(), strict=True))
    expected = {uri: float(number) for number, uri in enumerate(ok["uri"].to_pylist()[:-1])}
    assert {uri: found[uri] for uri in expected} == expected
    assert found[ok["uri"][-1].as_py()] is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"name": ["a.png"], "plddt": [1.0]}, "needs a column uri or id, as in a manifest, and numbers"),
        ({"uri": ["a.png"], "note": ["x"]}, "needs a column uri or id, as in a manifest, and numbers"),
        ({"uri": ["a.png"], "plddt": [1.0]}, "has scores of other pictures: none of its uris is in this pool"),
        ({"uri": ["a.png", "a.png"], "plddt": [1.0, 2.0]}, "names some uri twice"),
        ({"uri": ["soft/000.png"], "x": [1.0], "X": [2.0]}, "names differ in nothing but case: X, x"),
        ({"uri": ["soft/000.png"], "Sharpness": [1.0]}, "'Sharpness' is too like 'sharpness', which the pictures have"),
        ({"uri": [["a.png"]], "plddt": [1.0]}, "no readable Parquet or CSV file"),
    ],
)
def test_a_table_that_cannot_be_joined_is_one_line(pool: Path, columns: dict, message: str) -> None:
    path = pool.parent / "mine.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(UserError, match=message):
        join_scores(run(pool), path)
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match="no readable Parquet or CSV file"):
        join_scores(run(pool), path)
    path.unlink()
    with pytest.raises(UserError, match="there is no table of scores at"):
        join_scores(run(pool), path)


def test_odd_numbers_of_a_table(pool: Path) -> None:
    """NaN, which SQL holds to be more than any number, and rows of no picture are nothing; an index is no score."""
    records = run(pool)
    columns = {
        "uri": ["soft/000.png", "soft/001.png", None, None, ""],
        "plddt": pa.array([float("nan"), 2.0, 3.0, 4.0, 5.0]),
        "price": pa.array([Decimal("0.5")] * 5),
        "__index_level_0__": [1, 2, 3, 4, 5],
        "phash": [1, 2, 3, 4, 5],
        "sharpness": [7] * 5,
    }
    path = pool.parent / "mine.parquet"
    pq.write_table(pa.table(columns), path)
    joined = join_scores(records, path)
    assert set(joined.column_names) == {*records.column_names, "plddt", "price"}
    found = {row["uri"]: row for row in joined.to_pylist()}
    assert [found[uri]["plddt"] for uri in columns["uri"][:2]] == [None, 2.0]
    assert found["soft/000.png"]["price"] == 0.5
    assert [found[uri]["sharpness"] for uri in ("soft/000.png", "soft/002.png")] == [7.0, None]  # replaced
    assert found["soft/torn.png"]["plddt"] is None
    again = join_scores(joined, write_csv(path.with_suffix(".csv"), "uri,plddt\nsoft/000.png,9\n"))
    assert [row["plddt"] for row in again.to_pylist() if row["uri"] in columns["uri"][:2]] == [9.0, None]


def write_csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
