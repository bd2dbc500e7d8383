"""What the quality measures are worth, and what they cost.

    python benchmarks/scores.py auc          undamaged against damaged photographs, every measure without downloads
    python benchmarks/scores.py pools        how much of the default clean set is truly undamaged
    python benchmarks/scores.py calibrate    the constants of the score `undamaged`, from photographs used nowhere else
    python benchmarks/scores.py speed        built-in measures on one core, and memory on 8,000 x 8,000 pixels
    python benchmarks/scores.py networks [cuda|cpu]   batches against one picture per call, random weights

Photographs: those of scikit-image's wheel that are stored without loss, halved, and those of the Debian packages
plasma-workspace-wallpapers and mate-backgrounds, at a quarter of their size: what their camera and their JPEG file did
to them is gone. `calibrate` uses those of lomiri-wallpapers-16.04 and -20.04 instead, at a half and a quarter.
"""

import io
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import skimage
from ambient.curate.corruptions import down_up, gaussian_blur, jpeg
from ambient.curate.images import decode
from ambient.curate.pool import content_id
from ambient.curate.ranks import Top, best, better_of
from ambient.curate.scores import CALIBRATION, COMBINED, SCORES, evidences, score
from PIL import Image
from scipy.optimize import minimize
from scipy.stats import rankdata

SIDE = 128
SOFT = 2.0  # grey levels
STRENGTHS = {
    "blur": (0.6, 0.8, 1.0, 1.5, 2.5),  # standard deviation in pixels
    "jpeg": (75, 50, 25, 15, 10),  # quality
    "noise": (5, 10, 15, 25, 40),  # standard deviation in grey levels, of each colour
    "grey noise": (5, 10, 15, 25, 40),  # the same in all three
    "down": (1.5, 2, 3, 4, 6),  # factor, enlarged again
}
BACKGROUNDS, WALLPAPERS = Path("/usr/share/backgrounds"), Path("/usr/share/wallpapers")
SKIMAGE = "astronaut brick camera cell chelsea coffee coins grass gravel ihc moon motorcycle_left"
PLASMA = "BytheWater ColdRipple ColorfulCups EveningGlow FallenLeaf Grey Kite OneStandsOut Path"
MATE = "Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood YellowFlower"
LOMIRI = (
    "Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Picture_0B_by_freespace Picture_1A_by_freespace Wine_by_Jakkub_Mede "
    "aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich friends_by_Aitzol_Berasategi greentock_by_Peter_Nerlich "
    "life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi seeding_by_Clements_Engelhardt "
    "sunset_by_Aitzol_Berasategi Kleiber_by_Lukas_Baubkus"
)
MILD = (0.6, 0.8, 75, 1.5, 5)  # strengths that can hardly be seen

Picture = np.ndarray


def reported() -> Iterator[Picture]:
    """The photographs of the tables."""
    for name in SKIMAGE.split():
        yield reduced(Path(skimage.__file__).parent / "data" / f"{name}.png", 2)
    for name in PLASMA.split():
        yield reduced(WALLPAPERS / name / "contents" / "images" / "2560x1600.jpg", 4)
    for name in MATE.split():
        yield reduced(BACKGROUNDS / "mate" / "nature" / f"{name}.jpg", 4)


def for_calibration() -> Iterator[Picture]:
    for name in LOMIRI.split():
        for factor in (2, 4):
            yield reduced(BACKGROUNDS / f"{name}.jpg", factor)


