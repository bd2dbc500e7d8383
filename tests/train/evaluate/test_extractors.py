"""Where features come from: what moves them, that files of weights are used, and what is said without them."""

import errno
import functools
import sys
import warnings
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import open_clip
import pytest
import torch
from ambient.curate import digests, openclip
from ambient.curate.corruptions import parse
from ambient.schemas.errors import UserError
from ambient.train.evaluate import extractors
from ambient.train.evaluate.distances import frechet_distance, kernel_distance, moments
from ambient.train.evaluate.extractors import features_of, open_extractor
from ambient.train.evaluate.labelled import accuracy, load_classifier, save_classifier, train_classifier
from ambient.train.evaluate.texture import NUM_FEATURES, texture
from little_clip import write_little_clips
from photo_pool import tiles
from safetensors.torch import save_file
from torch import Tensor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """(600, 3, 16, 16) uint8."""
    return torch.from_numpy(np.stack([np.asarray(tile) for tile in tiles(600)])).permute(0, 3, 1, 2).contiguous()


def damaged(pixels: Tensor, how: str) -> Tensor:
    random = np.random.default_rng(0)
    pictures = [parse(how)(picture, random)[0] for picture in pixels.permute(0, 2, 3, 1).numpy()]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def test_texture_has_its_numbers_and_does_not_depend_on_the_batch(photographs: Tensor) -> None:
    found = texture(photographs[:5])
    assert found.shape == (5, NUM_FEATURES)
    torch.testing.assert_close(found[3:4], texture(photographs[3:4]), rtol=1e-4, atol=1e-5)
    assert texture(torch.full((1, 3, 8, 8), 7, dtype=torch.uint8)).isfinite().all()


@pytest.mark.parametrize("kinds", [("blur-0.4", "blur-0.8", "blur-1.6"), ("jpeg-60", "jpeg-25", "jpeg-8")])
def test_texture_sees_damage_the_more_the_stronger(photographs: Tensor, kinds: tuple[str, ...]) -> None:
    real, other = moments(texture(photographs[:300])), photographs[300:]
    clean = frechet_distance(moments(texture(other)), real)
    found = [frechet_distance(moments(texture(damaged(other, how))), real) for how in kinds]
    assert [clean, *found] == sorted([clean, *found])
    assert found[-1] > 1.5 * clean
    value, error = kernel_distance(texture(damaged(other, kinds[-1])), texture(photographs[:300]))
    assert value > 2 * error
    assert abs(kernel_distance(texture(other), texture(photographs[:300]))[0]) < value / 10


def test_texture_knows_orientation_and_colour() -> None:
    stripes = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    stripes[..., ::2] = 255
    upright, lying = texture(stripes), texture(stripes.mT)
    assert float((upright - lying).abs().max()) > 1
    red, green = (torch.zeros(1, 3, 16, 16, dtype=torch.uint8) for _ in range(2))
    red[:, 0], green[:, 1] = 200, 200
    assert float((texture(red) - texture(green)).abs().max()) > 0.5


