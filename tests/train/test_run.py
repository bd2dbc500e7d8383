"""What a run says of itself."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
from ambient.train.checkpoint import Checkpoint
from ambient.train.config import TrainConfig
from ambient.train.loop import train
from ambient.train.networks.unet import UNetConfig
from ambient.train.run import Progress
from ambient.train.state import State
from small_pool import write_pool

CONFIG = TrainConfig(
    num_images=48,
    batch_size=8,
    snapshot_images=16,
    sample_count=0,
    network=UNetConfig(channels=8, multipliers=(1, 2), blocks=1),
)


def test_it_says_how_long_each_checkpoint_stopped_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Progress] = []
    copied = State.to_checkpoint

    def slow(state: State, about: dict[str, Any]) -> Checkpoint:
        time.sleep(0.3 if state.num_images == 32 else 0)
        return copied(state, about)

    monkeypatch.setattr(State, "to_checkpoint", slow)
    train(write_pool(tmp_path), tmp_path / "run", CONFIG, device="cpu", report=told.append)
    said = [re.fullmatch(r"checkpoint of (\d+) pictures: training stood still for ([\d.]+) s", p.message) for p in told]
    seconds = {int(match[1]): float(match[2]) for match in said if match}
    assert seconds[32] >= 0.3
    assert min(seconds.values()) >= 0.1  # of the others nothing is said
