"""Is sigma_min right? Against the dense protocol of the paper, the exact answers of Gaussian fields, and known damage.

    python benchmarks/annotation.py prepare runs/annotation --fashion /usr/share/datasets/fashion-mnist
    python benchmarks/annotation.py dense runs/annotation/photographs.npz -o docs/annotation/dense-photographs.json
    python benchmarks/annotation.py orders runs/annotation/fields.npz -o docs/annotation/orders-fields.json
    python benchmarks/annotation.py oracle --seed 0 -o docs/annotation/oracle-0.json              # and 1 to 4
    python benchmarks/annotation.py longer runs/annotation/fashion.npz -o docs/annotation/longer-fashion.json
    python benchmarks/annotation.py known runs/annotation/fashion.npz -o docs/annotation    # orders, dense and longer
    python benchmarks/annotation.py table                 # docs/annotation.md's tables from docs/annotation/*.json

``prepare`` needs scipy and scikit-image and no GPU; the others PyTorch and NumPy alone.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ambient.curate.classifier import ClassifierConfig
from ambient.curate.curves import p_clean
from ambient.curate.device import choose_device
from ambient.curate.fit import FitConfig
from ambient.curate.noisy import Sample
from ambient.curate.threshold import crossing, isotonic, isotonic_crossing
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))
from annotation_data import KINDS, prepare
from annotation_judge import (
    GRID,
    TAU,
    Array,
    Judge,
    annotated,
    as_unit,
    by_fold,
    clipped,
    decided,
    few,
    judge,
    median_ln_ratio,
    spearman,
)
from annotation_table import write_tables
from fields import Fields

DENSE_LEVELS, DENSE_DRAWS, SPAN = 2048, 4, 32  # the reference protocol
P_MEAN, P_STD = -1.2, 1.2  # of ln sigma: the training density at 32x32
BLURS = (0.5, 1.0, 2.0)
KL_LEVELS = (0.1, 0.3, 0.6, 1.0, 2.0, 4.0)
WHERE = (GRID > 0.2) & (GRID < 8)  # where the oracle's fields cross


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("prepare", help="cut and damage pictures")
    add.add_argument("out", type=Path)
    add.add_argument("--fashion", type=Path, help="folder of Fashion-MNIST's train-images-idx3-ubyte.gz")
    add.add_argument("--num", type=int, default=1000, help="pictures per damage; four times as many clean ones")
    for name in ("dense", "orders", "oracle", "longer", "known"):
        add = commands.add_parser(name)
        if name != "oracle":
            add.add_argument("data", type=Path)
        add.add_argument("-o", "--out", type=Path, required=True)
        add.add_argument("--device", default="auto")
        add.add_argument("--steps", type=int, default=3000)
        add.add_argument("--draws", type=int, default=6, help="per level, on average: the default of ambient annotate")
        add.add_argument("--pictures", type=int, default=300)
        add.add_argument("--fields", type=int, default=48_000, help="of each set that the oracle's classifier learns")
        add.add_argument("--many", type=int, default=1536, help="draws per level behind the oracle's dense values")
        add.add_argument("--seed", type=int, default=0)
    add = commands.add_parser("table", help="write docs/annotation.md's tables from docs/annotation/*.json")
    add.add_argument("--docs", type=Path, default=Path(__file__).parents[1] / "docs")
    options = parser.parse_args()
    if options.command == "prepare":
        prepare(options.out, options.fashion, options.num)
    elif options.command == "table":
        write_tables(options.docs)
    elif options.command == "known":
        for kind in ("orders", "dense", "longer"):
            write(options.out / f"{kind}-{options.data.stem}.json", kind, MEASURES[kind](options), options)
    else:
        write(options.out, options.command, MEASURES[options.command](options), options)


def write(out: Path, kind: str, measured: dict[str, Any], options: argparse.Namespace) -> None:
    """What was measured, with the command of the script that runs, its device, version and date."""
    device = choose_device(options.device)
    about = {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, threads: {torch.get_num_threads()}",
        "torch": torch.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"kind": kind, **about, **measured}, indent=1) + "\n")
    print(json.dumps({k: v for k, v in measured.items() if k not in ("judge", "judges", "pictures")}, indent=1))


@cache
def read(data: Path, device: torch.device) -> tuple[Sample, Sample, list[str]]:
    """Clean and damaged pictures of a file that ``prepare`` wrote; the kinds of damage are the groups."""
    with np.load(data) as stored:
        pictures, kinds, names = (stored[name] for name in ("pictures", "kinds", "names"))
    damage = [kind for kind in KINDS if (kinds == kind).any()]
    sets = []
    for mine in (kinds == "clean", kinds != "clean"):
        at = np.flatnonzero(mine)
        told = [damage.index(kind) if kind in damage else 0 for kind in kinds[at]]
        sets.append(
            Sample(
                pictures=torch.from_numpy(pictures[at]).to(device),
                names=torch.from_numpy(names[at]).to(device),
                groups=torch.tensor(told, device=device),
            )
        )
    return sets[0], sets[1], damage


def judged_pool(options: argparse.Namespace) -> tuple[Judge, Sample, Sample, list[str]]:
    """The classifiers of a file's pictures, its clean ones, the others, and their damages."""
    clean, other, damage = read(options.data, choose_device(options.device))
    return judge_of(options.data, choose_device(options.device), options.steps, options.seed), clean, other, damage


