"""Features that know the data's own kinds: a small classifier trained on the labels of a pool.

Its features answer what Inception's do on photographs where no fitting network exists: a handwritten digit, a garment.
"""

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from ...curate.whole import write_whole
from ...schemas.errors import UserError

_WIDTHS = (32, 64, 128)
_NUM_FEATURES = 128
_BATCH = 128
_LR = 2e-3
_KEY = "ambient-labelled"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """channels: 1 or 3 of the pictures that it was trained on. num_classes: of its labels."""

    channels: int
    num_classes: int


class Labelled(nn.Module):
    """Convolutions at three scales, each followed by halving, then 128 features, then a logit per class."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        ins = (sizes.channels, *_WIDTHS)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(ins))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in _WIDTHS)
        self.hidden = nn.Linear(_WIDTHS[-1] * 4, _NUM_FEATURES)
        self.last = nn.Linear(_NUM_FEATURES, sizes.num_classes)

    def features(self, pixels: Tensor) -> Tensor:
        """(N, 128) float32 of pictures (N, 1 or 3, H, W) uint8."""
        x = pixels[:, : self.sizes.channels].float() / 127.5 - 1
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = functional.max_pool2d(functional.silu(norm(convolution(x))), 2)
        x = functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return functional.silu(self.hidden(x))

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, num_classes) logits."""
        out: Tensor = self.last(self.features(pixels))
        return out


def train_classifier(
    pixels: Tensor, labels: Tensor, *, epochs: int = 8, seed: int = 0, device: torch.device
) -> Labelled:
    """Train on pictures (N, C, H, W) uint8 with labels (N,) int64 >= 0; seconds to minutes. The seed decides all.

    Adam with a cosine schedule; pictures are mirrored and shifted by up to two pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Labelled(Sizes(channels=pixels.shape[1], num_classes=int(labels.max()) + 1)).to(device)
    steps = epochs * max(1, len(pixels) // _BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(pixels), (_BATCH,), generator=generator)
        shown = _moved(pixels[rows], generator).to(device)
        loss = functional.cross_entropy(network(shown), labels[rows].to(device), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def accuracy(network: Labelled, pixels: Tensor, labels: Tensor) -> float:
    """Share of pictures (N, C, H, W) uint8 whose label (N,) it finds."""
    device = next(network.parameters()).device
    parts = pixels.split(1024)  # type: ignore[no-untyped-call]
    found = torch.cat([network(part.to(device)).argmax(dim=1).cpu() for part in parts])
    return float((found == labels).double().mean())


def save_classifier(path: Path, network: Labelled) -> None:
    metadata = {_KEY: json.dumps(asdict(network.sizes))}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_whole(path, save(tensors, metadata))


def load_classifier(path: Path) -> Labelled:
    """The classifier in a file of ``save_classifier``. Raises UserError for any other."""
    try:
        with safe_open(path, "pt") as file:
            sizes = json.loads((file.metadata() or {})[_KEY])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
        network = Labelled(Sizes(**sizes))
        network.load_state_dict(state)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path} is no classifier of this program: for weights of another network, name that network and add "
            "--weights NAME=FILE"
        ) from error
    return network.eval().requires_grad_(False)


def _moved(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """All of the batch mirrored or not, and shifted by the same up to two pixels."""
    flip, down, right = (int(torch.randint(n, (), generator=generator)) for n in (2, 5, 5))
    height, width = pixels.shape[-2:]
    padded = functional.pad(pixels.float(), [2] * 4, mode="replicate")
    out = padded[..., down : down + height, right : right + width].to(torch.uint8)
    return out.flip(-1) if flip else out
