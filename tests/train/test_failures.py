"""What goes wrong in a run ends it in one clear line and harms no checkpoint; the same command continues."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ambient.schemas.errors import UserError
from ambient.train import checkpoint, loop
from ambient.train.batches import Batch
from ambient.train.loop import train
from ambient.train.pictures import Stored, open_pictures
from ambient.train.rows import read_rows
from ambient.train.state import parts_of
from small_pool import SHORT, write_pool
from torch import Tensor

CONFIG = replace(SHORT, log_images=8, snapshot_images=24)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(tmp_path_factory.mktemp("failures"))


@pytest.fixture(scope="module")
def undisturbed(manifest: Path, threads: None) -> checkpoint.Checkpoint:
    return last(train(manifest, manifest.parent / "undisturbed", CONFIG, device="cpu").parents[1])


def last(run: Path) -> checkpoint.Checkpoint:
    """The last checkpoint; every one of the run must be whole."""
    return [checkpoint.read(folder, parts_of(CONFIG)) for folder in checkpoint.folders(run)][-1]


def assert_same(a: checkpoint.Checkpoint, b: checkpoint.Checkpoint) -> None:
    assert a.num_images == b.num_images == 96
    for part in parts_of(CONFIG):
        for name, tensor in a.parts[part].items():
            assert torch.equal(tensor, b.parts[part][name]), (part, name)


@pytest.mark.parametrize(
    "where", ["config.json", "metrics.jsonl", "samples/", "optimizer.saf", "state.json", "-0.05.saf", "-0.1.saf"]
)
def test_a_full_disk(
    where: str, manifest: Path, undisturbed: checkpoint.Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/dev/full stands for the file that no longer fits, from the middle of the run on."""
    run, steps = tmp_path / "run", iter(range(100))
    if where != "config.json":
        train(manifest, run, CONFIG, device="cpu", stop=lambda: next(steps) == 4)
    opened = Path.open

    def full(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return opened(Path("/dev/full") if where in str(path) and mode[0] != "r" else path, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(UserError, match=f"the disk that holds {run}.* is full: free some space") as caught:
            train(manifest, run, CONFIG, device="cpu")
    assert "\n" not in str(caught.value)
    assert not list(run.rglob("*.partial"))
    train(manifest, run, CONFIG, device="cpu")
    assert_same(last(run), undisturbed)
    assert len(list((run / "ema").iterdir())) == 2 * (5 if where != "config.json" else 4)  # the stop stored one more


def test_a_full_disk_ends_the_run_at_once(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the checkpoint after the next, which may be hours later."""

    failed, asked = threading.Event(), []

    def full(run: Path, saved: checkpoint.Checkpoint, *, keep: int) -> Path:
        failed.set()
        raise UserError("full")

    def stop() -> bool:
        asked.append(1)
        if len(asked) == 4:  # the checkpoint of three steps is being written
            failed.wait(10)
            time.sleep(0.1)
        return False

    monkeypatch.setattr(checkpoint, "write", full)
    with pytest.raises(UserError, match="full"):
        train(manifest, tmp_path / "run", CONFIG, device="cpu", stop=stop)
    assert len(asked) == 4


def test_a_loss_that_is_not_finite_names_step_and_rows_and_saves_nothing(manifest: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, lr=1e12, warmup_images=0, decay=0.0, snapshot_images=96)
    with pytest.raises(
        UserError, match=r"not finite in step \d+ .*for \d of 8 pictures \(0\d\d.png at sigma"
    ) as caught:
        train(manifest, tmp_path / "run", config, device="cpu")
    assert "\n" not in str(caught.value)
    assert checkpoint.folders(tmp_path / "run") == []


def test_a_picture_that_is_not_finite_is_named(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_hole(*args: Any, **kwargs: Any) -> Stored:
        pixels = open_pictures(read_rows(manifest), torch.device("cpu")).gather(torch.arange(12)) / 255.0
        pixels[5, 0, 3, 3] = math.nan
        return Stored(pixels=pixels)

    monkeypatch.setattr(loop, "open_pictures", with_a_hole)
    with pytest.raises(
        UserError, match=r"in step \d+ .* for [12] of 8 pictures \(005.png .*\): values in 005.png are not"
    ):
        train(manifest, tmp_path / "run", replace(CONFIG, num_images=960), device="cpu")
    assert all(checkpoint.read(folder, parts_of(CONFIG)) for folder in checkpoint.folders(tmp_path / "run"))


def test_weights_that_are_not_finite_are_not_saved(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the last step before a checkpoint is finite, and its gradient is not."""
    computed = loop.loss_of

    def spoilt(state: Any, *args: Any) -> dict[str, Tensor]:
        losses = computed(state, *args)
        if state.num_images == 40:
            losses["trained"].register_hook(lambda gradient: gradient * math.nan)
        return losses

    monkeypatch.setattr(loop, "loss_of", spoilt)
    run = tmp_path / "run"
    with pytest.raises(UserError, match=f"weights are not finite after 48 pictures: .* last good .* {run}.*000000024$"):
        train(manifest, run, CONFIG, device="cpu")
    assert [folder.name for folder in checkpoint.folders(run)] == ["000000000024"]


def no_room(message: str, at_most: int) -> Callable[..., dict[str, Tensor]]:
    """``loss_of`` on a device that has no room for more than ``at_most`` pictures from step 4 on."""
    computed = loop.loss_of

    def loss_of(state: Any, batch: Batch, *args: Any) -> dict[str, Tensor]:
        if state.num_images >= 32 and len(batch.indices) > at_most:
            raise torch.OutOfMemoryError(message) if "GiB" in message else RuntimeError(message)
        return computed(state, batch, *args)

    return loss_of


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_too_little_memory_in_a_step(
    message: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(loop, "loss_of", no_room(message, 3))
    for micro_batch, now in ((None, 8), (4, 4)):
        with pytest.raises(UserError, match="has too little memory for step 4 ") as caught:
            train(manifest, run, replace(CONFIG, micro_batch=micro_batch), device="cpu")
        assert str(caught.value) == (
            f"cpu has too little memory for step 4 (after 32 pictures), {now} pictures at a time: "
            f"the same command with `--set micro_batch={now // 2}` continues, at less speed"
        )
        assert last(run).num_images == 24
    train(manifest, run, replace(CONFIG, micro_batch=2), device="cpu")
    assert last(run).num_images == 96


@pytest.mark.gpu
def test_too_little_memory_on_a_gpu(manifest: Path, tmp_path: Path) -> None:
    """A real one: 128 MiB are left to the process."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    network = replace(CONFIG.network, channels=64)
    config = replace(CONFIG, num_images=16_384, batch_size=4_096, snapshot_images=4_096, network=network)
    run, whole = tmp_path / "run", torch.cuda.get_device_properties(0).total_memory
    train(manifest, run, replace(config, micro_batch=64), device="cuda", stop=stop_after(2))
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**27) / whole)
    try:
        with pytest.raises(UserError, match=r"cuda.* has too little memory for step 2 .* `--set micro_batch=2048`"):
            train(manifest, run, config, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert last(run).num_images == 8_192
    train(manifest, run, replace(config, micro_batch=64), device="cuda")
    assert last(run).num_images == 16_384


def stop_after(steps: int) -> Callable[[], bool]:
    asked = iter(range(steps))
    return lambda: next(asked, None) is None


def test_too_little_memory_for_one_picture(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "loss_of", no_room("out of memory", 0))
    with pytest.raises(
        UserError, match=r"1 pictures at a time: train on more GPUs with `--set sharding=fsdp`, or a sm"
    ):
        train(manifest, tmp_path / "run", replace(CONFIG, micro_batch=1), device="cpu")


def test_too_little_memory_for_the_network(manifest: Path, tmp_path: Path) -> None:
    """A real one: 2^40 channels."""
    config = replace(CONFIG, network=replace(CONFIG.network, channels=1 << 40))
    with pytest.raises(UserError, match="cpu has too little memory for the weights, their moments and averages: train"):
        train(manifest, tmp_path / "run", config, device="cpu")


def test_errors_of_the_program_keep_their_type(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "loss_of", no_room("shapes do not match", 0))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(manifest, tmp_path / "run", CONFIG, device="cpu")
