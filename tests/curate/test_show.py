"""What is printed of a picture."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from ambient.curate.show import draw, pictures, print_picture, use_of
from ambient.curate.threshold import sigma_grid
from ambient.schemas.errors import UserError
from hostile_pool import HOSTILE, write_hostile_pool
from manifests import METADATA, rows, write

GRID = sigma_grid()


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.0, 0.0, "used at every noise level"),
        (0.5, 0.0, "used at noise levels above 0.577"),
        (math.inf, 0.0, "not used at any noise level"),
        (math.inf, 0.1, "used at noise levels below 0.1 only"),
        (0.5, 0.1, "used at noise levels above 0.577 and below 0.1"),
        (0.5, 0.6, "used at every noise level"),
        (0.5, math.inf, "used at every noise level"),
    ],
)
def test_use_in_words(low: float, high: float, said: str) -> None:
    assert use_of({"status": "ok", "reason": None, "sigma_min": low, "sigma_max": high}) == said


def test_use_of_what_cannot_be_used() -> None:
    assert use_of({"status": "too_small", "reason": "7 x\n7"}) == "not used: too_small, 7 x\\n7"


def curve(crossing: float) -> dict:
    values = 0.9 / (1 + (crossing / GRID) ** 3)
    interval = {"sigma_min": crossing, "sigma_min_lo": crossing / 2, "sigma_min_hi": crossing * 2}
    return {"p_clean": values.tolist(), "draws": None, **interval}


def test_a_rising_curve_is_drawn_where_it_is() -> None:
    lines = draw(curve(1.0), replace(METADATA, sigma_grid=GRID.tolist()))
    body = [line[8:] for line in lines[:11]]
    for column, value in enumerate(curve(1.0)["p_clean"]):
        (line,) = (i for i in range(11) if column < len(body[i]) and body[i][column] == "━")
        assert abs(1 - line / 10 - value) <= 0.051
    assert "┄" in body[6] or "┄" in body[5]  # 0.45
    at = int(np.abs(np.log(GRID)).argmin())
    cross = lines[12]
    assert cross[8 + at] == "▲"
    assert cross.count("━") == int(np.abs(np.log(GRID / 2)).argmin()) - int(np.abs(np.log(GRID / 0.5)).argmin())
    assert "sigma_min 1, 90 % in 0.5 ... 2" in cross
    for text, sigma in (("0.01", 0.01), ("0.1", 0.1), ("10", 10)):
        assert lines[13][8:].split(" ").count(text) == 1
        assert lines[13][8:].index(text) == int(np.abs(np.log(GRID / sigma)).argmin())


@pytest.mark.parametrize("sigma", [0.0, math.inf])
def test_without_a_crossing_there_is_no_mark(sigma: float) -> None:
    row = {**curve(1.0), "sigma_min": sigma, "sigma_min_lo": sigma, "sigma_min_hi": math.inf}
    assert "sigma_min" not in "\n".join(draw(row, replace(METADATA, sigma_grid=GRID.tolist())))


def test_a_terminal_without_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ascii:
        encoding = "ascii"

    monkeypatch.setattr(sys, "stdout", Ascii())
    text = "\n".join(draw(curve(1.0), replace(METADATA, sigma_grid=GRID.tolist())))
    assert text.isascii()
    assert text.count("#") == 48


def test_pictures_in_the_order_asked_for_and_names_like_a_wrong_one(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", rows(3, uri=["a/x.png", "b/X.png", "c/y.png"]))
    _, table = pictures(path, ["c/y.png", "a/x.png"])
    assert table["uri"].to_pylist() == ["c/y.png", "a/x.png"]
    with pytest.raises(UserError) as error:
        pictures(path, ["a/x.png", "z/x.png"])
    assert str(error.value).endswith("has no picture 'z/x.png': did you mean 'a/x.png' or 'b/X.png'?")
    with pytest.raises(UserError, match="finds the names"):
        pictures(path, ["%"])


def test_names_stand_apart_from_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = rows(1, uri=["x.png"])
    for name, value in (("coarse_sharpness", -3.518), ("a_name_of_another_tool", 2.5)):
        table = table.append_column(name, pa.array([value], pa.float32()))
    metadata, table = pictures(write(tmp_path / "m.parquet", table), ["x.png"])
    print_picture(table.to_pylist()[0], metadata)
    lines = capsys.readouterr().out.splitlines()
    for name, value in (("status", "ok"), ("coarse_sharpness", "-3.518"), ("a_name_of_another_tool", "2.5")):
        (line,) = (line for line in lines if line.startswith(f"  {name} "))
        assert line.split() == [name, value] and line.index(value) == 2 + len("a_name_of_another_tool") + 2


def test_hostile_names_stay_on_their_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_hostile_pool(tmp_path, num=12)
    metadata, table = pictures(path, [f"{'clean' if i % 5 == 0 else 'soft'}/{HOSTILE[i]}" for i in (3, 5)])
    for row in table.to_pylist():
        print_picture(row, metadata)
    out = capsys.readouterr().out
    assert "soft/right\\u202egnp.to.left.png\n  used at" in out
    assert "clean/new\\nline.png\n  used at every noise level\n" in out
    assert "\u202e" not in out
    assert out.count("━") > 48
    assert "caption" in out
