"""Models of open_clip with local weights, what their tag says, and what is said where weights are missing."""

from pathlib import Path

import open_clip
import pytest
import torch
from ambient.curate import openclip, weights
from ambient.curate.openclip import ClipConfig, load, tokenizer
from ambient.schemas.errors import UserError
from little_clip import write_little_clips
from open_clip import pretrained

CPU = torch.device("cpu")


def test_a_file_of_weights_is_used_as_its_tag_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI's networks have QuickGELU, which no file of weights says, and other tags other colours."""
    config = write_little_clips(tmp_path)["little-vit"]
    tag = {"url": "", "quick_gelu": True, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}
    monkeypatch.setitem(pretrained._PRETRAINED, "little-vit", {"openai": tag})
    found, file = load("clipiqa", "little-vit", config, CPU)
    assert file == config.weights
    assert open_clip.get_model_preprocess_cfg(found)["mean"] == (0.5, 0.4, 0.3)
    quick, slow = (
        open_clip.create_model("little-vit", pretrained=config.weights, force_quick_gelu=on).eval()
        for on in (True, False)
    )
    words, pixels = open_clip.tokenize(["a picture"]), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for encode, x in (("encode_text", words), ("encode_image", pixels)):
            of = {
                name: getattr(model, encode)(x) for name, model in (("found", found), ("quick", quick), ("slow", slow))
            }
            torch.testing.assert_close(of["found"], of["quick"])
            assert (of["quick"] - of["slow"]).abs().max() > 1e-3
    assert not found.training


@pytest.mark.parametrize("name", ["RN50", "ViT-B-32"])
def test_open_clip_still_says_that_openai_s_networks_have_quick_gelu(name: str) -> None:
    assert pretrained.get_pretrained_cfg(name, "openai")["quick_gelu"]


def test_missing_weights_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(openclip, "reachable", lambda _: False)
    monkeypatch.setattr(openclip, "_in_hub_cache", lambda *_: None)
    with pytest.raises(UserError) as error:
        load("clipiqa", "RN50", ClipConfig(), CPU)
    message = str(error.value)
    assert "\n" not in message
    for words in ("timm/resnet50_clip.openai", "about 408 MB", "hub", "--weights clipiqa=FILE"):
        assert words in message, words
    with pytest.raises(UserError, match="no such file"):
        load("clipiqa", "RN50", ClipConfig(weights=str(tmp_path / "none.pt")), CPU)
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    with pytest.raises(UserError, match="holds no weights of open_clip's RN50"):
        load("clipiqa", "RN50", ClipConfig(weights=str(tmp_path / "bad.pt")), CPU)
    with pytest.raises(UserError, match="has no weights 'mine' of RN50: there are openai"):
        load("clipiqa", "RN50", ClipConfig(pretrained="mine"), CPU)
    with pytest.raises(UserError, match="has no model 'RN51'"):
        load("clipiqa", "RN51", ClipConfig(), CPU)


def test_a_fetch_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(_: dict) -> str:
        raise OSError("No space left on device\nin the cache")

    monkeypatch.setattr(openclip, "reachable", lambda _: True)
    monkeypatch.setattr(openclip, "_in_hub_cache", lambda *_: None)
    monkeypatch.setattr(pretrained, "download_pretrained", fetch)
    with pytest.raises(UserError, match=r"weights of clipiqa cannot be fetched \(OSError: No space left on device in"):
        load("clipiqa", "RN50", ClipConfig(pretrained="openai"), CPU)


def test_a_host_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    assert not weights.reachable("https://127.0.0.1:9/file")
    assert not weights.reachable("no url")


def test_a_tokenizer_that_must_be_fetched_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(name: str) -> None:
        raise OSError(f"no connection\nfor {name}")

    monkeypatch.setattr(open_clip, "get_tokenizer", get)
    with pytest.raises(UserError, match=r"SigLIP cannot be had \(no connection for"):
        tokenizer("ViT-B-16-SigLIP")