@cache
def judge_of(data: Path, device: torch.device, steps: int, seed: int) -> Judge:
    clean, other, damage = read(data, device)
    return judge(clean, other, FitConfig(steps=steps, seed=seed), ClassifierConfig(groups=len(damage)))


def dense(options: argparse.Namespace) -> dict[str, Any]:
    """Our search at the default draws against 2,048 levels x 4 draws, with the same classifier.

    By the first crossing, as the protocol has it after smoothing, and by the crossing of the rising fit, ours to our
    draws and to the protocol's; ``converged``: the first crossing by 48 draws a level. Of the protocol's levels those
    count that classifiers train on; ``beyond``: all of them.
    """
    judged, _, other, _ = judged_pool(options)
    some = few(other, options.pictures)
    random = np.random.default_rng(options.seed)
    levels = np.sort(np.exp(random.normal(P_MEAN, P_STD, DENSE_LEVELS)))
    inside = (levels >= GRID[0]) & (levels <= GRID[-1])
    curves, more = (dense_curves(judged, some, levels, options.seed + i) for i in (1, 2))
    beyond = first_crossing(smoothed(curves), levels)
    curves, more, levels = curves[:, inside], more[:, inside], levels[inside]
    reference, rising = first_crossing(smoothed(curves), levels), isotonic_crossing(curves, levels, TAU, np.ones(1))
    again = first_crossing(smoothed(more), levels)
    first, _, _ = decided(annotated(judged, some, options.draws, options.seed, "first"), 0.0, "first")
    default, _, _ = decided(annotated(judged, some, options.draws, options.seed), 0.0)
    converged, _, _ = decided(annotated(judged, some, 48, options.seed, "first"), 0.0, "first")
    found = {
        "reference": reference,
        "first": first,
        "converged": converged,
        "rising_reference": rising,
        "rising": default,
    }
    return {
        "data": options.data.stem,
        "compared": len(reference),
        "draws": options.draws,
        "levels": len(levels),
        "first": agreement(first, reference),
        "beyond": agreement(first, beyond),
        "converged": agreement(converged, reference),
        "reference_again": agreement(again, reference),
        "rising": agreement(default, rising),
        "rising_to_first": agreement(default, reference),
        "judge": judged.facts(),
        "pictures": {name: clipped(sigma).tolist() for name, sigma in found.items()},
    }


def agreement(found: Array, reference: Array) -> dict[str, float]:
    return {"spearman": spearman(found, reference), "median_ln_ratio": median_ln_ratio(found, reference)}


