"""The Space: what it refuses, and its way through JSON."""

import dataclasses
import json

import pytest
from ambient.schemas.errors import UserError
from ambient.schemas.space import Space


@pytest.mark.parametrize(
    "space",
    [
        Space(resolution=32),
        Space(resolution=8, channels=1, sigma_data=0.25),
        Space(resolution=64, channels=4, kind="latent", vae="sd-vae", sigma_data=0.9),
    ],
)
def test_json_round_trip(space: Space) -> None:
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resolution": 7}, "smallest is 8"),
        ({"channels": 2}, "1 or 3 channels, not 2"),
        ({"channels": 0}, "1 or 3 channels"),
        ({"kind": "video"}, "'pixel' or 'latent'"),
        ({"kind": "latent"}, "names its vae"),
        ({"vae": "sd-vae"}, "names its vae"),
        ({"sigma_data": 0.0}, "above 0"),
        ({"sigma_data": float("nan")}, "above 0"),
    ],
)
def test_contradictions_are_one_line(change: dict, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        dataclasses.replace(Space(resolution=16), **change)
    assert "\n" not in str(error.value)


def test_shape_is_channels_height_width_and_spaces_compare_by_value() -> None:
    space = Space(resolution=16, channels=1)
    assert space.shape == (1, 16, 16)
    assert space == Space(resolution=16, channels=1)
    assert space != Space(resolution=16, channels=3)


def test_in_words() -> None:
    assert str(Space(resolution=16, channels=1)) == "16x16x1 pixels, sigma_data 0.5"
    assert "latents of sd-vae" in str(Space(resolution=64, channels=4, kind="latent", vae="sd-vae"))
