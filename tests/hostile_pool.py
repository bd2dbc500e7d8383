"""A pool of little photographs, some under hostile names and captions, and its manifest, written directly."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from ambient.curate.pool import content_id
from ambient.curate.threshold import crossing, isotonic, sigma_grid
from ambient.schemas.manifest import manifest_schema
from ambient.schemas.space import Space
from manifests import METADATA, rows, write
from photo_pool import SIDE, tiles

GRID = sigma_grid()
SCRIPT = "<script>window.hacked = 1</script>"
HOSTILE = [
    f"{SCRIPT}.png",
    '"><img src=x onerror="window.hacked = 2">.png',
    "it's \"quoted\" & 'more'.png",
    "right\u202egnp.to.left.png",
    "שלום.png",
    "new\nline.png",
    "line\u2028separator.png",
    "{{data}} ${1 + 1}.png",
    "<!--<script>.png",
    "javascript:window.hacked=3.png",
    "\\u003cb\\u003e.png",
    "日本語 🙂.png",
]
CAPTIONS = [SCRIPT, "</script><script>window.hacked = 4</script>", "'; alert(1) //", "\u202etxet", "a\nb", "]]>", None]


def write_hostile_pool(folder: Path, *, num: int = 60, seed: int = 0) -> Path:
    """folder/pool and folder/manifest.parquet, whose path is returned.

    Sources: clean (a fifth), one that is a script, and soft. Every picture but the clean has a rising curve; a few have
    sigma_min 0 or inf; the last two rows cannot be used.
    """
    sources = ["clean", SCRIPT.replace("/", "\u2215"), "soft"]
    random = np.random.default_rng(seed)
    uris, ids, source, role, curves = [], [], [], [], []
    for i, tile in enumerate(tiles(num, seed)):
        place = sources[0 if i % 5 == 0 else 1 + i % 2]
        path = folder / "pool" / place / (HOSTILE[i] if i < len(HOSTILE) else f"{i:03d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        tile.save(path)
        uris.append(path.relative_to(folder / "pool").as_posix())
        ids.append(content_id(path.read_bytes()))
        source.append(place)
        role.append("clean" if i % 5 == 0 else "pool")
        middle = math.inf if i % 11 == 1 else 0 if i % 13 == 1 else math.exp(random.normal(-0.5, 1))
        rise = 0.5 / (1 + (middle / GRID) ** 4) if middle else np.full(len(GRID), 0.5)
        curves.append((1 - rise if i % 5 == 0 else rise) * (1 - 0.02 * random.random(len(GRID))))
    sigma = crossing(isotonic(np.array(curves)), GRID, 0.45)
    sigma[np.array(role) == "clean"] = 0
    bad = [i >= num - 2 for i in range(num)]
    table = rows(
        num,
        uri=uris,
        id=ids,
        source=source,
        role=role,
        width=SIDE,
        height=SIDE,
        label=[i % 3 for i in range(num)],
        caption=[CAPTIONS[i % len(CAPTIONS)] for i in range(num)],
        status=["too_small" if b else "ok" for b in bad],
        reason=[SCRIPT if b else None for b in bad],
        p_clean=[None if b else c.tolist() for c, b in zip(curves, bad, strict=True)],
        draws=[None if b else [4] * len(GRID) for b in bad],
        sigma_min=[None if b else float(s) for s, b in zip(sigma, bad, strict=True)],
        sigma_min_lo=[None if b else float(s) * 0.8 for s, b in zip(sigma, bad, strict=True)],
        sigma_min_hi=[None if b else float(s) * 1.25 for s, b in zip(sigma, bad, strict=True)],
        sigma_max=[None if b else 0.0 for b in bad],
    )
    best_and_worst = random.random(num)
    best_and_worst[:6], best_and_worst[6:12] = 2, -2  # so that the page shows all hostile names
    scores = {"sharpness": random.normal(size=num), "<b>score</b>": best_and_worst}
    for name, values in scores.items():
        table = table.append_column(name, pa.array(values, pa.float32()))
    metadata = replace(
        METADATA,
        space=Space(resolution=SIDE),
        roots={"pool": str(folder / "pool")},
        sigma_grid=GRID.tolist(),
        command=f"ambient annotate {SCRIPT}",
    )
    return write(folder / "manifest.parquet", table.select(manifest_schema(list(scores)).names), metadata)
