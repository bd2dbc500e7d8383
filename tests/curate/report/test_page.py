"""The page as a file: self-contained, the same every time, and no name or caption becomes markup."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from ambient.curate.report.page import PARTS, contents, render, report
from ambient.schemas.errors import UserError
from hostile_pool import GRID, HOSTILE, SCRIPT, write_hostile_pool
from manifests import METADATA, rows, write
from small_pool import write_pool

CSP = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class Reader(HTMLParser):
    """Elements, and the text of each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, text: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.append(text)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hostile_pool(tmp_path_factory.mktemp("hostile"))


def test_nothing_in_the_data_is_markup(manifest: Path, tmp_path: Path) -> None:
    page = report(manifest, tmp_path / "report.html").read_text(encoding="utf-8")
    reader = Reader(page)
    assert [tag for tag, _ in reader.tags].count("script") == 2
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert "<script>window" not in page
    assert not {"\u2028", "\u2029"} & set(page)
    data = json.loads(reader.scripts[0])
    uris = {picture["row"]["uri"] for picture in data["pictures"]}
    assert all(any(uri.endswith(name) for uri in uris) for name in HOSTILE)
    assert any(SCRIPT in (picture["row"]["caption"] or "") for picture in data["pictures"])
    assert SCRIPT in data["metadata"]["command"]
    assert data["statuses"][1] == {
        "status": "too_small",
        "reason": SCRIPT,
        "pictures": 2,
        "example": data["statuses"][1]["example"],
    }


def test_the_page_is_self_contained(manifest: Path, tmp_path: Path) -> None:
    reader = Reader(report(manifest, tmp_path / "report.html").read_text(encoding="utf-8"))
    policies = [a["content"] for tag, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [CSP]
    for tag, attributes in reader.tags:
        for name in ("src", "href", "action", "srcset", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:")), tag
    folder = files("ambient.curate.report")
    for name in (*PARTS.values(), "page.html"):
        source = folder.joinpath(name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|@import|url\(|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", source)


def test_numbers_survive(manifest: Path) -> None:
    data = contents(manifest, {})
    data["odd"] = [
        math.inf,
        -math.inf,
        math.nan,
        None,
        1e-12,
        123456789,
        "</script>",
        {"a": np.arange(2)},
    ]
    reader = Reader(render(data))
    found = json.loads(reader.scripts[0])
    assert found["odd"] == [math.inf, -math.inf, None, None, 1e-12, 123456789, "</script>", {"a": [0, 1]}]
    np.testing.assert_allclose(found["grid"], GRID, rtol=1e-4)


def test_the_same_manifest_gives_the_same_page(manifest: Path, tmp_path: Path) -> None:
    first, second = (report(manifest, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def test_a_pool_that_is_gone_is_said_and_moved_is_found(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(manifest, tmp_path / "a.html", roots={"pool": str(tmp_path / "nowhere")})
    assert "pictures could not be read" in capsys.readouterr().err
    moved = contents(manifest, {"pool": str(tmp_path / "nowhere")})
    assert [root["there"] for root in moved["roots"]] == [False]
    assert all(picture["problem"] and picture["image"] is None for picture in moved["pictures"])
    report(manifest, tmp_path / "b.html")
    assert "could not" not in capsys.readouterr().err
    with pytest.raises(UserError, match="no root named 'pol'"):
        report(manifest, tmp_path / "c.html", roots={"pol": "/"})
    assert not (tmp_path / "c.html").exists()


def test_manifests_without_curves_or_usable_pictures(tmp_path: Path) -> None:
    data = contents(write_pool(tmp_path / "fixed"), {})
    assert data["curves"] is None
    assert len(data["grid"]) == 48
    table = rows(3, status="unreadable", reason="gone", p_clean=None, sigma_min=None, sigma_max=None)
    data = contents(write(tmp_path / "none.parquet", table), {})
    assert data["galleries"] == data["pictures"] == []
    render(data)
    empty = contents(write(tmp_path / "empty.parquet", rows(0)), {})
    assert empty["sources"] == empty["statuses"] == []
    render(empty)


def test_the_page_shows_the_crossing_that_decided(tmp_path: Path) -> None:
    """Of curves that pass 0.45 between 0.01 and 0.1, fall, and pass it again between 1 and 10."""
    found = {}
    for how in ("first", "rising"):
        metadata = replace(METADATA, crossing=how, draw_noise=[1e-6] * 4)
        path = write(tmp_path / f"{how}.parquet", rows(3, p_clean=[[0.4, 0.5, 0.0, 0.5]] * 3), metadata)
        data = contents(path, {})
        found[how] = (data["curves"]["panels"][0]["crossing"], data["pictures"][0]["fit"])
    assert 0.01 < found["first"][0] < 0.1 and found["rising"][0] > 1
    assert list(found["first"][1]) == pytest.approx([0.4, 0.5, 0.0, 0.5])
    assert list(found["rising"][1]) == pytest.approx([0.3, 0.3, 0.3, 0.5])


def test_further_columns_of_a_manifest_change_nothing(tmp_path: Path) -> None:
    """Whatever they are called: these names occur in the queries."""
    words = ["name", "position", "_group_name", "_group_position", "panel", "bin", "ok", "clean", "pictures"]
    words += ["above", "below", "kind", "place", "line", "q", "example", "usable", "steps"]
    table = rows(40, source=list("aaab") * 10, label=[0, 1] * 20, sigma_min=[0.0, 0.5, 1.0, 2.0, math.inf] * 8)
    plain = contents(write(tmp_path / "plain.parquet", table), {})
    for number, word in enumerate(words):
        values = ["b", "a"] * 20 if number % 2 else list(range(40))
        table = table.append_column(word, pa.array(values))
    found = contents(write(tmp_path / "more.parquet", table), {})
    for key in ("totals", "statuses", "sources", "labels", "curves", "galleries", "scores"):
        np.testing.assert_equal(found[key], plain[key])
    assert [source["name"] for source in found["sources"]] == ["a", "b"]


def test_no_manifest_is_replaced(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, rows(1)) for name in ("m.parquet", "other.parquet")]
    before = [path.read_bytes() for path in paths]
    for out, words in zip(paths, ("manifest itself", "is a manifest"), strict=True):
        with pytest.raises(UserError, match=words):
            report(paths[0], out)
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize("name", ["picture.png", "m.parquet.classifier", "notes"])
def test_only_a_page_is_replaced(tmp_path: Path, name: str) -> None:
    manifest = write(tmp_path / "m.parquet", rows(1))
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(UserError, match=r"must end in \.html"):
        report(manifest, tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"precious"


def test_a_remote_pool_is_not_gone(tmp_path: Path) -> None:
    roots = {"pool": tmp_path.as_uri(), "here": str(tmp_path), "gone": str(tmp_path / "gone")}
    data = contents(write(tmp_path / "m.parquet", rows(1), replace(METADATA, roots=roots)), {})
    assert {root["name"]: root["there"] for root in data["roots"]} == {"pool": True, "here": True, "gone": False}


def test_no_manifest_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no manifest"):
        report(tmp_path / "none.parquet", tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
