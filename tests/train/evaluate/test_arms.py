"""Arms: who is trained on at which noise levels, with a reason for everybody else."""

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ambient.curate.query import query
from ambient.schemas.errors import UserError
from ambient.schemas.manifest import check_rows, read_metadata
from ambient.train.evaluate.arms import ALL, AMBIENT, CLEAN, Arm, alike, chosen, fixed, held_out, split, write_arm
from ambient.train.rows import read_rows
from manifests import rows, write


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """40 rows: 20 clean, 18 others with their own sigma_min, one never usable, one unreadable."""
    sigmas = [0.0] * 20 + [0.5 + 0.1 * i for i in range(18)] + [math.inf, None]
    ids = [f"{i:016x}{(i * 107374182 * 3) % 2**32:08x}{i:08x}" for i in range(40)]
    table = rows(
        40,
        id=ids,
        sigma_min=sigmas,
        sigma_min_lo=sigmas,
        sigma_min_hi=sigmas,
        sigma_max=[0.0] * 39 + [None],
        role=["clean"] * 20 + ["pool"] * 20,
        method=["clean"] * 20 + ["classifier"] * 20,
        status=["ok"] * 39 + ["unreadable"],
        reason=[None] * 39 + ["torn"],
        source=["camera"] * 20 + ["web", "phone"] * 10,
    )
    return write(tmp_path / "m.parquet", table)


def written(manifest: Path, arm: Arm, share: float = 0.25) -> tuple[Path, np.ndarray]:
    table, out = split(manifest, share)
    path = manifest.parent / "arms" / f"{arm.name}.parquet"
    write_arm(manifest, table, out, arm, path)
    check_rows(pq.read_table(path), str(path))
    assert read_metadata(path).space == read_metadata(manifest).space
    return path, out


def test_the_held_out_are_a_share_of_the_clean_by_content(manifest: Path) -> None:
    table, out = split(manifest, 0.25)
    assert 2 <= out.sum() <= 9
    assert not out[20:].any()
    shuffled = table.take(list(reversed(range(40))))
    assert held_out(shuffled["id"].to_pylist(), 0.25)[::-1][:20].tolist() == out[:20].tolist()
    many = [f"{i * 2654435761 % 2**32:08x}" * 4 for i in range(4000)]
    assert held_out(many, 0.25).mean() == pytest.approx(0.25, abs=0.03)


def test_who_is_used_where(manifest: Path) -> None:
    expected = {
        CLEAN: (20, {0.0}),
        ALL: (39, {0.0}),
        AMBIENT: (39, {0.0, *(np.float32(0.5 + 0.1 * i) for i in range(18)), math.inf}),
        fixed(2.0): (39, {0.0, 2.0}),
        chosen("phones", "source = 'phone'"): (9, {0.0}),
    }
    for arm, (num, sigmas) in expected.items():
        path, out = written(manifest, arm)
        used = read_rows(path)
        clean = arm.where is None or arm == CLEAN
        assert len(used) == num - (out.sum() if clean else 0), arm.name
        assert set(used.sigma_min.tolist()) == sigmas, arm.name
    path, out = written(manifest, fixed(2.0))
    assert (
        query(path, "SELECT min(sigma_min) AS s FROM manifest WHERE role = 'pool' AND status = 'ok'")["s"][0].as_py()
        == 2
    )


def test_arms_that_train_on_the_same_are_named(manifest: Path) -> None:
    table, out = split(manifest, 0.25)
    camera, web = chosen("camera", "source = 'camera'"), chosen("web", "source = 'web'")
    assert alike(table, out, [CLEAN, ALL, AMBIENT, fixed(1.0), web]) == []
    assert alike(table, out, [CLEAN, ALL, AMBIENT, camera, chosen("every", "true")]) == [
        ("clean", "camera"),
        ("all", "every"),
    ]
    never = fixed(math.inf)
    assert alike(table, out, [CLEAN, never]) == [("clean", never.name)]


def test_the_share_of_others_is_of_the_pictures_that_are_left(manifest: Path) -> None:
    """At sigma 10, where p_clean is 1/2: 18 of 19 others are usable, beside the clean ones that are not held out."""
    path, out = written(manifest, AMBIENT)
    assert 0 < out.sum() < 20
    assert read_metadata(path).pool_share[-1] == pytest.approx(18 / (20 - out.sum() + 19), rel=1e-4)
    for arm in (ALL, fixed(1.0)):
        assert read_metadata(written(manifest, arm)[0]).pool_share == []


def test_pictures_that_look_clean_are_drawn_otherwise_than_as_equal(manifest: Path) -> None:
    """A classifier that finds all usable everywhere leaves their share to curves; to call them equal does not."""
    table = rows(40, role=["clean"] * 20 + ["pool"] * 20, sigma_min=0.0, method=["clean"] * 20 + ["classifier"] * 20)
    nobody = np.zeros(40, dtype=bool)
    assert alike(table, nobody, [ALL, AMBIENT, chosen("every", "true")]) == [("all", "every")]
    assert alike(table, np.arange(40) >= 20, [CLEAN, ALL, AMBIENT]) == [("clean", "all"), ("clean", "ambient")]


def test_every_other_picture_has_a_reason(manifest: Path) -> None:
    path, out = written(manifest, CLEAN)
    found = query(path, "SELECT status, reason, count(*) AS n FROM manifest GROUP BY ALL ORDER BY ALL").to_pylist()
    held = int(out.sum())
    assert {(row["status"], row["reason"]): row["n"] for row in found} == {
        ("ok", None): 20 - held,
        ("excluded", "held out"): held,
        ("excluded", "not in arm clean"): 19,
        ("unreadable", "torn"): 1,
    }


def test_what_cannot_be_an_arm(manifest: Path) -> None:
    for name in ("ambient", "a/b", ""):
        with pytest.raises(UserError, match="an arm is named"):
            chosen(name, "true")
    with pytest.raises(UserError, match="above 0"):
        fixed(0)
    with pytest.raises(UserError, match="no usable picture"):
        written(manifest, chosen("none", "width > 1000"))
    with pytest.raises(UserError, match="SQL"):
        written(manifest, chosen("wrong", "no_such_column > 1"))
