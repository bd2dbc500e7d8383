"""Files of drawn pictures: names, what counts as complete, grids, and the npz."""

import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from ambient.schemas.errors import UserError
from ambient.train.samples import (
    check_folder,
    check_packed,
    claim,
    find,
    load_pngs,
    pack,
    path_of,
    remove,
    save,
    save_grid,
)
from PIL import Image

SETTINGS = {"solver": "heun", "labels": (1, 2), "checkpoint": "a"}


def pictures(num: int, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, channels, 4, 5), generator=generator, dtype=torch.uint8)


def test_paths() -> None:
    assert path_of(Path("x"), 42, ".png", nested=False) == Path("x/000042.png")
    assert path_of(Path("x"), 12_345, ".npy", nested=True) == Path("x/012000/012345.npy")
    assert path_of(Path("x"), 999, ".png", nested=True) == Path("x/000000/000999.png")


@pytest.mark.parametrize("channels", [1, 3])
def test_png_files_hold_the_pictures(tmp_path: Path, channels: int) -> None:
    some = pictures(3, channels)
    paths = [path_of(tmp_path, seed, ".png", nested=True) for seed in range(3)]
    for path, picture in zip(paths, some, strict=True):
        save(path, picture)
    assert torch.equal(load_pngs(paths), some)
    assert find(tmp_path, 1, ".png") == paths[1]
    assert find(tmp_path, 3, ".png") is None


