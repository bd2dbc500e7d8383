"""A pool of little pictures and its manifest, written directly: what the annotator would leave behind."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ambient.schemas.manifest import METADATA_KEY, Metadata, manifest_schema
from ambient.schemas.space import Space
from ambient.train.config import TrainConfig
from ambient.train.networks.unet import UNetConfig
from fields import Fields
from PIL import Image

SHORT = TrainConfig(
    num_images=96,
    batch_size=8,
    warmup_images=8,
    log_images=24,
    sample_images=48,
    snapshot_images=48,
    sample_count=2,
    network=UNetConfig(channels=8, multipliers=(1, 2), blocks=1),
)
"""A training of twelve steps."""


def write_pool(
    folder: Path,
    *,
    num: int = 12,
    space: Space | None = None,
    sigma_min: list[float] | None = None,
    sigma_max: list[float] | None = None,
    labels: list[int | None] | None = None,
    status: list[str] | None = None,
) -> Path:
    """PNG files of Gaussian fields in folder/pool, and folder/manifest.parquet, whose path is returned.

    By default every third picture is clean and the others have sigma_min 0.5.
    """
    space = space or Space(resolution=8, channels=1)
    pool = folder / "pool"
    pool.mkdir(parents=True)
    ids = [_write_picture(pool / f"{i:03d}.png", i, space) for i in range(num)]
    floors = sigma_min or [0.0 if i % 3 == 0 else 0.5 for i in range(num)]
    columns = {
        "uri": [f"{i:03d}.png" for i in range(num)],
        "id": ids,
        "source": ["pool"] * num,
        "width": [space.resolution] * num,
        "height": [space.resolution] * num,
        "num_bytes": [100] * num,
        "format": ["png"] * num,
        "label": labels or [None] * num,
        "caption": [None] * num,
        "status": status or ["ok"] * num,
        "reason": [None] * num,
        "role": ["clean" if s == 0 else "pool" for s in floors],
        "p_clean": [None] * num,
        "draws": [None] * num,
        "sigma_min": floors,
        "sigma_min_lo": floors,
        "sigma_min_hi": floors,
        "sigma_max": sigma_max or [0.0] * num,
        "method": ["clean" if s == 0 else "fixed" for s in floors],
    }
    metadata = Metadata(
        space=space, roots={"pool": str(pool)}, fingerprint="0" * 32, package_version="0", command="test"
    )
    schema = manifest_schema([]).with_metadata({METADATA_KEY: metadata.to_bytes()})
    path = folder / "manifest.parquet"
    pq.write_table(pa.table(columns, schema=schema), path)
    return path


def _write_picture(path: Path, seed: int, space: Space) -> str:
    """Returns the content id."""
    field = Fields(resolution=space.resolution).draw(space.channels, seed=seed)[:, 0]
    pixels = ((field.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels[:, :, 0] if space.channels == 1 else np.ascontiguousarray(pixels)).save(path)
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
