"""What the proofs read: how much of it is clean, what is held out, and who sees what."""

import gzip
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.usefixtures("proof")


def write_fashion(folder: Path, *, train: int, test: int) -> None:
    """Of one grey level each, in files as Fashion-MNIST's: training pictures below 200, the others from there on."""
    for part, first, num in (("train", 0, train), ("t10k", 200, test)):
        grey = np.arange(first, first + num, dtype=np.uint8)
        pixels, labels = np.repeat(grey, 28 * 28).tobytes(), (grey % 10).tobytes()
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + pixels))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + labels))


def levels(pictures: Any) -> list[int]:
    """The grey level of each picture, as it is in the middle."""
    middle = pictures.shape[-1] // 2
    return [int(picture.squeeze()[middle, middle]) for picture in pictures]


@pytest.mark.parametrize(("name", "side"), [("fashion", 32), ("fashion16", 16)])
def test_two_percent_are_clean_and_the_test_pictures_held_out(tmp_path: Path, name: str, side: int) -> None:
    write_fashion(tmp_path, train=100, test=20)
    proof = import_module(name).open_proof(tmp_path, None)
    assert (proof.pictures.shape, proof.held_out.shape) == ((100, side, side), (20, side, side))
    assert (levels(proof.pictures), levels(proof.held_out)) == (list(range(100)), list(range(200, 220)))
    assert proof.pictures[99, 0, 0] == 0  # padded
    assert (len(proof.clean), proof.clean.sum()) == (100, 2)
    fewer = import_module(name).open_proof(tmp_path, 50)
    assert (len(fewer.pictures), len(fewer.held_out), fewer.clean.sum()) == (50, 20, 1)


@pytest.mark.parametrize("name", ["fashion", "fashion16"])
def test_the_proof_has_the_pictures_and_clean_ones_that_it_says(name: str) -> None:
    import fashion

    assert (import_module(name).NUM_PICTURES, fashion.clean_ones(20_000).sum()) == (20_000, 400)


def test_the_classifier_is_trained_on_the_test_pictures_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fashion
    import fashion16

    seen: dict[str, Any] = {}

    def train_classifier(pictures: Any, labels: Any, **_: Any) -> torch.nn.Module:
        seen.update(pictures=pictures, labels=labels)
        return torch.nn.Identity()

    monkeypatch.setattr(fashion, "train_classifier", train_classifier)
    monkeypatch.setattr(fashion, "save_classifier", lambda *_: None)
    monkeypatch.setattr(fashion, "accuracy", lambda _, pictures, labels: float(len(pictures)))
    write_fashion(tmp_path, train=100, test=20)
    for change in (lambda pictures: pictures, fashion16.halved):
        fashion.write_classifier(tmp_path, tmp_path / "out", torch.device("cpu"), change=change)
        assert levels(seen["pictures"]) == list(range(200, 220))
        assert seen["labels"].tolist() == [level % 10 for level in range(200, 220)]


def test_a_tenth_of_the_photographs_is_clean_and_the_held_out_crops_apart(tmp_path: Path) -> None:
    import photographs

    pictures = np.broadcast_to(np.arange(220, dtype=np.uint8)[:, None, None, None], (220, 4, 4, 3))
    held_out = np.arange(220) % 11 == 0
    np.savez(tmp_path / "crops.npz", pictures=pictures, held_out=held_out)
    proof = photographs.open_proof(tmp_path / "crops.npz", None)
    assert (len(proof.pictures), proof.clean.sum(), len(proof.held_out)) == (200, 20, 20)
    assert set(proof.held_out[:, 0, 0, 0]) == set(range(0, 220, 11))
    assert not set(proof.held_out[:, 0, 0, 0]) & set(proof.pictures[:, 0, 0, 0])
    assert len(photographs.open_proof(tmp_path / "crops.npz", 110).pictures) == 100


def write_photographs(folder: Path, *, num: int) -> None:
    """Noise in red and green, the photograph's number in blue; the left half of number 3 and all of number 5 smooth."""
    random = np.random.default_rng(0)
    for number in range(num):
        pixels = random.integers(0, 256, (256, 256, 3), dtype=np.uint8)
        pixels[:, : {3: 128, 5: 256}.get(number, 0), :2] = 90
        pixels[:, :, 2] = number
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    Image.fromarray(pixels[:100]).save(folder / "small.png")


def test_crops_of_a_photograph_are_on_one_side_and_smooth_ones_left_out(tmp_path: Path) -> None:
    import photographs

    write_photographs(tmp_path, num=13)
    out = tmp_path / "crops.npz"
    photographs.write_crops(tmp_path, out, 1000)
    with np.load(out) as arrays:
        pictures, held_out = arrays["pictures"], arrays["held_out"]
    numbers = pictures[:, 0, 0, 2]
    assert pictures.shape == (46, 64, 64, 3)
    assert {number: int((numbers == number).sum()) for number in range(13)} == {
        number: {3: 2, 5: 0}.get(number, 4) for number in range(13)
    }
    assert set(numbers[held_out]) == {0, 11}
    assert not set(numbers[held_out]) & set(numbers[~held_out])
    photographs.write_crops(tmp_path, out, 10)
    with np.load(out) as arrays:
        assert len(arrays["pictures"]) == len(arrays["held_out"]) == 10


def test_of_one_picture_in_several_sizes_the_largest_is_cut(tmp_path: Path) -> None:
    import photographs

    for name in ("wall/1920x1080.png", "wall/640x480.png", "other/a.png", "other/b.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(len(name) * 10 if "1920" not in name else 1000))
    found = [path.relative_to(tmp_path).as_posix() for path in photographs.largest_of_each(tmp_path)]
    assert sorted(found) == ["other/a.png", "other/b.png", "wall/1920x1080.png"]