def dense_curves(judge: Judge, sample: Sample, levels: Array, seed: int) -> Array:
    """(N, levels) mean of four independent draws: the even draws of pairs, whose odd ones have the same noise."""
    x, grid = as_unit(sample.pictures), torch.tensor(levels, dtype=torch.float32, device=sample.names.device)
    out = np.zeros((len(x), len(levels)))
    for member, mine in by_fold(judge.classifier, sample.names):
        told = {"groups": sample.groups[mine], "seed": seed}
        draws = [
            p_clean(member, x[mine], sample.names[mine], grid, draws=1, first=2 * k, **told)[:, :, 0].double()
            for k in range(DENSE_DRAWS)
        ]
        out[mine.cpu().numpy()] = torch.stack(draws).mean(dim=0).cpu().numpy()
    return out


def smoothed(curves: Array) -> Array:
    """Exponential moving average over the levels, weights (1 - alpha)^age with alpha = 2 / (span + 1), normalised."""
    keep = 1 - 2 / (SPAN + 1)
    total, weight, out = np.zeros(len(curves)), 0.0, np.empty_like(curves)
    for level in range(curves.shape[1]):
        total, weight = keep * total + curves[:, level], keep * weight + 1
        out[:, level] = total / weight
    return out


def first_crossing(curves: Array, levels: Array) -> Array:
    above = curves > TAU
    return np.where(above.any(axis=1), levels[above.argmax(axis=1)], np.inf)


def orders(options: argparse.Namespace) -> dict[str, Any]:
    """Median sigma_min of each strength of each damage."""
    judged, clean, other, damage = judged_pool(options)
    rows: list[dict[str, Any]] = []
    medians: dict[str, list[float]] = {}
    for group, kind in enumerate(damage):
        at = (other.groups == group).nonzero()[: options.pictures, 0]
        mine = Sample(pictures=other.pictures[at], names=other.names[at], groups=other.groups[at])
        found, lo, hi = decided(annotated(judged, mine, options.draws, options.seed), judged.spread)
        parts = np.quantile(found, [0.1, 0.5, 0.9], method="inverted_cdf").tolist()
        factor = float(np.median(clipped(hi) / clipped(lo)))
        rows.append(
            {
                "damage": kind,
                "pictures": len(at),
                **dict(zip(("p10", "median", "p90"), map(finite, parts), strict=True)),
            }
            | {"never": int(np.isinf(found).sum()), "interval_factor": factor}
        )
        medians.setdefault(kind.partition("-")[0], []).append(parts[1])
    return {
        "data": options.data.stem,
        "clean": len(clean.names),
        "draws": options.draws,
        "in_order": all(a < b for values in medians.values() for a, b in pairwise(values)),
        "rows": rows,
        "judge": judged.facts(),
    }


def longer(options: argparse.Namespace) -> dict[str, Any]:
    """What sigma_min does when the classifiers may train twice as long, all else being equal."""
    judged, clean, other, _ = judged_pool(options)
    some = few(other, options.pictures)
    judges = judged, judge_of(options.data, choose_device(options.device), 2 * options.steps, options.seed)
    once, twice = (decided(annotated(each, some, options.draws, options.seed), 0.0)[0] for each in judges)
    return {
        "data": options.data.stem,
        "pool": len(clean.names) + len(other.names),
        "compared": len(once),
        "steps_allowed": [options.steps, 2 * options.steps],
        "median_ln_ratio": median_ln_ratio(twice, once),
        "shift": float(np.median(np.log(clipped(twice) / clipped(once)))),
        "moved_by_5_percent": float((np.abs(np.log(clipped(twice) / clipped(once))) > np.log(1.05)).mean()),
        "judges": [each.facts() for each in judges],
    }


def finite(sigma: float) -> float | None:
    """JSON has no infinity: None."""
    return None if sigma == float("inf") else sigma


