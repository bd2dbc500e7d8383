"""Where features come from: built in, Inception-v3, timm's networks, open_clip's, or a file of the user's."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...curate import digests, openclip
from ...curate.openclip import ClipConfig
from ...curate.weights import fetching, given, missing, quiet, reachable
from ...schemas.errors import UserError
from . import texture
from .labelled import load_classifier

NAMES = "texture, labels, inception, dinov2, timm:MODEL, openclip:MODEL/TAG, FILE.pt or FILE.safetensors"

_DINOV2 = "vit_large_patch14_dinov2.lvd142m"
_DINOV2_SIDE = 224  # of the code of arXiv 2306.04675; timm's, of the network's last training, is 518
_BATCH_PIXELS = 2**20  # on a CPU; a GPU takes sixteen times as many


@dataclass(frozen=True, kw_only=True, slots=True)
class Extractor:
    """extract: (N, 3, H, W) uint8 on ``device`` -> (N, D) float. side: that it resizes pictures to, None for none.

    digest: BLAKE2b-128 in hex of the weights and, where one file fits several networks, of which network it is and what
    it is shown: features of one digest may be compared.
    """

    name: str
    digest: str
    extract: Callable[[Tensor], Tensor]
    device: torch.device
    side: int | None = None


@torch.no_grad()
def features_of(pixels: Tensor, extractor: Extractor) -> Tensor:
    """(N, D) float32 on the extractor's device, of pictures (N, C, H, W) uint8, C = 1 or 3."""
    area = (extractor.side or pixels.shape[-1]) ** 2
    most = _BATCH_PIXELS * (16 if extractor.device.type == "cuda" else 1)
    parts = [
        extractor.extract(part.to(extractor.device).expand(-1, 3, -1, -1)).flatten(1).float()
        for part in pixels.split(max(1, most // area))  # type: ignore[no-untyped-call]
    ]
    features = torch.cat(parts)
    if not bool(features.isfinite().all()):
        raise UserError(f"the features of {extractor.name} are not finite: they cannot be compared")
    return features


def open_extractor(name: str, device: torch.device, *, weights: dict[str, str] | None = None) -> Extractor:
    """The extractor of a name (see NAMES) or of a file. weights: name -> a local copy of that network's weights.

    Raises UserError where the name is unknown, and, with what to put where, where a package or weights are not here.
    """
    if unused := sorted(set(weights or {}) - {name}):
        raise UserError(f"--weights {unused[0]}=FILE: the features are {name}")
    file = Path(given(name, weights[name])) if weights else None
    kind, _, rest = name.partition(":")
    if name == "texture":
        return Extractor(
            name=name,
            digest=digests.of_bytes(f"texture {texture.VERSION}".encode()),
            extract=texture.texture,
            device=device,
        )
    if name == "inception":
        return _inception(file, device)
    if name == "dinov2" or kind == "timm":
        return _timm(name, rest or _DINOV2, file, device)
    if kind == "openclip" and rest:
        return _open_clip(name, rest, file, device)
    if name.endswith(".safetensors"):
        return _classifier(Path(name), device)
    if name.endswith((".pt", ".ts", ".torchscript")):
        return _torchscript(Path(name), device)
    raise UserError(f"there are no features {name!r}: use {NAMES}")


def _inception(weights: Path | None, device: torch.device) -> Extractor:
    """Inception-v3 as the Frechet distance was first measured with: torch-fidelity's port of the TensorFlow graph.

    Its features are those before the last layer, 2,048; pictures are resized to 299 as that graph does.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
    except ImportError as error:
        raise _no_package("inception", "torch-fidelity") from error
    file = weights or _cached_by_torch("inception", URL_INCEPTION_V3, num_bytes=95_600_000)
    state = _as_pth(_state_of(file, "inception"))
    try:
        with quiet():
            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=state)
    except Exception as error:
        raise _no_weights(file, "inception", error) from error
    network = network.to(device).eval()

    def extract(pixels: Tensor) -> Tensor:
        out: Tensor = network(pixels)[0]
        return out

    return Extractor(name="inception", digest=digests.of_file(file), extract=extract, device=device, side=299)


def _timm(name: str, model: str, weights: Path | None, device: torch.device) -> Extractor:
    """A network of timm without its last layer, shown pictures of the size that it was trained at.

    ``dinov2`` is ViT-L/14 at 224 pixels a side, as in the code of arXiv 2306.04675. timm smooths the position
    embeddings when it resamples them and Meta's code does not, so values lie near published ones and are not the same.
    """
    import timm
    from timm.data.config import resolve_data_config

    resampled = True if name == "dinov2" else None  # None leaves it to the model, which may not know of it
    try:
        with quiet():
            network = timm.create_model(model, pretrained=False, num_classes=0, dynamic_img_size=resampled)
    except RuntimeError as error:
        raise UserError(f"timm has no model {model!r}: timm.list_models() names them") from error
    config: dict[str, Any] = resolve_data_config({}, model=network)  # type: ignore[no-untyped-call]
    file = weights or _cached_by_hub(name, network)
    _load(network, file, name)
    side = _DINOV2_SIDE if name == "dinov2" else config["input_size"][-1]
    return _network(name, network, file, device, side=side, mean=config["mean"], std=config["std"])


def _open_clip(name: str, model: str, weights: Path | None, device: torch.device) -> Extractor:
    """The picture half of a CLIP network of open_clip, MODEL or MODEL/TAG, as in CMMD (arXiv 2401.09603)."""
    model, _, tag = model.partition("/")
    config = ClipConfig(pretrained=tag or "openai", weights=str(weights) if weights else None)
    network, file = openclip.load(name, model, config, torch.device("cpu"))  # of which half is needed on the device
    side, mean, std = openclip.shown_as(network)
    return _network(name, network.visual, Path(file), device, side=side, mean=mean, std=std)


def _torchscript(path: Path, device: torch.device) -> Extractor:
    """A TorchScript file of the user's: (N, 3, H, W) float32 in [-1, 1] -> (N, D)."""
    _must_exist(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch calls TorchScript deprecated, but people have such files
            network = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise UserError(f"{path} is no TorchScript file ({str(error).splitlines()[0]})") from error

    def extract(pixels: Tensor) -> Tensor:
        try:
            out = network(pixels.float() / 127.5 - 1)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]  # below the lines of its program
            raise UserError(f"{path} makes no features of pictures {tuple(pixels.shape)} ({reason})") from error
        if not isinstance(out, Tensor) or out.ndim < 2 or len(out) != len(pixels):
            what = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise UserError(f"{path} makes {what} of {len(pixels)} pictures: features (N, D) are needed")
        return out

    return Extractor(name=path.name, digest=digests.of_file(path), extract=extract, device=device)


def _classifier(path: Path, device: torch.device) -> Extractor:
    _must_exist(path)
    network = load_classifier(path).to(device)
    return Extractor(name=path.name, digest=digests.of_file(path), extract=network.features, device=device)


def _network(
    name: str,
    network: nn.Module,
    file: Path,
    device: torch.device,
    *,
    side: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Extractor:
    """A network that wants normalised pictures of one size. file: of its weights."""
    network = network.to(device).eval()
    middle, spread = (torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))

    def extract(pixels: Tensor) -> Tensor:
        x = nn.functional.interpolate(pixels.float() / 255, (side, side), mode="bicubic", antialias=True)
        out: Tensor = network((x.clamp(0, 1) - middle) / spread)
        return out

    digest = digests.of_json([digests.of_file(file), name, side, mean, std])
    return Extractor(name=name, digest=digest, extract=extract, device=device, side=side)


def _load(network: nn.Module, file: Path, name: str) -> None:
    """Load weights into a network of timm; the last layer, which it does not have, may be in the file."""
    state = _state_of(file, name)
    try:
        missing, _ = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise _no_weights(file, name, error) from error
    if missing:
        raise UserError(f"{file} holds no weights of {name}: {missing[0]} is not in it")


def _state_of(file: Path, name: str) -> dict[str, Tensor]:
    """Tensors of a .safetensors or .pth file, of which nothing is run. Raises UserError."""
    _must_exist(file)
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
    except Exception as error:
        raise _no_weights(file, name, error) from error
    return state


def _as_pth(state: dict[str, Tensor]) -> io.BytesIO:
    """Weights as a .pth file, for a library that loads one itself and would run what is in it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def _no_weights(file: Path, name: str, error: Exception) -> UserError:
    return UserError(f"{file} holds no weights of {name} ({' '.join(str(error).split())[:120]})")


def _cached_by_torch(name: str, url: str, num_bytes: int) -> Path:
    """Where PyTorch keeps what it fetched from a url; fetched if that is possible."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.exists():
        if not reachable(url):
            raise missing(name, path.name, str(path), num_bytes, url.split("/")[2])
        with fetching(name):
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), progress=False)
    return path


def _cached_by_hub(name: str, network: nn.Module) -> Path:
    """The file of a timm network's weights in the hub's cache; fetched if that is possible."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    repository = network.pretrained_cfg.get("hf_hub_id") or ""  # type: ignore[union-attr,operator]
    if not repository:
        raise UserError(f"timm has no pretrained weights of {name}: name a file with --weights {name}=FILE")
    found = try_to_load_from_cache(repository, "model.safetensors")
    if isinstance(found, str):
        return Path(found)
    if not reachable(constants.ENDPOINT):
        num_bytes = sum(weight.numel() for weight in network.parameters()) * 4
        place = f"{constants.HF_HUB_CACHE} (as huggingface_hub keeps {repository})"
        raise missing(name, f"{repository}/model.safetensors", place, num_bytes, constants.ENDPOINT.split("/")[2])
    with fetching(name), quiet():
        return Path(hf_hub_download(repository, "model.safetensors"))


def _no_package(name: str, package: str) -> UserError:
    return UserError(f"{name} needs the package {package}, which is not installed: pip install 'ambient-omni[eval]'")


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"there is no file {path}")
