"""What samples are compared with: features of real pictures, computed once per set, space and extractor."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ...curate import digests
from ...curate.reporter import Reporter
from ...curate.whole import write_whole, writing
from ...schemas.space import Space
from ..cache import cache_folder
from .distances import Moments, moments
from .extractors import Extractor, features_of
from .sources import Source, read

MOST_IN_PAIRS = 10_000
"""Pictures of a set whose distances to others are taken; moments are of all."""

_CHUNK = 4096  # pictures decoded at a time
_VERSION = 1  # of the file


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """moments: of all pictures. features: (M, D) float32 of at most MOST_IN_PAIRS of them, chosen by their content."""

    moments: Moments
    features: Tensor


def reference_of(source: Source, space: Space, extractor: Extractor, *, workers: int, reporter: Reporter) -> Reference:
    """Features of a set of pictures, from the cache if it has been seen before, else computed and kept there.

    A file of the cache is named after the content of the pictures, the space and the extractor, so it is never out of
    date; where some pictures cannot be read now, nothing is kept.
    """
    key = digests.of_json([_VERSION, source.fingerprint(), space.shape, extractor.digest])
    path = cache_folder() / "features" / f"{key}.safetensors"
    if found := _stored(path, extractor.device):
        reporter.say(f"features of {source.name} ({found.moments.num:,} pictures) from the cache")
        return found
    features, kept = source_features(source, space, extractor, workers=workers, reporter=reporter)
    by_content = sorted(range(len(kept)), key=lambda i: source.ids[kept[i]])[:MOST_IN_PAIRS]
    reference = Reference(moments=moments(features), features=features[by_content])
    if len(kept) == len(source):
        _store(path, reference)
    return reference


def source_features(
    source: Source, space: Space, extractor: Extractor, *, workers: int, reporter: Reporter
) -> tuple[Tensor, list[int]]:
    """(N, D) float32 on the extractor's device, of the pictures that can be read, and their numbers.

    A part of the pictures is in memory at a time.
    """
    quiet = Reporter(quiet=True)
    parts, kept = [], []
    with reporter.track(f"features of {source.name}", len(source)) as advance:
        for start in range(0, len(source), _CHUNK):
            numbers = list(range(start, min(start + _CHUNK, len(source))))
            pixels, some = read(source.rows(numbers), space, workers=workers, reporter=quiet)
            parts.append(features_of(pixels, extractor))
            kept += [start + i for i in some]
            advance(len(numbers))
    if len(kept) < len(source):
        reporter.warn(f"{len(source) - len(kept):,} pictures of {source.name} cannot be read and are left out")
    return torch.cat(parts), kept


def _stored(path: Path, device: torch.device) -> Reference | None:
    if not path.exists():
        return None
    try:
        tensors = {name: tensor.to(device) for name, tensor in load_file(path).items()}
    except SafetensorError:  # cut short by a power cut: made again
        return None
    found = Moments(mean=tensors["mean"], factor=tensors["factor"], num=int(tensors["num"]))
    return Reference(moments=found, features=tensors["features"])


def _store(path: Path, reference: Reference) -> None:
    tensors = {
        "mean": reference.moments.mean,
        "factor": reference.moments.factor,
        "num": torch.tensor(reference.moments.num),
        "features": reference.features,
    }
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))