def oracle(options: argparse.Namespace) -> dict[str, Any]:
    """Gaussian fields of 32x32, whose best classifier is known."""
    fields, device, num = Fields(resolution=32), choose_device(options.device), options.fields

    def sample(pictures: Tensor, first: int) -> Sample:
        names = torch.arange(first, first + len(pictures), device=device)
        return Sample(pictures=pictures.to(device), names=names, groups=torch.zeros_like(names))

    def mixture(each: int, seed: int) -> Tensor:
        return torch.cat([fields.draw(each, blur=blur, seed=seed + i) for i, blur in enumerate(BLURS)])

    def optimal(x: Tensor, sigma: Tensor) -> Tensor:
        with x.device:
            return fields.optimal_logit(x, sigma[:1] if sigma.stride(0) == 0 else sigma, blurs=list(BLURS))

    clean, other = sample(fields.draw(num, seed=1), 0), sample(mixture(num // len(BLURS), 10), num)
    config = FitConfig(steps=options.steps, seed=options.seed, lr=2e-3)
    judged = judge(clean, other, config, ClassifierConfig(dropout=0.0))
    fresh = torch.cat([fields.draw(1500, seed=40), mixture(500, 50)]).to(device)
    each = options.pictures // len(BLURS)
    pictures = sample(mixture(each, 30), 10 * num)
    levels = torch.tensor(GRID[WHERE], dtype=torch.float32, device=device)
    best = p_clean(optimal, pictures.pictures, pictures.names, levels, draws=options.many // 4, seed=1).mean(dim=2)
    truth = crossing(isotonic(best.double().cpu().numpy()), GRID[WHERE], TAU)
    mean = np.zeros((len(truth), len(levels)))
    for member, mine in by_fold(judged.classifier, pictures.names):
        many = p_clean(member, pictures.pictures[mine], pictures.names[mine], levels, draws=options.many, seed=5)
        mean[mine.cpu().numpy()] = many.mean(dim=2).double().cpu().numpy()
    own = crossing(isotonic(mean), GRID[WHERE], TAU)
    return {
        "kl": {str(sigma): divergence(judged, optimal, fresh, sigma) for sigma in KL_LEVELS},
        "blurs": BLURS,
        "pictures_each": each,
        "draws": {str(draws): compared(judged, pictures, draws, truth, own, each) for draws in (8, 16, 64)},
        "many_draws": {"spearman": spearman(own, truth), "median_ln_ratio": median_ln_ratio(own, truth)},
        "judge": judged.facts(),
    }


@torch.inference_mode()
def divergence(judge: Judge, optimal: Callable[..., Tensor], fresh: Tensor, sigma: float) -> float:
    """Mean KL(optimal || network) in nats over noisy fields that no member has seen, mean of the members."""
    generator = torch.Generator(fresh.device).manual_seed(0)
    x = fresh + sigma * torch.randn(fresh.shape, generator=generator, device=fresh.device)
    levels = torch.full((len(x),), sigma, device=x.device)
    best = optimal(x, levels)
    p, log = torch.sigmoid(best), torch.nn.functional.logsigmoid
    found = []
    for member in judge.classifier.members:
        net = torch.cat([member(a, b).double() for a, b in zip(x.split(500), levels.split(500), strict=True)])
        found.append((p * (log(best) - log(net)) + (1 - p) * (log(-best) - log(-net))).mean())
    return round(float(torch.stack(found).mean()), 5)


def compared(judge: Judge, pictures: Sample, draws: int, truth: Array, own: Array, each: int) -> dict[str, Any]:
    """The annotator at so many draws against the optimal classifier's sigma_min, and its own with many draws."""
    curves = annotated(judge, pictures, draws, seed=0)
    found, lo, hi = decided(curves, 0.0)
    _, wide_lo, wide_hi = decided(curves, judge.spread)
    within = [slice(i * each, (i + 1) * each) for i in range(len(BLURS))]
    return {
        "spearman": spearman(found, truth),
        "median_ln_ratio": median_ln_ratio(found, truth),
        "within": [spearman(found[part], truth[part]) for part in within],
        "covers_own": float(((lo <= own) & (own <= hi)).mean()),
        "covers_optimal": float(((wide_lo <= truth) & (truth <= wide_hi)).mean()),
    }


MEASURES = {"dense": dense, "orders": orders, "oracle": oracle, "longer": longer}


if __name__ == "__main__":
    main()
