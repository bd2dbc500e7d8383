"""Deciding again: every rule, from curves or without, against values worked out by hand."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from ambient.curate.decide import Rule
from ambient.curate.reporter import Reporter
from ambient.curate.rethreshold import rethreshold
from ambient.curate.threshold import crossing, decide, isotonic, sigma_grid
from ambient.schemas.errors import UserError
from ambient.schemas.manifest import METADATA_KEY, check_rows, manifest_schema, read_metadata
from manifests import METADATA, rows

GRID = sigma_grid()
NOISE = np.full(48, 0.3)
TRUTH = [0.3, 0.5, 1.0, 2.0, 4.0]
SOURCES = ["a", "a", "b", "b", "b"]


def curve(sigma_min: float) -> list[float]:
    """Passes 0.45 at sigma_min."""
    return (0.5 / (1 + np.exp(-1.5 * np.log(GRID / sigma_min) - math.log(9)))).tolist()


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Five pictures with known crossings, one whose curve stays low, a clean one, an unreadable one."""
    table = rows(
        8,
        source=[*SOURCES, "a", "c", "c"],
        role=["pool"] * 6 + ["clean", "pool"],
        status=["ok"] * 7 + ["unreadable"],
        p_clean=[*(curve(s) for s in TRUTH), [0.1] * 48, [0.5] * 48, None],
        draws=[[8] * 48] * 7 + [None],
        label=[0, 0, 0, 1, 1, None, 0, None],
        method=["classifier"] * 6 + ["clean", None],
        sigma_min=[9.0] * 6 + [0.0, None],
        sigma_max=[0.0] * 7 + [None],
    )
    score = pa.array([0.1, 0.2, 0.2, 0.9, None, 0.5, 0.1, None], pa.float32())
    table = table.append_column("plddt", score).select(manifest_schema(["plddt"]).names)
    metadata = replace(METADATA, sigma_grid=GRID.tolist(), draw_noise=NOISE.tolist(), fold_spread=[0.1] * len(GRID))
    path = tmp_path / "m.parquet"
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: metadata.to_bytes()}), path)
    return path


def decided(manifest: Path, **rule: object) -> list[dict]:
    out = manifest.with_name("out.parquet")
    rethreshold(manifest, out, Rule(**rule), overwrite=True, reporter=Reporter(quiet=True))
    table = pq.read_table(out)
    check_rows(table, "it")
    assert table.drop_columns(["sigma_min", "sigma_min_lo", "sigma_min_hi", "method"]).equals(
        pq.read_table(manifest).drop_columns(["sigma_min", "sigma_min_lo", "sigma_min_hi", "method"])
    )
    found = table.to_pylist()
    assert (found[6]["sigma_min"], found[6]["method"]) == (0.0, "clean")
    assert (found[7]["sigma_min"], found[7]["method"]) == (None, None)
    return found[:6]


def values(found: list[dict]) -> list[float]:
    return [row["sigma_min"] for row in found]


def test_the_share_of_the_pool_is_of_the_new_thresholds(manifest: Path) -> None:
    """One clean picture beside six others, which only their curves tell from it."""
    shares = {}
    for name, rule in {"own": {}, "floor": {"floor": 1.0}, "said": {"fixed": 2.0}}.items():
        decided(manifest, **rule)
        shares[name] = np.array(read_metadata(manifest.with_name("out.parquet")).pool_share)
    assert shares["said"].shape == (0,)
    assert (shares["floor"] <= shares["own"]).all()
    below = GRID < 1.0
    assert shares["floor"][below].max() == 0 < shares["own"][below].max()
    np.testing.assert_array_equal(shares["floor"][GRID > 1.2], shares["own"][GRID > 1.2])


def test_per_picture(manifest: Path) -> None:
    found = decided(manifest)
    assert values(found) == pytest.approx([*TRUTH, math.inf], rel=0.01)
    assert {row["method"] for row in found} == {"classifier"}
    mean, count = np.array([curve(s) for s in TRUTH]).astype(np.float32).astype(float), np.full((5, 48), 8.0)
    for name, expected in zip(
        ("sigma_min", "sigma_min_lo", "sigma_min_hi"),
        decide(mean, count, GRID, 0.05, noise=NOISE, spread=np.full(len(GRID), 0.1)),
        strict=True,
    ):
        assert [row[name] for row in found[:5]] == pytest.approx(expected.tolist(), rel=1e-5)


