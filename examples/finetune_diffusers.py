"""Fine-tune a diffusers UNet2DModel on a manifest: DDPM's schedule, noise as the target, every threshold obeyed.

    python examples/finetune_diffusers.py manifest.parquet -o model --num-images 200000

The model here is tiny and starts from random weights; put ``UNet2DModel.from_pretrained(...)`` in its place.
"""

import argparse
from pathlib import Path

import torch
from ambient.schemas.space import Space
from ambient.train.loader import Draws, ManifestDataset
from ambient.train.parametrize import eps_target, nearest_timestep, sigma_of_alpha_bar, to_vp
from ambient.train.rows import read_rows
from ambient.train.sampler import LevelSampler
from ambient.train.target import ambient_target
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch.utils.data import DataLoader


def tiny_model(space: Space) -> UNet2DModel:
    return UNet2DModel(
        sample_size=space.resolution,
        in_channels=space.channels,
        out_channels=space.channels,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
    )


def finetune(model: UNet2DModel, schedule: DDPMScheduler, loader: DataLoader, *, lr: float) -> list[float]:
    """Returns the loss of every step."""
    levels = sigma_of_alpha_bar(schedule.alphas_cumprod)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    losses = []
    for batch in loader:
        w0, z, sigma, s, e = (batch[name].to(model.device) for name in ("w0", "z", "sigma", "s", "e"))
        x_t, y = ambient_target(w0, z, sigma, s, e)
        timestep = nearest_timestep(sigma, levels.to(model.device))  # of the very level: the sampler draws no other
        predicted = model(to_vp(x_t, sigma), timestep).sample
        loss = torch.nn.functional.mse_loss(predicted, eps_target(x_t, y, sigma))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if len(losses) % 10 == 0:
            print(f"step {len(losses)}: loss {sum(losses[-10:]) / 10:.4f}")
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--num-images", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()

    rows = read_rows(options.manifest)
    schedule = DDPMScheduler()
    levels = sigma_of_alpha_bar(schedule.alphas_cumprod)  # uniform over timesteps, as DDPM trains
    kept = {"clean": rows.clean, "pool_share": rows.pool_share}
    draws = Draws(LevelSampler(rows.sigma_min, rows.sigma_max, levels=levels, **kept), num_images=options.num_images)
    loader = DataLoader(
        ManifestDataset(rows), sampler=draws, batch_size=options.batch_size, num_workers=options.workers
    )
    torch.manual_seed(0)
    model = tiny_model(rows.space).to("cuda" if torch.cuda.is_available() else "cpu")
    losses = finetune(model, schedule, loader, lr=options.lr)
    DDPMPipeline(unet=model, scheduler=schedule).save_pretrained(options.out)
    print(f"{len(losses)} steps, last loss {losses[-1]:.4f}: saved in {options.out}")


if __name__ == "__main__":
    main()
