"""Settings from the command line, what is refused, and the trip through JSON."""

import itertools
import json

import pytest
from ambient.schemas.errors import UserError
from ambient.train.config import TrainConfig, first_difference, load_preset, presets
from ambient.train.networks.ddpmpp import DDPMPPConfig


def test_settings_change_a_preset() -> None:
    settings = ["lr=1e-4", "num_images=2e5", "network.channels=64", "network.multipliers=1,2,4", "target=plain"]
    config = TrainConfig.from_settings([*settings, "resolution=64", "buffer = 2"], preset="small")
    assert (config.lr, config.num_images, config.target, config.resolution, config.buffer) == (
        1e-4,
        200_000,
        "plain",
        64,
        2,
    )
    assert (config.network.channels, config.network.multipliers) == (64, (1, 2, 4))
    assert config.batch_size == load_preset("small").batch_size
    assert TrainConfig.from_settings(["resolution=none"]).resolution is None


def test_another_kind_of_network_keeps_the_sizes() -> None:
    settings = ["network.channels=64", "network.kind=ddpmpp", "network.augment_dim=9", "augment=0.12"]
    config = TrainConfig.from_settings(settings, preset="small")
    small = TrainConfig.from_settings(["network.channels=64"], preset="small").network
    assert config.network == DDPMPPConfig(
        channels=64,
        multipliers=small.multipliers,
        blocks=small.blocks,
        attention_resolutions=small.attention_resolutions,
        dropout=small.dropout,
        augment_dim=9,
    )
    twice = ["network.kind=unit", "network.kind=edm2", "lr=fast", "lr=2", "lr=3"]
    config = TrainConfig.from_settings(twice)
    assert (config.to_json()["network"]["kind"], config.lr) == ("edm2", 3)
    with pytest.raises(UserError, match=r"no network\.kind 'unit': did you mean 'unet'"):
        TrainConfig.from_settings(["network.kind=unit"])


@pytest.mark.parametrize(
    "settings",
    [
        ["network.kind=ddpmpp", "network.augment_dim=9", "augment=0.12", "network.multipliers=1,2"],
        ["num_classes=2", "label_dropout=0.1"],
    ],
)
def test_settings_come_in_any_order(settings: list[str]) -> None:
    """Though one alone may not fit the preset."""
    expected = TrainConfig.from_settings(settings)
    assert all(TrainConfig.from_settings(order) == expected for order in itertools.permutations(settings))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("learning_rat=1", "no setting 'learning_rat': did you mean 'lr'"),
        ("batchsize=1", "did you mean 'batch_size'"),
        ("network.chanels=8", "did you mean 'network.channels'"),
        ("network.knd=edm2", "did you mean 'network.kind'"),
        ("ema_stds=1e-5", r"ema_stds must be one or more numbers in \[0\.0001, 0\.28\], not \[1e-05\]"),
        ("ema_stds=0.05,1e-200", "ema_stds must be"),
        ("ema_stds=", "ema_stds must be"),
        ("lr", "key=value"),
        ("lr=fast", "lr must be a number"),
        ("batch_size=1.5", "batch_size must be a whole number"),
        ("network.multipliers=1,x", "numbers such as 1,2,2"),
        ("lr=0", "lr must be above 0"),
        ("lr=nan", "lr must be above 0"),
        ("buffer=1", "buffer must be above 1"),
        ("target=clean", "ambient, plain"),
        ("precision=fp16", "auto, fp32, bf16"),
        ("P_std=9", "at most 5"),
        ("decay=2", "decay must lie"),
        ("network.dropout=1", "network.dropout"),
        ("network=8", "no setting 'network'"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        TrainConfig.from_settings([setting])
    assert "\n" not in str(caught.value)


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'smoke'"):
        TrainConfig.from_settings([], preset="smoek")


@pytest.mark.parametrize("preset", presets())
def test_json_keeps_everything(preset: str) -> None:
    config = load_preset(preset)
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_learning_rate_rises_stays_and_falls_to_nothing() -> None:
    config = TrainConfig(num_images=1000, batch_size=10, lr=2.0, warmup_images=100, decay=0.5)
    assert config.lr_at(0) == pytest.approx(0.2)
    assert config.lr_at(90) == config.lr_at(300) == config.lr_at(500) == 2.0
    assert config.lr_at(750) == pytest.approx(1.0)
    assert config.lr_at(990) == pytest.approx(0.04)


def test_learning_rate_falls_as_the_root_of_progress() -> None:
    """lr / sqrt(max(t / t_ref, 1)) (arXiv 2312.02696, eq. 67)."""
    config = TrainConfig(num_images=10_000, batch_size=10, lr=2.0, warmup_images=0, lr_ref_images=100, decay=0)
    assert config.lr_at(0) == config.lr_at(50) == config.lr_at(100) == 2.0
    assert config.lr_at(400) == pytest.approx(1.0)
    assert config.lr_at(9000) == pytest.approx(2 / 90**0.5)


def test_first_difference_is_named_with_its_path() -> None:
    a, b = {"x": 1, "y": {"z": 2, "w": 3}}, {"x": 1, "y": {"z": 2, "w": 4}, "v": 5}
    assert first_difference(a, b) == ("y.w", 3, 4)
    assert first_difference({"x": 1}, {"x": 1, "v": 5}) == ("v", None, 5)
    assert first_difference(a, a) is None