def test_epsilon_moves_every_threshold_down(manifest: Path) -> None:
    before, after = values(decided(manifest)), values(decided(manifest, epsilon=0.2))
    assert all(b > a > 0.1 * b for b, a in zip(before[:5], after[:5], strict=True))
    assert read_metadata(manifest.with_name("out.parquet")).epsilon == 0.2


def test_the_first_crossing_where_it_is_asked_for_or_was(manifest: Path) -> None:
    table = pq.read_table(manifest)
    curves = table["p_clean"].to_pylist()
    curves[3] = np.where(GRID < 0.4, curve(0.1), np.where(GRID < 0.6, 0.1, curve(2.0))).tolist()
    at = table.column_names.index("p_clean")
    changed = table.set_column(at, table.field(at), pa.array(curves, table.field(at).type))
    at = table.column_names.index("draws")
    many = [None if draws is None else [400] * 48 for draws in table["draws"].to_pylist()]
    pq.write_table(changed.set_column(at, table.field(at), pa.array(many, table.field(at).type)), manifest)
    assert values(decided(manifest))[3] > 0.4
    found = values(decided(manifest, crossing="first"))
    assert found == pytest.approx([*TRUTH[:3], 0.1, TRUTH[4], math.inf], rel=0.03)
    out = manifest.with_name("out.parquet")
    assert read_metadata(out).crossing == "first"
    again = manifest.with_name("again.parquet")
    rethreshold(out, again, Rule(epsilon=0.06), reporter=Reporter(quiet=True))  # as it was
    assert read_metadata(again).crossing == "first"
    assert pq.read_table(again)["sigma_min"].to_pylist()[3] < 0.1
    rethreshold(out, again, Rule(crossing="rising"), overwrite=True, reporter=Reporter(quiet=True))
    assert pq.read_table(again)["sigma_min"].to_pylist()[3] > 0.4


def with_metadata(manifest: Path, **changes: object) -> Path:
    metadata = replace(read_metadata(manifest), **changes)
    pq.write_table(pq.read_table(manifest).replace_schema_metadata({METADATA_KEY: metadata.to_bytes()}), manifest)
    return manifest


@pytest.mark.parametrize("per", ["picture", "source"])
def test_without_an_epsilon_the_manifests_own_holds(manifest: Path, per: str) -> None:
    out = manifest.with_name("out.parquet")
    expected = values(decided(manifest, per=per, epsilon=0.2))
    with_metadata(manifest, epsilon=0.2)
    assert values(decided(manifest, per=per)) == expected
    assert read_metadata(out).epsilon == 0.2
    assert "--epsilon" not in read_metadata(out).command
    decided(manifest, per=per, epsilon=0.05)
    assert read_metadata(out).epsilon == 0.05
    assert "--epsilon 0.05" in read_metadata(out).command


@pytest.mark.parametrize("rule", [{"fixed": 1.0}, {"sql": "1"}, {"quantile": "plddt", "fixed": 1.0}])
def test_a_rule_without_curves_keeps_the_epsilon(manifest: Path, rule: dict) -> None:
    decided(with_metadata(manifest, epsilon=0.3), **rule)
    assert read_metadata(manifest.with_name("out.parquet")).epsilon == 0.3


@pytest.mark.parametrize("per", ["picture", "source"])
@pytest.mark.parametrize("short", [None, [0.5] * 47])
def test_curves_that_are_not_there_are_one_line(manifest: Path, per: str, short: list | None) -> None:
    table = pq.read_table(manifest)
    curves = [*table["p_clean"].to_pylist()[:2], short, *table["p_clean"].to_pylist()[3:]]
    place = table.schema.get_field_index("p_clean")
    pq.write_table(
        table.set_column(place, table.schema.field(place), pa.array(curves, pa.list_(pa.float32()))), manifest
    )
    out = manifest.with_name("out.parquet")
    with pytest.raises(
        UserError, match=r"^1 of 6 pictures hold no p_clean curves: use --sigma-min, .* annotate again$"
    ):
        rethreshold(manifest, out, Rule(per=per), reporter=Reporter(quiet=True))
    assert not out.exists()
    rethreshold(manifest, out, Rule(fixed=1.0), reporter=Reporter(quiet=True))


def test_the_demo_manifest_has_no_curves(tmp_path: Path) -> None:
    demo = Path(__file__).parents[1] / "demo.parquet"
    with pytest.raises(UserError, match="hold no p_clean curves"):
        rethreshold(demo, tmp_path / "out.parquet", Rule(epsilon=0.1), reporter=Reporter(quiet=True))