@pytest.mark.parametrize("suffix", [".png", ".npy"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_file_that_was_cut_short_is_not_complete(tmp_path: Path, suffix: str, kept: float) -> None:
    path = path_of(tmp_path, 7, suffix, nested=False)
    save(path, pictures(1)[0])
    assert find(tmp_path, 7, suffix) == path
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    assert find(tmp_path, 7, suffix) is None
    path.write_bytes(b"\0" * len(data))
    assert find(tmp_path, 7, suffix) is None


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "000001.png", pictures(1)[0])
    assert list(tmp_path.iterdir()) == []


def test_grid_puts_pictures_row_by_row(tmp_path: Path) -> None:
    numbers = torch.arange(1, 6, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    save_grid(tmp_path / "grid.png", numbers)
    with Image.open(tmp_path / "grid.png") as image:
        found = np.asarray(image)
    assert found.shape == (6, 4, 3)
    assert found[::2, ::2, 0].tolist() == [[1, 2], [3, 4], [5, 0]]
    save_grid(tmp_path / "row.png", numbers, columns=5, zoom=2)
    with Image.open(tmp_path / "row.png") as image:
        found = np.asarray(image)
    assert found.shape == (4, 20, 3)
    assert found[0, ::4, 0].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("latent", [False, True])
def test_npz_holds_the_files_in_their_order(tmp_path: Path, latent: bool) -> None:
    some = torch.randn(4, 4, 8, 8) if latent else pictures(4)
    paths = [path_of(tmp_path / "parts", seed, ".npy", nested=False) for seed in (5, 2, 9, 0)]
    for path, picture in zip(paths, some, strict=True):
        save(path, picture)
    labels = torch.tensor([1, 2, 1, 2])
    pack(tmp_path / "a.npz", paths, seeds=[5, 2, 9, 0], labels=labels, settings=SETTINGS)
    with np.load(tmp_path / "a.npz") as arrays:
        assert set(arrays) == {"arr_0", "seed", "label", "about"}
        assert arrays["arr_0"].dtype == (np.float32 if latent else np.uint8)
        assert np.array_equal(arrays["arr_0"], some.permute(0, 2, 3, 1).numpy())
        assert arrays["seed"].tolist() == [5, 2, 9, 0]
        assert arrays["label"].tolist() == [1, 2, 1, 2]
        assert json.loads(str(arrays["about"])) == {**SETTINGS, "labels": [1, 2]}
    check_packed(tmp_path / "a.npz", SETTINGS, [5, 2, 9, 0])
    with pytest.raises(UserError, match="other seeds"):
        check_packed(tmp_path / "a.npz", SETTINGS, [5, 2, 9])
    with pytest.raises(UserError, match="solver = heun, not euler"):
        check_packed(tmp_path / "a.npz", {**SETTINGS, "solver": "euler"}, [5, 2, 9, 0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "parts"]


def test_an_npz_of_others_is_left_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", np.zeros(3))
    (tmp_path / "c.npz").write_text("text")
    (tmp_path / "d.npz").touch()
    with (tmp_path / "e.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    np.savez(tmp_path / "f.npz", seed=np.array([0]), about=np.array("[1]"))
    np.savez(tmp_path / "g.npz", seed=np.array([0]), about=np.array("[]"))
    for name in ("b.npz", "c.npz", "d.npz", "e.npz", "f.npz", "g.npz"):
        with pytest.raises(UserError, match="not drawn by this command"):
            check_packed(tmp_path / name, SETTINGS, [0])


def test_a_folder_belongs_to_one_way_of_drawing(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for _ in range(2):
        claim(folder, SETTINGS)
    assert [path.name for path in folder.iterdir()] == ["sampling.json"]
    with pytest.raises(UserError, match="from another checkpoint"):
        claim(folder, {**SETTINGS, "checkpoint": "b"})
    with pytest.raises(UserError, match=r"labels = \[1, 2\], not None"):
        claim(folder, {**SETTINGS, "labels": None})


@pytest.mark.parametrize("name", ["cat.png", "000000/000000.png", "000000/000000.npy"])
def test_a_folder_with_other_pictures_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    for look in (claim, check_folder):
        with pytest.raises(UserError, match="not drawn by this command"):
            look(tmp_path, SETTINGS)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


def test_two_processes_may_claim_a_folder_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one claims the folder and draws right after this one has asked, once or twice, whether it is claimed.

    The other one decides: this one may go on if it draws with the same settings.
    """
    real = Path.exists
    for questions in (1, 2):
        for settings in (SETTINGS, {**SETTINGS, "checkpoint": "b"}):
            out, asked = tmp_path / f"{questions}{settings['checkpoint']}", 0

            def exists(path: Path, out: Path = out, last: int = questions) -> bool:
                nonlocal asked
                found, asked = real(path), asked + (path.name == "sampling.json")
                if asked == last:
                    monkeypatch.setattr(Path, "exists", real)
                    claim(out, SETTINGS)
                    (out / "000000.png").write_bytes(b"")
                return found

            monkeypatch.setattr(Path, "exists", exists)
            with nullcontext() if settings is SETTINGS else pytest.raises(UserError, match="from another checkpoint"):
                claim(out, settings)
            assert sorted(path.name for path in out.iterdir()) == ["000000.png", "sampling.json"]
            check_folder(out, SETTINGS)


def test_what_claims_a_folder_is_whole_when_it_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    real = os.link

    def link(mine: Path, path: Path) -> None:
        seen.append(path.exists())
        assert json.loads(mine.read_text())["checkpoint"] == "a"
        real(mine, path)

    monkeypatch.setattr(os, "link", link)
    claim(tmp_path, SETTINGS)
    assert seen == [False]
    assert [path.name for path in tmp_path.iterdir()] == ["sampling.json"]


def test_a_file_system_without_links_holds_pictures_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    for _ in range(2):
        claim(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["sampling.json"]


def test_a_folder_that_will_be_removed_must_hold_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "sampling.json.0123").touch()  # of a process that claims it, too, or was killed then
    check_folder(tmp_path, SETTINGS, temporary=True)
    (tmp_path / "notes.txt").touch()
    check_folder(tmp_path, SETTINGS)
    for look in (claim, check_folder):
        with pytest.raises(UserError, match="holds files that were not written by this command"):
            look(tmp_path, SETTINGS, temporary=True)


def test_a_folder_stays_claimed_until_it_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a call killed while it removed its folder would leave one that looks like somebody else's."""
    folder, real = tmp_path / "parts", shutil.rmtree
    claim(folder, SETTINGS, temporary=True)
    for seed in (1, 2000):
        save(path_of(folder, seed, ".npy", nested=seed > 1), pictures(1)[0])
    left: list[list[str]] = []

    def rmtree(path: Path, **options: bool) -> None:
        if path == folder:
            left.append([path.name for path in folder.iterdir()])
        real(path, **options)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    for _ in range(2):
        remove(folder)
        assert not folder.exists()
        claim(folder, SETTINGS, temporary=True)
    assert left == [["sampling.json"]] * 2


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"heun"', "\udcff"])
def test_settings_that_are_none_are_an_error_of_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "sampling.json").write_text(text, errors="surrogateescape")
    for look in (claim, check_folder):
        with pytest.raises(UserError, match=r"sampling.json is damaged") as caught:
            look(tmp_path, SETTINGS)
        assert "\n" not in str(caught.value)