def test_grey_pictures_and_batches(photographs: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = open_extractor("texture", CPU)
    whole = features_of(photographs[:20, :1], extractor)
    monkeypatch.setattr(extractors, "_BATCH_PIXELS", 16 * 16 * 3)
    torch.testing.assert_close(features_of(photographs[:20, :1], extractor), whole, rtol=1e-4, atol=1e-5)


def two_kinds(num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures with a bright bar, upright or lying."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (num,), generator=generator)
    pixels = torch.randint(0, 60, (num, 1, 16, 16), generator=generator, dtype=torch.uint8)
    place = torch.randint(2, 14, (num,), generator=generator)
    for i in range(num):
        line = pixels[i, 0] if labels[i] else pixels[i, 0].mT
        line[place[i]] += 150
    return pixels, labels


def test_a_classifier_learns_labels_and_survives_its_file(tmp_path: Path) -> None:
    network = train_classifier(*two_kinds(400, 0), epochs=12, device=CPU)
    pixels, labels = two_kinds(200, 1)
    assert accuracy(network, pixels, labels) > 0.95
    save_classifier(tmp_path / "c.safetensors", network)
    again = open_extractor(str(tmp_path / "c.safetensors"), CPU)
    torch.testing.assert_close(features_of(pixels, again), network.features(pixels))
    by_kind = [moments(network.features(pixels[labels == kind])) for kind in (0, 1)]
    mixed = moments(network.features(pixels))
    assert frechet_distance(*by_kind) > 2 * frechet_distance(by_kind[0], mixed)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="--weights"):
        load_classifier(tmp_path / "other.safetensors")


def test_torchscript_files(tmp_path: Path, photographs: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        torch.jit.script(network).save(str(tmp_path / "mean.pt"))
    extractor = open_extractor(str(tmp_path / "mean.pt"), CPU)
    expected = (photographs.float() / 127.5 - 1).mean(dim=(2, 3))
    torch.testing.assert_close(features_of(photographs, extractor), expected)
    (tmp_path / "text.pt").write_text("text")
    with pytest.raises(UserError, match="no TorchScript file"):
        open_extractor(str(tmp_path / "text.pt"), CPU)


def test_networks_of_timm_with_weights_of_the_users(tmp_path: Path, photographs: Tensor) -> None:
    """The features are those of timm's own way of preparing a picture; another file has another digest."""
    import timm

    torch.manual_seed(0)
    network = timm.create_model("test_resnet.r160_in1k", pretrained=False, num_classes=0)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    name = "timm:test_resnet.r160_in1k"
    extractor = open_extractor(name, CPU, weights={name: str(tmp_path / "w.safetensors")})
    found = features_of(photographs[:3], extractor)
    x = torch.nn.functional.interpolate(photographs[:3].float() / 255, (160, 160), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(found, network.eval()((x.clamp(0, 1) - mean) / std))
    other = {key: value + 1 for key, value in network.state_dict().items() if value.is_floating_point()}
    save_file({**network.state_dict(), **other}, tmp_path / "v.safetensors")
    again = open_extractor(name, CPU, weights={name: str(tmp_path / "v.safetensors")})
    assert again.digest != extractor.digest
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="holds no weights of timm:"):
        open_extractor(name, CPU, weights={name: str(tmp_path / "x.safetensors")})


def test_one_file_in_two_networks_is_two_extractors(tmp_path: Path, photographs: Tensor) -> None:
    """Whose weights have the same names and shapes, but which normalise otherwise."""
    import timm

    names = ["timm:test_efficientnet_gn.r160_in1k", "timm:test_efficientnet_ln.r160_in1k"]
    network = timm.create_model(names[0].removeprefix("timm:"), pretrained=False, num_classes=0)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    one, other = (open_extractor(name, CPU, weights={name: str(tmp_path / "w.safetensors")}) for name in names)
    assert float((features_of(photographs[:2], one) - features_of(photographs[:2], other)).abs().max()) > 1e-3
    assert one.digest != other.digest
    assert one.digest == open_extractor(names[0], CPU, weights={names[0]: str(tmp_path / "w.safetensors")}).digest


def test_dinov2_is_shown_pictures_of_224_pixels(
    tmp_path: Path, photographs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As timm loads a file for that size: its ViT-L/14, narrowed, with position embeddings that are not near zero."""
    import timm

    narrow = functools.partial(timm.create_model, depth=2, embed_dim=32, num_heads=2, init_values=1.0)
    torch.manual_seed(0)
    network = narrow(extractors._DINOV2, num_classes=0)
    assert network.pos_embed.shape == (1, 37**2 + 1, 32)
    save_file({**network.state_dict(), "pos_embed": torch.randn(1, 37**2 + 1, 32)}, tmp_path / "w.safetensors")
    overlay = {"file": str(tmp_path / "w.safetensors")}
    theirs = narrow(extractors._DINOV2, pretrained=True, num_classes=0, img_size=224, pretrained_cfg_overlay=overlay)
    monkeypatch.setattr("timm.create_model", narrow)
    name = f"timm:{extractors._DINOV2}"
    extractor, other = (open_extractor(n, CPU, weights={n: overlay["file"]}) for n in ("dinov2", name))
    x = torch.nn.functional.interpolate(photographs[:3].float() / 255, (224, 224), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = theirs.eval()((x.clamp(0, 1) - mean) / std)
    torch.testing.assert_close(features_of(photographs[:3], extractor), expected)
    assert [extractor.side, other.side] == [224, 518]
    shown = ["dinov2", 224, network.pretrained_cfg["mean"], network.pretrained_cfg["std"]]
    assert extractor.digest == digests.of_json([digests.of_file(tmp_path / "w.safetensors"), *shown])


def saved(module: torch.nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(str(path))
    return path


class Pair(torch.nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Mean(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean()


def test_torchscript_that_does_not_fit_is_one_line(tmp_path: Path, photographs: Tensor) -> None:
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 4))
    cases = [
        (saved(linear, tmp_path / "linear.pt"), "makes no features of pictures .2, 3, 16, 16. .*mat1 and mat2"),
        (saved(Pair(), tmp_path / "pair.pt"), "makes tuple of 2 pictures"),
        (saved(Mean(), tmp_path / "mean.pt"), "makes .. of 2 pictures"),
    ]
    for path, said in cases:
        with pytest.raises(UserError, match=said) as error:
            features_of(photographs[:2], open_extractor(str(path), CPU))
        assert "\n" not in str(error.value)


def test_weights_of_another_network_are_one_line(tmp_path: Path) -> None:
    import timm

    name = "timm:test_resnet.r160_in1k"
    state = timm.create_model("test_resnet.r160_in1k", pretrained=False, num_classes=0).state_dict()
    larger = {key: value.repeat(2, *[1] * (value.ndim - 1)) if value.ndim else value for key, value in state.items()}
    save_file(larger, tmp_path / "larger.safetensors")
    torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "other.pth")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    cases = [(name, "larger.safetensors"), (name, "list.pth"), ("inception", "other.pth"), ("inception", "list.pth")]
    for which, file in cases:
        with pytest.raises(UserError, match=f"{file} holds no weights of {which}") as error:
            open_extractor(which, CPU, weights={which: str(tmp_path / file)})
        assert "\n" not in str(error.value)


def test_networks_of_open_clip_are_as_their_tag_was_trained(
    tmp_path: Path, photographs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the user's file too: OpenAI's networks have QuickGELU, which no file says, and colours of their own."""
    file = write_little_clips(tmp_path)["little-vit"].weights
    tag = {"url": "", "quick_gelu": True, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.2)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "little-vit", {"openai": tag})
    extractor = open_extractor("openclip:little-vit", CPU, weights={"openclip:little-vit": file})
    theirs = open_clip.create_model("little-vit", pretrained=file, force_quick_gelu=True).eval()
    x = torch.nn.functional.interpolate(photographs[:3].float() / 255, (32, 32), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(tag[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(features_of(photographs[:3], extractor), theirs.visual((x.clamp(0, 1) - mean) / std))
    shown = ["openclip:little-vit", 32, tag["mean"], tag["std"]]
    assert extractor.digest == digests.of_json([digests.of_file(Path(file)), *shown])


def test_inception_is_torch_fidelitys_with_the_users_file(
    tmp_path: Path, photographs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With random weights: theirs, called directly, gives the same features."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Inception

    torch.save({}, tmp_path / "empty.pth")
    with monkeypatch.context() as patch:
        patch.setattr(Inception, "load_state_dict", lambda *_, **__: None)
        torch.manual_seed(0)
        theirs = Inception("i", ["2048"], feature_extractor_weights_path=str(tmp_path / "empty.pth"))
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    extractor = open_extractor("inception", CPU, weights={"inception": str(tmp_path / "w.pth")})
    found = features_of(photographs[:2], extractor)
    assert found.shape == (2, 2048)
    with torch.no_grad():
        torch.testing.assert_close(found, theirs.eval()(photographs[:2])[0])
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    load = torch.load

    def load_of_2_9(file: object, **options: object) -> object:
        assert Path(str(file)).suffix != ".safetensors", "PyTorch 2.9 reads no such file"
        return load(file, **options)

    monkeypatch.setattr(torch, "load", load_of_2_9)
    again = open_extractor("inception", CPU, weights={"inception": str(tmp_path / "w.safetensors")})
    torch.testing.assert_close(features_of(photographs[:2], again), found)
    (tmp_path / "bad.pth").write_bytes(b"text")
    with pytest.raises(UserError, match="holds no weights of inception"):
        open_extractor("inception", CPU, weights={"inception": str(tmp_path / "bad.pth")})


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("inception", "weights-inception-2015-12-05-6726825d.pth"),
        ("dinov2", "vit_large_patch14_dinov2"),
        ("openclip:RN50/openai", "RN50"),
    ],
)
def test_missing_weights_are_one_line(name: str, file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (extractors, openclip):
        monkeypatch.setattr(module, "reachable", lambda _: False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("timm.create_model", lambda model, **_: FakeNetwork(model))
    with pytest.raises(UserError) as error:
        open_extractor(name, CPU)
    assert file in str(error.value)
    assert f"--weights {name}=FILE" in str(error.value)
    assert " MB)" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "fetch", "error"),
    [
        ("inception", "torch.hub.download_url_to_file", HTTPError("https://x", 403, "Forbidden", {}, None)),
        ("dinov2", "huggingface_hub.hf_hub_download", OSError(errno.ENOSPC, "No space left on device")),
        ("openclip:RN50/openai", "open_clip.pretrained.download_pretrained", RuntimeError("checksum\ndiffers")),
    ],
)
def test_a_fetch_that_fails_is_one_line_with_its_cause(
    name: str, fetch: str, error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    for module in (extractors, openclip):
        monkeypatch.setattr(module, "reachable", lambda _: True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("timm.create_model", lambda model, **_: FakeNetwork(model))
    monkeypatch.setattr(fetch, fail)
    with pytest.raises(UserError, match=f"the weights of {name} cannot be fetched") as found:
        open_extractor(name, CPU)
    said = str(found.value)
    assert " ".join(f"{type(error).__name__}: {error}".split()) in said
    assert f"--weights {name}=FILE" in said
    assert "\n" not in said


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)  # cannot be imported
    with pytest.raises(UserError, match=r"^inception needs the package torch-fidelity, .*'ambient-omni\[eval\]'$"):
        open_extractor("inception", CPU)


class FakeNetwork(torch.nn.Linear):
    """Stands in for a network of a gigabyte."""

    def __init__(self, model: str) -> None:
        super().__init__(1000, 1000)
        self.pretrained_cfg = {"hf_hub_id": f"timm/{model}", "input_size": (3, 8, 8), "mean": (0,) * 3, "std": (1,) * 3}


def test_unknown_names_are_one_line() -> None:
    for name in ("vgg", "openclip", "timm:no_such_network", "none.safetensors", "openclip:no_such_network"):
        with pytest.raises(UserError) as error:
            open_extractor(name, CPU)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="the features are texture"):
        open_extractor("texture", CPU, weights={"inception": "x"})
