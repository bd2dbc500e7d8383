"""Folders, annotated: what else is in the pool must not matter to a damage that is rare in it."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from ambient.curate.annotate import annotate
from ambient.curate.config import AnnotateConfig
from ambient.curate.crossfit import load_classifier
from ambient.curate.curves import p_clean
from ambient.curate.reporter import Reporter
from ambient.curate.threshold import crossing, isotonic, sigma_grid
from ambient.curate.update import classifier_beside
from field_pool import FIELDS, write_fields
from torch import Tensor

MILD, HEAVY, RARE = 0.8, 2.0, 20


def alone() -> float:
    """Median sigma_min that the best possible classifier gives to the mild ones with nothing else in the pool."""

    def best(x: Tensor, sigma: Tensor) -> Tensor:
        return FIELDS.optimal_logit(x, sigma[:1], blurs=[MILD])

    pictures, levels = FIELDS.draw(RARE, blur=MILD, seed=2), torch.tensor(sigma_grid(), dtype=torch.float32)
    p = p_clean(best, pictures, torch.arange(RARE), levels, draws=64).mean(dim=2)
    return float(np.median(crossing(isotonic(p.double().numpy()), sigma_grid(), 0.45)))


@pytest.mark.slow
def test_a_rare_damage_in_a_folder_of_its_own_gets_what_it_gets_alone(tmp_path: Path) -> None:
    """From files to the manifest; one picture in eighty, beside two folders of a heavy blur."""
    pool, manifest = tmp_path / "pool", tmp_path / "m.parquet"
    write_fields(tmp_path / "clean", "whole", 400, seed=1)
    write_fields(pool / "mild", "mild", RARE, blur=MILD, seed=2)
    for seed, folder in ((3, "before"), (4, "rest")):  # so that the mild ones are neither group 0 nor the last
        write_fields(pool / folder, "heavy", 79 * RARE // 2, blur=HEAVY, seed=seed)
    config = AnnotateConfig(clean=tmp_path / "clean", channels=1, steps=100, draws=2)
    annotate(pool, manifest, config, device="cpu", reporter=Reporter(quiet=True))
    assert load_classifier(classifier_beside(manifest))[0].groups == ("before", "mild", "rest")
    found = pq.read_table(manifest, filters=[("source", "=", "mild")])["sigma_min"].to_numpy()
    assert len(found) == RARE
    assert np.median(found) == pytest.approx(alone(), rel=0.15)
