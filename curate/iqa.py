"""Every measure without a reference that pyiqa has, by pyiqa's name, with pyiqa's word on which end is the good one."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..schemas.errors import UserError
from .images import U8
from .scorers import Scorer
from .weights import given, missing, quiet, reachable

_OF_SETS = {"fid", "sfid", "fid_dinov2", "inception_score"}  # numbers about a set of pictures, not about one
_LARGEST = 2048 * 2048  # pixels; what is larger is reduced to that many, so that memory is bounded


def names() -> dict[str, str]:
    """Measure -> its good end, ``high`` or ``low``."""
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    return {
        name: "low" if config.get("lower_better") else "high"
        for name, config in DEFAULT_CONFIGS.items()
        if config.get("metric_mode") == "NR" and name not in _OF_SETS
    }


def scorer(name: str, weights: str | None, device: torch.device) -> Scorer:
    """The scorer of one of ``names()``. weights: a local copy, or None. Raises UserError where it cannot be set up."""
    metric = _create(name, weights, device)

    def measure(pixels: Tensor) -> Tensor:
        with torch.inference_mode(), quiet():
            out: Tensor = metric(pixels.to(device).float() / 255)
        return out.reshape(len(pixels), -1)[:, 0]

    return Scorer(name=name, cut=lambda pixels: [_bounded(pixels)], measure=measure)


def _bounded(pixels: U8) -> U8:
    height, width = pixels.shape[:2]
    factor = (_LARGEST / (height * width)) ** 0.5
    if factor >= 1:
        return pixels
    size = (max(1, int(width * factor)), max(1, int(height * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _create(name: str, weights: str | None, device: torch.device) -> Any:
    import pyiqa
    from pyiqa.utils import download_util

    fetch = download_util.download_url_to_file

    def guarded(url: str, destination: str, *arguments: Any, **options: Any) -> None:
        if not reachable(url):
            host = url.split("/")[2]
            raise missing(name, url.rpartition("/")[2], destination, _num_bytes(name), host)
        fetch(url, destination, *arguments, **options)

    options = {"pretrained_model_path": given(name, weights)} if weights else {}
    download_util.download_url_to_file = guarded
    try:
        with quiet():
            return pyiqa.create_metric(name, device=device, **options)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(f"pyiqa's {name} needs the package {error.name!r}, which is not installed") from error
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"pyiqa's {name} could not be set up ({reason})") from error
    finally:
        download_util.download_url_to_file = fetch


def _num_bytes(name: str) -> int | None:
    """About how large the weights of a measure are: those of its network, where that can be built without them."""
    from pyiqa.archs import build_network
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    try:
        network = build_network({**DEFAULT_CONFIGS[name]["metric_opts"], "pretrained": None})
    except Exception:  # noqa: BLE001 (networks that cannot be built without weights raise anything)
        return None
    return sum(p.numel() for p in network.parameters()) * 4 or None
