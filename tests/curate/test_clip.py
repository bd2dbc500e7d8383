"""CLIP-IQA by open_clip, for real, with little networks of random weights made on the spot."""

import numpy as np
import open_clip
import pytest
import torch
from ambient.curate.clip import prompts_of, scorers
from ambient.curate.openclip import ClipConfig
from ambient.curate.scorers import Scorer, measure_all
from ambient.schemas.errors import UserError
from little_clip import write_little_clips
from torch.nn import functional

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ClipConfig]:
    return write_little_clips(tmp_path_factory.mktemp("clip"))


def pictures(*shapes: tuple[int, int]) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


def scores_of(found: list[Scorer], images: list[np.ndarray]) -> dict[str, np.ndarray]:
    pieces = ((i, {s.name: s.cut(image) for s in found}) for i, image in enumerate(images))
    values, problems = measure_all(pieces, found, len(images), CPU)
    assert problems == {}
    return values


def test_the_probability_of_the_good_prompt_against_the_definition(little: dict[str, ClipConfig]) -> None:
    """A ViT on squares of its own size: nothing is resized."""
    config = little["little-vit"]
    images = pictures((32, 32), (32, 32), (32, 32))
    found = scores_of(scorers(["clipiqa"], config, CPU), images)["clipiqa"]
    model = open_clip.create_model(config.model, pretrained=config.weights).eval()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    x = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        image = functional.normalize(model.encode_image(x))
        text = functional.normalize(model.encode_text(open_clip.tokenize(["Good photo.", "Bad photo."])))
    good, bad = (model.logit_scale.exp() * image @ text.T).T
    np.testing.assert_allclose(found, torch.sigmoid(good - bad).detach(), atol=1e-5)
    assert found.std() > 1e-4


def test_swapped_prompts_give_the_other_probability(little: dict[str, ClipConfig]) -> None:
    images = pictures((40, 64), (64, 40))
    config = little["little-rn"]
    found = scores_of(scorers(["clipiqa"], config, CPU), images)["clipiqa"]
    swapped = ClipConfig(model=config.model, weights=config.weights, prompts=("Bad photo.", "Good photo."))
    np.testing.assert_allclose(found + scores_of(scorers(["clipiqa"], swapped, CPU), images)["clipiqa"], 1, atol=1e-5)


def test_a_resnet_sees_pictures_at_their_own_size_without_positions(little: dict[str, ClipConfig]) -> None:
    """A picture that repeats itself gives nearly the same whatever its size; shown smaller it would not."""
    tile = pictures((32, 32))[0]
    images = [np.tile(tile, (k, k, 1)) for k in (4, 8)]
    found = scorers(["clipiqa"], little["little-rn"], CPU)
    assert [found[0].cut(image)[0].shape[0] for image in images] == [128, 256]
    values = scores_of(found, images)["clipiqa"]
    assert values[0] == pytest.approx(values[1], abs=0.02)
    assert found[0].cut(pictures((8, 20))[0])[0].shape == (32, 32, 3)
    assert found[0].cut(pictures((600, 2000))[0])[0].shape == (512, 512, 3)


def test_patches_are_a_grid_without_overlap_and_their_mean_counts(little: dict[str, ClipConfig]) -> None:
    both = scorers(["clipiqa_32", "clipiqa"], little["little-rn"], CPU)
    image = pictures((96, 70))[0]
    pieces = both[0].cut(image)
    expected = [image[top : top + 32, left : left + 32] for top in (0, 32, 64) for left in (1, 36)]
    assert len(pieces) == 6
    assert all(np.array_equal(a, b) for a, b in zip(pieces, expected, strict=True))
    found = scores_of(both, [image, pictures((31, 200))[0]])
    alone = scores_of([both[1]], expected)["clipiqa"]
    assert found["clipiqa_32"][0] == pytest.approx(alone.mean(), abs=1e-5)
    assert np.isnan(found["clipiqa_32"][1])
    assert not np.isnan(found["clipiqa"][1])
    assert len(both[0].cut(np.zeros((4000, 3000, 3), np.uint8))) == 64


def test_prompts() -> None:
    assert prompts_of("Sharp photo.|Blurry photo.") == ("Sharp photo.", "Blurry photo.")
    for bad in ("Good photo.", "|Bad photo.", "Good photo.|"):
        with pytest.raises(UserError, match="--prompts"):
            prompts_of(bad)
