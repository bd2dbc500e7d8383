"""Models of open_clip with their weights: which file, where it may be, and what its tag says about activations."""

from dataclasses import dataclass
from typing import Any

import torch

from ..schemas.errors import UserError
from .weights import fetching, given, missing, quiet, reachable


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipConfig:
    """Model and pretrained tag as open_clip names them; prompts of CLIP-IQA: the good one, then the bad one.

    model: None takes for each measure the network that it was published with. weights: a local copy of the tag's.
    """

    model: str | None = None
    pretrained: str = "openai"
    prompts: tuple[str, str] = ("Good photo.", "Bad photo.")
    weights: str | None = None


def load(measure: str, name: str, config: ClipConfig, device: torch.device) -> tuple[Any, str]:
    """The model of this name with the weights of a configuration, in evaluation mode, and the file of these weights.

    measure: what an error says needs it. Raises UserError where the model or its weights cannot be had.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    local = given(measure, config.weights) if config.weights else None
    # A file does not say how its network was trained, its tag does: OpenAI's have another GELU than open_clip's models.
    tag = get_pretrained_cfg(name, config.pretrained)
    try:
        with quiet():
            model = open_clip.create_model(
                name,
                pretrained=None,
                load_weights=False,
                force_quick_gelu=bool(tag.get("quick_gelu")),
                force_preprocess_cfg=dict(tag),
            )
    except (RuntimeError, FileNotFoundError, ValueError) as error:
        raise UserError(f"open_clip has no model {name!r}: open_clip.list_models() names them") from error
    file = local or _fetched(measure, name, config.pretrained, model)
    try:
        with quiet():
            open_clip.load_checkpoint(model, file)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file} holds no weights of open_clip's {name} ({reason})") from error
    return model.to(device).eval(), file


def shown_as(model: Any) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """What pictures a model was trained on: their side, and the mean and standard deviation that they are given."""
    import open_clip

    cfg: dict[str, Any] = open_clip.get_model_preprocess_cfg(model)
    side = cfg["size"] if isinstance(cfg["size"], int) else cfg["size"][0]
    return int(side), cfg["mean"], cfg["std"]


def tokenizer(name: str) -> Any:
    """What turns a list of texts into the numbers that a model reads. Raises UserError where it cannot be had."""
    import open_clip

    try:
        with quiet():
            return open_clip.get_tokenizer(name)
    except (OSError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the tokenizer of open_clip's {name} cannot be had ({reason})") from error


def _fetched(measure: str, name: str, pretrained: str, bare: torch.nn.Module) -> str:
    """The tag's file of weights from open_clip's cache, fetched if that is possible."""
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model

    source = get_pretrained_cfg(name, pretrained)
    if not source:
        tags = ", ".join(list_pretrained_tags_by_model(name)) or "none"
        raise UserError(f"open_clip has no weights {pretrained!r} of {name}: there are {tags}")
    repository, _, member = source.get("hf_hub", "").rpartition("/")
    if repository:
        if file := _in_hub_cache(repository, member):
            return file
        from huggingface_hub import constants

        host, place = constants.ENDPOINT, f"{constants.HF_HUB_CACHE} (as huggingface_hub keeps {repository})"
        wanted = f"{repository}/{member or 'open_clip_model.safetensors'}"
    else:
        host, place = source["url"], "~/.cache/clip"
        wanted = host.rpartition("/")[2]
    if not reachable(host):
        num_bytes = sum(p.numel() for p in bare.parameters()) * 4
        raise missing(measure, wanted, place, num_bytes, host.split("/")[2] if "//" in host else host)
    with fetching(measure), quiet():
        return str(download_pretrained(source))


def _in_hub_cache(repository: str, member: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    for candidate in (member,) if member else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        found = try_to_load_from_cache(repository, candidate)
        if isinstance(found, str):
            return found
    return None
