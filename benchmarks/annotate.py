"""Speed of the annotator's parts on one device: noise, classifier, both.

    python benchmarks/annotate.py [cuda|cpu]

Prints one line per part: evaluations per second at 32x32x3, and normal numbers per second.
"""

import sys
import time
from collections.abc import Callable

import torch
from ambient.curate.classifier import ClassifierConfig, QualityClassifier
from ambient.curate.curves import search
from ambient.curate.device import choose_device
from ambient.curate.noise import Purpose, normals
from ambient.curate.threshold import sigma_grid
from ambient.schemas.space import Space

DRAWS = 8


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Median wall-clock time of one call, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]


def main() -> None:
    device = choose_device(sys.argv[1] if len(sys.argv) > 1 else "auto")
    batch = 8192 if device.type == "cuda" else 512
    space = Space(resolution=32)
    classifier = QualityClassifier(space, ClassifierConfig()).to(device).eval()
    x = torch.randn(batch, *space.shape, device=device)
    sigma, names = torch.rand(batch, device=device) + 0.1, torch.arange(batch, device=device)
    pictures = x[:64].clamp(-1, 1)

    with torch.inference_mode():
        forward = seconds(lambda: classifier(x, sigma), device)
        noise = seconds(lambda: normals(names, x[0].numel(), seed=0, purpose=Purpose.CURVE), device)
        whole = seconds(
            lambda: search(classifier, pictures, names[:64], sigma_grid(), draws=DRAWS, tau=0.45), device, repeats=3
        )
    evaluations = len(pictures) * len(sigma_grid()) * DRAWS
    print(f"device                      {torch.cuda.get_device_name() if device.type == 'cuda' else 'cpu'}")
    print(f"classifier                  {batch / forward:12,.0f} evaluations/s")
    print(f"noise                       {x.numel() / noise / 1e6:12,.0f} million normal numbers/s")
    print(f"whole search, {DRAWS} draws       {evaluations / whole:12,.0f} evaluations/s")
    print(f"                            {len(pictures) / whole:12,.0f} pictures/s")


if __name__ == "__main__":
    main()
