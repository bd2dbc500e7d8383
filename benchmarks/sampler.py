"""Draws per second of the (row, sigma) sampler. Run: ``python benchmarks/sampler.py [--threads T]``."""

import argparse
import platform
import time
from collections.abc import Callable

import torch
from ambient.train.sampler import Sampler
from torch import Tensor

DRAWS = 1 << 21
REPEATS = 3


def lognormal(num: int) -> Tensor:
    return torch.exp(0.5 + 0.6 * torch.randn(num, dtype=torch.float64))


def one_level(num: int) -> tuple[Tensor, Tensor]:
    sigma_min = torch.full((num,), 2.0, dtype=torch.float64)
    sigma_min[: num // 10] = 0
    return sigma_min, torch.zeros(num, dtype=torch.float64)


def every_picture_its_own(num: int) -> tuple[Tensor, Tensor]:
    sigma_min = lognormal(num)
    sigma_min[: num // 10] = 0
    return sigma_min, torch.zeros(num, dtype=torch.float64)


def with_low_noise_use(num: int) -> tuple[Tensor, Tensor]:
    sigma_min, _ = every_picture_its_own(num)
    return sigma_min, 0.1 * lognormal(num)


def never_high(num: int) -> tuple[Tensor, Tensor]:
    sigma_min, sigma_max = with_low_noise_use(num)
    sigma_min[num // 2 :] = torch.inf
    return sigma_min, sigma_max


MIXES: dict[str, Callable[[int], tuple[Tensor, Tensor]]] = {
    "10 % clean, rest sigma_min 2": one_level,
    "10 % clean, rest log-normal": every_picture_its_own,
    "the same, each with a sigma_max": with_low_noise_use,
    "the same, half of it inf": never_high,
}


def draws_per_second(sampler: Sampler) -> float:
    indices = torch.arange(DRAWS)
    best = 0.0
    for _ in range(REPEATS):
        start = time.perf_counter()
        sampler.draw(indices)
        best = max(best, DRAWS / (time.perf_counter() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    torch.set_num_threads(parser.parse_args().threads)
    torch.manual_seed(0)
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads, best of {REPEATS}")
    print(f"{'rows':>10}  {'thresholds':<34}{'draws/s':>12}")
    for num in (50_000, 1_280_000):
        for name, mix in MIXES.items():
            speed = draws_per_second(Sampler(*mix(num), P_mean=-1.2, P_std=1.2))
            print(f"{num:>10,}  {name:<34}{speed:>12,.0f}")


if __name__ == "__main__":
    main()
