"""Embeddings and CLIPScore, for real, with little networks of random weights; and their columns, up to SQL."""

import re
from pathlib import Path

import ambient
import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ambient.curate.annotate import annotate
from ambient.curate.clipscore import Embedder
from ambient.curate.config import AnnotateConfig
from ambient.curate.decide import Rule
from ambient.curate.networks import ScoreConfig, load_networks
from ambient.curate.openclip import ClipConfig
from ambient.curate.query import query
from ambient.curate.ranks import Top, ranks
from ambient.curate.reporter import Reporter
from ambient.curate.rethreshold import rethreshold
from ambient.curate.scorers import measure_all
from ambient.curate.scoring import score_target
from ambient.schemas.errors import UserError
from little_clip import write_little_clips
from photo_pool import write_photo_pool
from PIL import Image
from torch.nn import functional

CPU = torch.device("cpu")
PAGE = Path(ambient.__file__).parent / "docs" / "scores.md"
CAPTIONS = ["a cat", None, "two dogs in the snow", "   ", "a cup of coffee on a table"]


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ClipConfig]:
    return write_little_clips(tmp_path_factory.mktemp("clip"))


def pictures() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    shapes = [(32, 32), (40, 90), (200, 33), (20, 24), (64, 64)]
    return [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


def embedded(embedder: Embedder, images: list[np.ndarray]) -> np.ndarray:
    pieces = ((i, {"clip_embedding": embedder.cut(image)}) for i, image in enumerate(images))
    values, problems = measure_all(pieces, [embedder.scorer()], len(images), CPU)
    assert problems == {}
    return values["clip_embedding"]


def by_hand(config: ClipConfig, images: list[np.ndarray], texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of pictures and texts, as open_clip's own example makes them."""
    model, _, preprocess = open_clip.create_model_and_transforms(config.model, pretrained=config.weights)
    model.eval()
    x = torch.stack([preprocess(Image.fromarray(image)) for image in images])
    with torch.no_grad():
        image, text = model.encode_image(x), model.encode_text(open_clip.get_tokenizer(config.model)(texts))
    return functional.normalize(image).numpy(), functional.normalize(text).numpy()


@pytest.mark.parametrize("name", ["little-vit", "little-rn"])
def test_embeddings_are_open_clip_s(little: dict[str, ClipConfig], name: str) -> None:
    embedder = Embedder(little[name], CPU)
    found = embedded(embedder, pictures())
    assert found.shape == (5, 16) == (5, embedder.size)
    np.testing.assert_allclose(found, by_hand(little[name], pictures(), ["x"])[0], atol=1e-5)
    np.testing.assert_allclose(np.square(found).sum(axis=1), 1, atol=1e-5)


def test_clipscore_is_the_published_one(little: dict[str, ClipConfig]) -> None:
    """2.5 max(cos, 0) of the picture and "A photo depicts ..."; random networks give both signs."""
    config = little["little-vit"]
    embedder, images = Embedder(config, CPU), pictures() * 8
    words = ["a cat", "two dogs", "a very long caption " * 40, "ein Bild", "5 % off"]
    captions = [words[(i * 3) % 5] for i in range(40)]
    image, text = by_hand(config, images, [f"A photo depicts {caption}" for caption in captions])
    cosine = (image * text).sum(axis=1)
    np.testing.assert_allclose(embedder.scores(image, captions), 2.5 * cosine.clip(0), atol=1e-5)
    np.testing.assert_allclose(embedder.scores(-image, captions), 2.5 * (-cosine).clip(0), atol=1e-5)
    assert abs(cosine).min() > 1e-3


def test_no_caption_and_no_embedding_is_no_score(little: dict[str, ClipConfig]) -> None:
    embedder = Embedder(little["little-vit"], CPU)
    vectors = embedded(embedder, pictures())
    vectors[0] = np.nan
    found = embedder.scores(vectors, CAPTIONS)
    assert np.isnan(found).tolist() == [True, True, False, True, False]
    assert np.isnan(embedder.scores(vectors, [None] * 5)).all()


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """28 photographs, of which every other one has a caption, and a torn one."""
    folder = write_photo_pool(tmp_path / "pool", clean=12, per_blur=8)
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        if number % 2 == 0:
            path.with_suffix(".txt").write_text(f"a photograph, number {number}")
    (folder / "soft" / "torn.png").write_bytes((folder / "soft" / "000.png").read_bytes()[:90])
    return folder


def run(pool: Path, config: ClipConfig, *by: str) -> Path:
    path = pool.parent / "s.parquet"
    score_target(pool, path, ScoreConfig(by=by, clip=config), device="cpu", reporter=Reporter(quiet=True))
    return path


def test_columns_of_a_pool_and_questions_about_them(pool: Path, little: dict[str, ClipConfig]) -> None:
    path = run(pool, little["little-vit"], "clipscore", "noise", "clip_embedding")
    table = pq.read_table(path)
    assert table.schema.field("clip_embedding").type == pa.list_(pa.float32(), 16)
    assert table.column_names[-2:] == ["clipscore", "clip_embedding"]
    rows = {row["uri"]: row for row in table.to_pylist()}
    assert [uri for uri, row in rows.items() if row["clip_embedding"] is None] == ["soft/torn.png"]
    assert all((row["clipscore"] is None) == (row["caption"] is None) for row in rows.values())
    assert sum(row["caption"] is not None for row in rows.values()) == 14
    sql = re.findall(r"^```sql\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)[0]
    found = query(path, sql)
    assert (found["uri"][0].as_py(), found["alike"][0].as_py()) == ("clean/003.png", pytest.approx(1))
    vectors = {uri: np.array(row["clip_embedding"]) for uri, row in rows.items() if row["clip_embedding"]}
    expected = [vectors[uri] @ vectors["clean/003.png"] for uri in found["uri"].to_pylist()]
    np.testing.assert_allclose(found["alike"].to_numpy(), expected, atol=1e-5)


def test_clipscore_alone_needs_no_column_of_embeddings(pool: Path, little: dict[str, ClipConfig]) -> None:
    table = pq.read_table(run(pool, little["little-rn"], "clipscore"))
    assert "clip_embedding" not in table.column_names
    best = ranks(table, ("clipscore",)).argmax()
    assert table["clipscore"][int(best)].as_py() == max(value for value in table["clipscore"].to_pylist() if value)


def test_annotate_and_threshold_keep_embeddings(pool: Path, little: dict[str, ClipConfig]) -> None:
    path = run(pool, little["little-vit"], "clipscore", "clip_embedding", "phash")
    top = Top(share=0.4, by=("clipscore",))
    config = AnnotateConfig(clean_top=top, scores=path, steps=1, draws=1, accept_indistinguishable=True)
    manifest = annotate(pool, pool.parent / "m.parquet", config, device="cpu", reporter=Reporter(quiet=True))
    decided = pool.parent / "t.parquet"
    rethreshold(manifest, decided, Rule(fixed=1.0), reporter=Reporter(quiet=True))
    scored = pq.read_table(path)
    for found in (pq.read_table(manifest), pq.read_table(decided)):
        for name in ("clipscore", "clip_embedding", "phash", "near_duplicate_of"):
            assert found[name].to_pylist() == scored[name].to_pylist(), name
            assert found.schema.field(name).type == scored.schema.field(name).type
    assert query(manifest, "SELECT count(clip_embedding) AS n FROM usable(80)")["n"].to_pylist() == [28]
    clean = query(manifest, "SELECT clipscore FROM manifest WHERE role = 'clean'")["clipscore"]
    assert clean.null_count == 0


def test_weights_of_the_one_network_of_both(little: dict[str, ClipConfig]) -> None:
    for name in ("clipscore", "clip_embedding"):
        assert ScoreConfig(by=(name,), weights={name: "f"}).clip == ClipConfig()
    with pytest.raises(UserError, match="by one network"):
        ScoreConfig(by=("clipscore", "clip_embedding"), weights={"clipscore": "f", "clip_embedding": "g"})
    for name in ("clipscore", "clip_embedding"):
        with pytest.raises(UserError, match=f"--weights {name}=nowhere.pt: there is no such file"):
            load_networks(ScoreConfig(by=(name,), weights={name: "nowhere.pt"}), CPU)
