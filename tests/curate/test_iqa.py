"""pyiqa's measures by their names, for real: one without weights, one with random weights made on the spot."""

from pathlib import Path

import numpy as np
import pyiqa
import pytest
import torch
from ambient.curate import iqa
from ambient.curate.ranks import better_of
from ambient.curate.scorers import measure_all
from ambient.schemas.errors import UserError
from pyiqa.archs import build_network

CPU = torch.device("cpu")


def test_directions_are_those_of_pyiqa() -> None:
    names = iqa.names()
    assert {name: names[name] for name in ("piqe", "niqe", "musiq", "cnniqa")} == {
        "piqe": "low",
        "niqe": "low",
        "musiq": "high",
        "cnniqa": "high",
    }
    assert {"fid", "inception_score", "lpips"}.isdisjoint(names)
    assert (better_of("piqe"), better_of("musiq"), better_of("clipiqa_64"), better_of("mine")) == (
        "low",
        "high",
        "high",
        "high",
    )


def test_piqe_against_pyiqa_itself() -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (64, 80, 3), dtype=np.uint8) for _ in range(3)]
    scorer = iqa.scorer("piqe", None, CPU)
    pieces = ((i, {"piqe": scorer.cut(image)}) for i, image in enumerate(images))
    found = measure_all(pieces, [scorer], 3, CPU)[0]["piqe"]
    metric = pyiqa.create_metric("piqe", device=CPU)
    alone = [float(metric(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)) for image in images]
    np.testing.assert_allclose(found, alone, rtol=1e-4)


def test_a_network_with_local_weights(tmp_path: Path) -> None:
    """pyiqa's smallest network, CNNIQA."""
    torch.manual_seed(0)
    network = build_network({"type": "CNNIQA", "pretrained": None})
    torch.save({"params": network.state_dict()}, tmp_path / "cnniqa.pth")
    scorer = iqa.scorer("cnniqa", str(tmp_path / "cnniqa.pth"), CPU)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = network.eval()(pixels.float() / 255)
    torch.testing.assert_close(scorer.measure(pixels), expected.reshape(2))


def test_missing_weights_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pyiqa.utils import download_util

    monkeypatch.setattr(iqa, "reachable", lambda _: False)
    monkeypatch.setattr(download_util, "DEFAULT_CACHE_DIR", str(tmp_path))
    before = download_util.download_url_to_file
    with pytest.raises(UserError) as error:
        iqa.scorer("cnniqa", None, CPU)
    message = str(error.value)
    assert "\n" not in message
    for words in ("CNNIQA_koniq10k-e6f14c91.pth", "about 3 MB", str(tmp_path), "--weights cnniqa=FILE"):
        assert words in message, words
    assert download_util.download_url_to_file is before
    with pytest.raises(UserError, match="no such file"):
        iqa.scorer("cnniqa", "none.pth", CPU)


def test_a_missing_package_is_one_line() -> None:
    """pyiqa 0.1.16's own clipiqa needs pkg_resources, which current setuptools no longer has."""
    try:
        import pkg_resources  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(UserError, match="clipiqa\\+ needs the package 'pkg_resources'"):
            iqa.scorer("clipiqa+", None, CPU)


def test_large_pictures_are_reduced_to_bound_memory() -> None:
    assert iqa._bounded(np.zeros((4000, 3000, 3), np.uint8)).shape == (2364, 1773, 3)
    small = np.zeros((2048, 2048, 3), np.uint8)
    assert iqa._bounded(small) is small