def reduced(path: Path, factor: int) -> Picture:
    if not path.exists():
        sys.exit(f"there is no {path}: install the Debian packages that the head of this file names")
    with Image.open(path) as image:
        image = image.convert("RGB")
        return np.asarray(image.resize((image.width // factor, image.height // factor), Image.Resampling.LANCZOS))


def crops(photographs: Iterator[Picture], side: int, each: int, seed: int) -> list[tuple[int, Picture]]:
    """(photograph, crop with a margin of 8): squares that a blur of 1 pixel changes by at least SOFT grey levels.

    What it changes less has nothing to lose: it is soft by nature.
    """
    random, out = np.random.default_rng(seed), []
    for number, photo in enumerate(photographs):
        for _ in range(each):
            top, left = (int(random.integers(0, max(1, length - side - 8))) for length in photo.shape[:2])
            crop = np.ascontiguousarray(photo[top : top + side + 8, left : left + side + 8])
            change = crop.astype(np.float32) - gaussian_blur(crop, 1.0, random)[0]
            if min(crop.shape[:2]) >= side and float(np.sqrt(np.mean(np.square(change.mean(axis=2))))) >= SOFT:
                out.append((number, crop))
    return out


def damaged(crop: Picture, kind: str, strength: float, random: np.random.Generator) -> Picture:
    """The crop with its damage, cut to a multiple of its grid or beside it at random."""
    if kind == "noise":
        out = crop + random.normal(0, strength, crop.shape)
    elif kind == "grey noise":
        out = crop + random.normal(0, strength, crop.shape[:2])[:, :, None]
    elif kind == "clean":
        out = crop
    else:
        out = {"blur": gaussian_blur, "jpeg": jpeg, "down": down_up}[kind](crop, strength, random)[0]
    top, left = random.integers(0, 9, 2)
    out = np.clip(np.rint(out), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(out[top : top + len(crop) - 8, left : left + len(crop) - 8])


def auc(better: np.ndarray, worse: np.ndarray) -> float:
    """Probability that one of the better has the higher value, ties half."""
    ranks = rankdata(np.concatenate([better, worse]))
    return (ranks[: len(better)].sum() - len(better) * (len(better) + 1) / 2) / (len(better) * len(worse))


def print_auc() -> None:
    """Paired: the same crop before and after. Unpaired: crops of other photographs, odd against even."""
    random, found = np.random.default_rng(0), crops(reported(), SIDE, 6, seed=7)
    kinds = [("clean", 0.0), *((kind, s) for kind, strengths in STRENGTHS.items() for s in strengths)]
    values: dict[str, np.ndarray] = {}
    measure_piqe = piqe()
    rows: list[list[dict[str, float]]] = []
    for kind, strength in kinds:
        pictures = [damaged(crop, kind, strength, random) for _, crop in found]
        scores = [score(picture) for picture in pictures]
        rows.append([{**s, "piqe": p} for s, p in zip(scores, measure_piqe(pictures), strict=True)])
    names = [name for name in (*SCORES, "piqe") if name != "brightness"]
    for name in names:
        sign = -1 if name == "piqe" or better_of(name) == "low" else 1
        values[name] = sign * np.array([[row[name] for row in of_kind] for of_kind in rows])
    odd = np.array([number % 2 == 1 for number, _ in found])
    print(f"{len(found)} crops of {SIDE} x {SIDE} pixels from {len({n for n, _ in found})} photographs\n")
    for how in ("unpaired", "paired"):
        for kind, strengths in STRENGTHS.items():
            print(f"| {how}, {kind} | {' | '.join(f'{s:g}' for s in strengths)} |")
            print(f"|---|{'---|' * len(strengths)}")
            for name in names:
                clean, cells = values[name][0], []
                for strength in strengths:
                    other = values[name][kinds.index((kind, strength))]
                    if how == "paired":
                        cells.append(np.mean((clean > other) + 0.5 * (clean == other)))
                    else:
                        cells.append((auc(clean[odd], other[~odd]) + auc(clean[~odd], other[odd])) / 2)
                print(f"| `{name}` | {' | '.join(f'{cell:.3f}' for cell in cells)} |")
            print()


def piqe() -> Callable[[list[Picture]], list[float]]:
    import torch
    from ambient.curate import iqa
    from ambient.curate.scorers import measure_all

    device = torch.device("cpu")
    scorer = iqa.scorer("piqe", None, device)

    def measure(pictures: list[Picture]) -> list[float]:
        pieces = ((i, {"piqe": [picture]}) for i, picture in enumerate(pictures))
        return measure_all(pieces, [scorer], len(pictures), device)[0]["piqe"].tolist()

    return measure


def print_pools() -> None:
    """Pools in which each crop appears once; the share of the clean set that is undamaged, over 20 pools.

    Of every other photograph: what `undamaged` is made of was chosen by the others and by those of `calibrate`.
    """
    kinds = [(kind, s) for kind, strengths in STRENGTHS.items() for s in strengths if kind != "grey noise"]
    for side in (32, 64, 128):
        found = [crop for crop in crops(reported(), side, 160, seed=side) if crop[0] % 2 == 1]
        for share in (0.1, 0.2):
            precision: dict[str, list[float]] = {"default": [], "10%": [], "10%, mild damage left out": []}
            for seed in range(20):
                random = np.random.default_rng(seed)
                order = random.permutation(len(found))[:1000]
                clean, rows = np.arange(len(order)) < share * len(order), []
                for place, good in zip(order, clean, strict=True):
                    kind, strength = ("clean", 0.0) if good else kinds[int(random.integers(len(kinds)))]
                    value = score(damaged(found[place][1], kind, strength, random))["undamaged"]
                    rows.append((bool(good), strength in MILD, value))
                plain = [row for row in rows if row[0] or not row[1]]
                ways = ((Top(), rows), (Top(share=0.1), rows), (Top(share=0.1), plain))
                for name, (top, pool) in zip(precision, ways, strict=True):
                    precision[name].append(float(np.mean([row[0] for row in chosen(pool, top)])))
            said = "; ".join(f"{name} {np.mean(p):.3f}, least {min(p):.3f}" for name, p in precision.items())
            print(f"{side} x {side}, {share:.0%} of {len(order)} undamaged: {said}", flush=True)


def chosen(rows: list[tuple[bool, bool, float]], top: Top) -> list[tuple[bool, bool, float]]:
    columns = {"status": pa.array(["ok"] * len(rows)), "undamaged": pa.array([row[2] for row in rows])}
    return [rows[place] for place in np.flatnonzero(best(pa.table(columns), top))]


def calibrate() -> None:
    """Logistic regression of undamaged against each damage by itself, both weighing the same."""
    random = np.random.default_rng(0)
    found = [
        crop for side, each in ((32, 24), (64, 6), (128, 6)) for _, crop in crops(for_calibration(), side, each, side)
    ]

    def values(kind: str, strength: float) -> np.ndarray:
        return np.array([evidences(score(damaged(crop, kind, strength, random))) for crop in found])

    clean = values("clean", 0.0)
    against: tuple[dict[str, tuple[float, ...]], ...] = (
        {"blur": STRENGTHS["blur"], "down": STRENGTHS["down"]},
        {"blur": (1.5, 2.5), "down": (3, 4, 6)},  # what shows at half the size
        {"blur": (0.6, 0.8), "down": (1.5,)},  # what the diagonals show first
        {"jpeg": STRENGTHS["jpeg"]},
        {"grey noise": STRENGTHS["grey noise"]},
        {"noise": STRENGTHS["noise"]},
    )
    for index, (name, damage) in enumerate(zip(COMBINED, against, strict=True)):
        bad = np.concatenate([values(kind, s)[:, index] for kind, strengths in damage.items() for s in strengths])
        good = clean[:, index]

        def loss(slope_and_zero: np.ndarray, good: np.ndarray = good, bad: np.ndarray = bad) -> float:
            slope, zero = slope_and_zero
            missed = np.logaddexp(0, -slope * (good - zero)).mean() + np.logaddexp(0, slope * (bad - zero)).mean()
            return float(missed + 1e-3 * slope**2)

        slope, zero = minimize(loss, [1.0, float(np.median(bad))], method="Nelder-Mead").x
        print(f"{name:14} slope {slope:.2f}, zero {zero:.2f}; in use {CALIBRATION[index]}")


def print_speed() -> None:
    """Time of the processor, so that what else a machine does counts less."""
    with Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png") as image:
        data = io.BytesIO()
        image.resize((512, 512)).save(data, "JPEG", quality=90)
    one, clock = data.getvalue(), time.process_time
    pixels = decode(one).pixels
    rate = 1 / seconds(lambda: look(one), clock=clock)
    print(f"decode, identify and score 512 x 512 JPEG: {rate:,.0f} pictures/s per core")
    for name, work in {"decode": lambda: decode(one), "score": lambda: score(pixels)}.items():
        print(f"of that, {name}: {1e3 * seconds(work, clock=clock):.1f} ms")
    data = io.BytesIO()
    Image.effect_noise((8000, 8000), 30).convert("RGB").save(data, "JPEG", quality=90)
    start = clock()
    look(data.getvalue())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"8,000 x 8,000: {clock() - start:.1f} s, peak memory of the process {peak:.2f} GiB")


def look(data: bytes) -> None:
    content_id(data)
    score(decode(data).pixels)


def print_networks(device_name: str) -> None:
    import open_clip
    import torch
    from ambient.curate import iqa
    from ambient.curate.clip import scorers
    from ambient.curate.clipscore import Embedder
    from ambient.curate.device import choose_device
    from ambient.curate.openclip import ClipConfig
    from ambient.curate.scorers import Scorer, measure_all
    from pyiqa.archs import build_network

    device, num = choose_device(device_name), 256 if device_name == "cuda" else 16
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (224, 224, 3), dtype=np.uint8) for _ in range(num)]
    folder = Path(sys.argv[3] if len(sys.argv) > 3 else "/tmp")
    for name in ("RN50", "ViT-B-32"):
        torch.save(open_clip.create_model(name).state_dict(), folder / f"{name}.pt")
    torch.save({"params": build_network({"type": "CNNIQA", "pretrained": None}).state_dict()}, folder / "cnniqa.pth")
    found: list[Scorer] = [
        *scorers(["clipiqa"], ClipConfig(weights=str(folder / "RN50.pt")), device),
        Embedder(ClipConfig(weights=str(folder / "ViT-B-32.pt")), device).scorer(),
        iqa.scorer("cnniqa", str(folder / "cnniqa.pth"), device),
        iqa.scorer("piqe", None, device),
    ]
    for scorer in found:

        def batched(scorer: Scorer = scorer) -> None:
            pieces = ((i, {scorer.name: scorer.cut(picture)}) for i, picture in enumerate(pictures))
            measure_all(pieces, [scorer], num, device)

        def single(scorer: Scorer = scorer) -> None:
            for picture in pictures:
                x = torch.from_numpy(np.stack(scorer.cut(picture))).permute(0, 3, 1, 2)
                scorer.measure(x).double().cpu()

        together, alone = num / seconds(batched, 3), num / seconds(single, 3)
        ratio = together / alone
        print(f"{scorer.name:14} batched {together:9,.0f} pictures/s, one per call {alone:9,.0f}, ratio {ratio:.1f}")


def seconds(work: Callable[[], object], repeats: int = 50, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median time of one call, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = clock()
        work()
        times.append(clock() - start)
    return float(np.median(times[1:]))


def main() -> None:
    what = sys.argv[1] if len(sys.argv) > 1 else ""
    commands: dict[str, Callable[[], None]] = {
        "auc": print_auc,
        "pools": print_pools,
        "calibrate": calibrate,
        "speed": print_speed,
        "networks": lambda: print_networks(sys.argv[2] if len(sys.argv) > 2 else "cpu"),
    }
    if what not in commands:
        sys.exit(__doc__)
    commands[what]()


if __name__ == "__main__":
    main()