def test_names_of_sources_cannot_reach_the_terminal(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pq.read_table(manifest)
    place = table.schema.get_field_index("source")
    names = pa.array(["\x1b[31mred\n"] * len(table)).dictionary_encode()
    pq.write_table(table.set_column(place, table.schema.field(place), names), manifest)
    rethreshold(manifest, manifest.with_name("out.parquet"), Rule(), reporter=Reporter())
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "1 in \\x1b[31mred\\n\n" in said


def test_the_careful_choice_is_the_upper_end(manifest: Path) -> None:
    assert values(decided(manifest, use="hi")) == [row["sigma_min_hi"] for row in decided(manifest)]


def test_floor_and_cap_bound_what_is_finite(manifest: Path) -> None:
    found = values(decided(manifest, floor=0.6, cap=1.5))
    assert found == pytest.approx([0.6, 0.6, 1.0, 1.5, 1.5, math.inf], rel=0.01)


@pytest.mark.parametrize(
    ("per", "groups"), [("source", ["a", "a", "b", "b", "b", "a"]), ("label", [0, 0, 0, 1, 1, None])]
)
def test_per_group_is_the_crossing_of_the_mean_curve(manifest: Path, per: str, groups: list) -> None:
    found = decided(manifest, per=per)
    curves = np.array([*(curve(s) for s in TRUTH), [0.1] * 48])
    for group in set(groups):
        mean = curves[[g == group for g in groups]].mean(axis=0, keepdims=True)
        expected = float(crossing(isotonic(mean), GRID, 0.45)[0])
        assert [v for v, g in zip(values(found), groups, strict=True) if g == group] == pytest.approx(
            [expected] * groups.count(group), rel=1e-4
        )
    assert {row["method"] for row in found} == {per}


def test_per_quality_groups_equal_scores(manifest: Path) -> None:
    found = values(decided(manifest, per="quality", by="plddt"))
    assert found[1] == found[2]  # the same score
    assert found[0] == pytest.approx(TRUTH[0], rel=0.01)
    assert found[3] == pytest.approx(TRUTH[3], rel=0.01)


def test_fixed(manifest: Path) -> None:
    found = decided(manifest, fixed=2.0)
    assert values(found) == [2.0] * 6
    assert {row["method"] for row in found} == {"fixed"}


def test_quantile_of_a_score(manifest: Path) -> None:
    """Scores .1, .2, .2, .9, none, .5: of 6 the shares below each are 1/6, 2/6, 2/6, 5/6, 0, 4/6; none is lowest."""
    assert values(decided(manifest, quantile="plddt", fixed=0.2, share=1 / 3)) == pytest.approx([0.2, 0, 0, 0, 0.2, 0])
    found = decided(manifest, quantile="plddt", fixed=0.2, share=0.66)
    assert values(found) == pytest.approx([0.2, 0.2, 0.2, 0, 0.2, 0])
    assert {row["method"] for row in found} == {"quantile"}


def test_what_ties_with_the_lowest_is_among_them(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It must not fail open: a score that says nothing makes no picture good."""
    found = decided(manifest, quantile="plddt", fixed=0.2, share=0.5)
    assert values(found) == pytest.approx([0.2, 0.2, 0.2, 0, 0.2, 0])
    table = pq.read_table(manifest)
    same = pa.array([0.3] * len(table), pa.float32())
    pq.write_table(table.set_column(table.schema.get_field_index("plddt"), "plddt", same), manifest)
    rule = Rule(quantile="plddt", fixed=0.2, share=0.5)
    out = rethreshold(manifest, manifest.with_name("new.parquet"), rule, reporter=Reporter())
    assert pq.read_table(out)["sigma_min"].to_pylist()[:6] == pytest.approx([0.2] * 6)
    assert "100% of the pictures, not 50%, are among the lowest: many have the same plddt" in capsys.readouterr().err


def test_without_ties_the_share_is_kept(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pq.read_table(manifest)
    different = pa.array([0.5, 0.1, 0.3, 0.2, 0.6, 0.4, 0.0, None], pa.float32())
    pq.write_table(table.set_column(table.schema.get_field_index("plddt"), "plddt", different), manifest)
    for share, expected in ((1 / 6, 1), (0.4, 3), (0.5, 3), (0.51, 4), (1.0, 6)):
        assert np.count_nonzero(values(decided(manifest, quantile="plddt", fixed=0.2, share=share))) == expected
    assert "among the lowest" not in capsys.readouterr().err


def test_pictures_without_the_score_of_per_quality_are_said(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rethreshold(manifest, manifest.with_name("new.parquet"), Rule(per="quality", by="plddt"), reporter=Reporter())
    assert "1 pictures have no plddt: they share one threshold" in capsys.readouterr().err
    table = pq.read_table(manifest)
    none = pa.nulls(len(table), pa.float32())
    pq.write_table(table.set_column(table.schema.get_field_index("plddt"), "plddt", none), manifest)
    with pytest.raises(UserError, match="needs scores, and no picture has plddt"):
        rethreshold(manifest, manifest.with_name("other.parquet"), Rule(per="quality", by="plddt"))


def test_a_rule_beyond_float32_is_infinity(manifest: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert values(decided(manifest, sql="1e300")) == [math.inf] * 6
    assert not recwarn.list


def test_overwrite_replaces_manifests_only(manifest: Path) -> None:
    rule, other = Rule(fixed=1.0), manifest.with_name("picture.png")
    other.write_bytes(b"a picture")
    for place in (other, Path("/dev/null")):
        with pytest.raises(UserError, match="is something else than a manifest"):
            rethreshold(manifest, place, rule, overwrite=True)
    assert other.read_bytes() == b"a picture"
    other.write_bytes(b"")
    rethreshold(manifest, other, rule, overwrite=True, reporter=Reporter(quiet=True))
    link = manifest.with_name("link.parquet")
    link.symlink_to(other)
    rethreshold(manifest, link, Rule(fixed=3.0), overwrite=True, reporter=Reporter(quiet=True))
    assert link.is_symlink()
    assert pq.read_table(other)["sigma_min"][0].as_py() == 3.0
    with pytest.raises(UserError, match=r"there is no folder .*nowhere; make it"):
        rethreshold(manifest, manifest.parent / "nowhere" / "m.parquet", rule, reporter=Reporter(quiet=True))


def test_sql_rule(manifest: Path) -> None:
    rule = "CASE WHEN plddt > 0.4 THEN 0 WHEN source = 'a' THEN 0.7 ELSE 'inf'::FLOAT END -- done"
    found = decided(manifest, sql=rule)
    assert values(found) == pytest.approx([0.7, 0.7, math.inf, 0, math.inf, 0])
    assert {row["method"] for row in found} == {"rule"}


def test_what_no_curve_told_is_not_said_of_how_pictures_look(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = Rule(sql="CASE WHEN plddt > 0.4 THEN 0 ELSE 'inf'::FLOAT END")
    rethreshold(manifest, manifest.with_name("out.parquet"), rule, reporter=Reporter())
    said = "".join(capsys.readouterr())
    assert "of them: sigma_min = 0" in said
    assert "of them: sigma_min = inf, never used" in said
    assert "look" not in said


def test_an_end_that_is_missing_is_not_said_of_how_pictures_look(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rethreshold(manifest, manifest.with_name("out.parquet"), Rule(use="hi"), reporter=Reporter())
    said = capsys.readouterr().err
    assert "of them have an interval without an upper end, which is what --use hi takes: sigma_min = inf" in said
    assert "look wrong" not in said


def test_what_is_hardly_ever_used_is_counted_by_source(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A colour cast of a small picture takes so much noise, and no more."""
    rethreshold(manifest, manifest.with_name("out.parquet"), Rule(), reporter=Reporter())
    assert "hardly ever" not in capsys.readouterr().err
    rethreshold(manifest, manifest.with_name("far.parquet"), Rule(floor=10.5), reporter=Reporter())
    said = capsys.readouterr().err
    assert "5 of them are trusted only above sigma 10, where training hardly ever draws (colour cast" in said
    assert "other content?): 3 in b, 2 in a" in said
    assert "1 of them look wrong at every noise level" in said


def test_per_label_needs_labels(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rethreshold(manifest, manifest.with_name("out.parquet"), Rule(per="label"), reporter=Reporter())
    assert "1 pictures have no label: they share one threshold" in capsys.readouterr().err
    table = pq.read_table(manifest)
    none = table.set_column(table.schema.get_field_index("label"), "label", pa.nulls(len(table), pa.int32()))
    pq.write_table(none, manifest)
    with pytest.raises(UserError, match="--per label needs labels, and the manifest has none"):
        rethreshold(manifest, manifest.with_name("other.parquet"), Rule(per="label"), reporter=Reporter())


@pytest.mark.parametrize("damage", [{"fold_spread": []}, {"draw_noise": [0.1]}])
def test_metadata_that_does_not_fit_the_grid_is_one_line(manifest: Path, damage: dict[str, list[float]]) -> None:
    table, metadata = pq.read_table(manifest), read_metadata(manifest)
    broken = manifest.with_name("broken.parquet")
    kept = {METADATA_KEY: replace(metadata, **damage).to_bytes()}
    pq.write_table(table.replace_schema_metadata(kept), broken)
    with pytest.raises(UserError, match="metadata is damaged: draw_noise has"):
        rethreshold(broken, manifest.with_name("out.parquet"), Rule())


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"sql": "CASE WHEN plddt > 0.4 THEN 1 END"}, "NULL for '0000000.png'"),
        ({"sql": "-1"}, "a number >= 0"),
        ({"sql": "no_such"}, "SQL: "),
        ({"sql": "(SELECT max(x) FROM read_csv('/etc/passwd'))"}, "SQL: "),
        ({"sql": "unnest([1, 2])"}, "12 values for 6 pictures"),
        ({"sql": "1), (2"}, "--rule is one expression"),
        ({"sql": "unnest(CASE WHEN plddt = 0.9 THEN [1, 2] WHEN plddt < 0.15 THEN [] ELSE [1] END)"}, "one for each"),
        ({"quantile": "beauty", "fixed": 1.0}, "no score 'beauty'"),
        ({"quantile": "plddt"}, "needs --sigma-min"),
        ({"per": "quality"}, "needs --by"),
        ({"epsilon": 0.6}, "epsilon"),
        ({"floor": 2.0, "cap": 1.0}, "--floor and --cap"),
        ({"fixed": -1.0}, "--sigma-min"),
        ({"fixed": 1.0, "sql": "1"}, "leave out"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(manifest: Path, rule: dict, words: str) -> None:
    out = manifest.with_name("out.parquet")
    with pytest.raises(UserError, match=words.replace("(", r"\(")) as error:
        rethreshold(manifest, out, Rule(**rule), reporter=Reporter(quiet=True))
    assert "\n" not in str(error.value)
    assert not out.exists()


def test_an_existing_file_is_kept(manifest: Path) -> None:
    with pytest.raises(UserError, match="--overwrite"):
        rethreshold(manifest, manifest, Rule(), reporter=Reporter(quiet=True))


def test_the_command_says_the_rule(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = manifest.with_name("out.parquet")
    rethreshold(manifest, out, Rule(fixed=2.0, quantile="plddt", share=0.5), reporter=Reporter())
    metadata = read_metadata(out)
    assert metadata.command.endswith("--sigma-min 2.0 --quantile plddt --share 0.5")
    assert metadata.run != METADATA.run
    assert "1 pictures have no plddt" in capsys.readouterr().err
    rethreshold(manifest, out, Rule(), overwrite=True, reporter=Reporter())
    said = capsys.readouterr().err
    assert "which noise cannot mend" in said
    assert "1 in a" in said


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_rule_over_numbers_of_another_table(manifest: Path, kind: str) -> None:
    """As a CSV file or a Parquet file by uri: what a picture lacks there is NULL."""
    uris = pq.read_table(manifest, columns=["uri"])["uri"].to_pylist()
    mine = pa.table({"uri": uris[:4], "confidence": [95, 80, 30, 95]})
    path = manifest.with_name(f"mine.{kind}")
    csv.write_csv(mine, path) if kind == "csv" else pq.write_table(mine, path)
    rule = Rule(sql="CASE WHEN confidence > 90 THEN 0 WHEN confidence > 50 THEN 0.5 ELSE 3 END")
    out = rethreshold(manifest, manifest.with_name("out.parquet"), rule, scores=path, reporter=Reporter(quiet=True))
    found = pq.read_table(out)
    check_rows(found, "it")
    assert found["sigma_min"].to_pylist() == [0.0, 0.5, 3.0, 0.0, 3.0, 3.0, 0.0, None]
    assert found["confidence"].to_pylist() == [95, 80, 30, 95, None, None, None, None]
    told = read_metadata(out)
    assert told.command.endswith(f"--scores {path}")
    again = rethreshold(out, manifest.with_name("again.parquet"), Rule(quantile="confidence", fixed=2.0, share=0.5))
    assert set(pq.read_table(again)["sigma_min"].to_pylist()) == {0.0, 2.0, None}
    other = mine.set_column(1, "confidence", pa.array([95, 81, 30, 95]))
    csv.write_csv(other, path) if kind == "csv" else pq.write_table(other, path)
    rethreshold(manifest, out, rule, scores=path, overwrite=True, reporter=Reporter(quiet=True))
    assert read_metadata(out).run != told.run  # the same words, another table
