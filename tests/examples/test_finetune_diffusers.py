"""The example with diffusers: it learns, obeys the thresholds at the network's own timesteps, and saves a pipeline."""

import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import ambient
import pytest
import torch
from ambient.schemas.space import Space
from ambient.schemas.usable import usable
from ambient.train.loader import Draw, ManifestDataset
from ambient.train.parametrize import sigma_of_alpha_bar, to_vp, v_target
from ambient.train.rows import Rows, read_rows
from small_pool import write_pool
from torch import Tensor
from torch.testing import assert_close

PATH = Path(ambient.__path__[0]) / "examples" / "finetune_diffusers.py"
SPACE = Space(resolution=16, channels=1)


@pytest.fixture(scope="module")
def example() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = importlib.util.spec_from_file_location("finetune_diffusers", PATH)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    levels = {"sigma_min": [0.0, 0.5, 2.0, 8.0] * 3, "sigma_max": [0.0, 0.05, 0.0, 0.2] * 3}
    return write_pool(tmp_path_factory.mktemp("pool"), space=SPACE, **levels)


@pytest.mark.filterwarnings("ignore")  # of diffusers
def test_it_learns_obeys_and_saves(
    example: ModuleType, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws: list[Draw] = []
    timesteps: list[Tensor] = []
    losses: list[float] = []

    class Spied(ManifestDataset):
        def __getitems__(self, asked: list[Draw]) -> list[dict[str, Tensor]]:
            draws.extend(asked)
            return super().__getitems__(asked)

    def model(space: Space) -> Any:
        unet = tiny(space)
        unet.register_forward_pre_hook(lambda _, inputs: timesteps.append(inputs[1]))
        return unet

    def finetune(*arguments: Any, **options: Any) -> list[float]:
        losses.extend(real(*arguments, **options))
        return losses

    tiny, real = example.tiny_model, example.finetune
    for name, value in (("ManifestDataset", Spied), ("tiny_model", model), ("finetune", finetune)):
        monkeypatch.setattr(example, name, value)
    arguments = ["-o", str(tmp_path / "model"), "--num-images", "1600", "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["finetune_diffusers.py", str(manifest), *arguments])
    example.main()

    rows, seen = read_rows(manifest), torch.cat(timesteps)
    assert len(losses) == 50
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    check_obeyed(example, rows, draws, seen)
    pipeline = example.DDPMPipeline.from_pretrained(tmp_path / "model", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(num_inference_steps=2, output_type="np").images.shape == (1, 16, 16, 1)


def check_obeyed(example: ModuleType, rows: Rows, draws: list[Draw], timesteps: Tensor) -> None:
    """At the noise level of the timestep that the network was given, each picture is usable."""
    levels = sigma_of_alpha_bar(example.DDPMScheduler().alphas_cumprod)
    sigma, row = levels[timesteps].double(), torch.tensor([draw.row for draw in draws])
    assert len(sigma) == 1600
    assert_close(sigma, torch.tensor([draw.sigma for draw in draws], dtype=torch.float64), rtol=0, atol=0)
    assert usable(sigma, rows.sigma_min[row].double(), rows.sigma_max[row].double()).all()
    assert len(timesteps.unique()) > 500
    assert {(float(rows.sigma_min[r]) > 0, bool(level < 1)) for r, level in zip(row, sigma, strict=True)} == {
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    }


def test_the_translation_is_that_of_diffusers(example: ModuleType) -> None:
    schedule = example.DDPMScheduler()
    generator = torch.Generator().manual_seed(0)
    x0, e = (torch.randn(5, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    timestep = torch.tensor([0, 10, 300, 700, 999])
    sigma = sigma_of_alpha_bar(schedule.alphas_cumprod.double())[timestep]
    x_t = x0 + sigma.view(-1, 1, 1, 1) * e
    assert_close(to_vp(x_t, sigma), schedule.add_noise(x0, e, timestep), rtol=1e-6, atol=1e-6)
    assert_close(v_target(x_t, x0, sigma), schedule.get_velocity(x0, e, timestep), rtol=1e-6, atol=1e-6)
