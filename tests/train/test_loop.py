"""Training as a whole: resuming is bit for bit on a CPU, whatever ended the run, and wrong use is one clear line."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ambient.curate.reporter import Reporter
from ambient.schemas.errors import UserError
from ambient.schemas.manifest import METADATA_KEY, read_metadata
from ambient.schemas.space import Space
from ambient.train import checkpoint, loop
from ambient.train.config import TrainConfig
from ambient.train.loop import build_sampler, train
from ambient.train.monitor import band_names
from ambient.train.networks.unet import UNetConfig
from ambient.train.plan import describe
from ambient.train.rows import read_rows
from ambient.train.run import Progress, spoken
from ambient.train.state import build_denoiser, parts_of
from small_pool import write_pool

CONFIG = TrainConfig(
    num_images=240,
    batch_size=8,
    lr=1e-3,
    warmup_images=8,
    log_images=24,
    sample_images=120,
    snapshot_images=48,
    sample_count=2,
    network=UNetConfig(channels=8, multipliers=(1, 2), blocks=1, dropout=0.1),
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(tmp_path_factory.mktemp("loop"))


@pytest.fixture(scope="module")
def undisturbed(manifest: Path, threads: None) -> Path:
    """The folder of a whole run."""
    train(manifest, manifest.parent / "undisturbed", CONFIG, device="cpu")
    return manifest.parent / "undisturbed"


def assert_same_weights(a: Path, b: Path) -> None:
    """The same last checkpoint, bit for bit."""
    (left, right) = (checkpoint.read(checkpoint.folders(run)[-1], parts_of(CONFIG)) for run in (a, b))
    assert left.num_images == right.num_images == 240
    for part in parts_of(CONFIG):
        assert left.parts[part].keys() == right.parts[part].keys()
        for name, tensor in left.parts[part].items():
            assert torch.equal(tensor, right.parts[part][name]), (part, name)


def figures(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["images_per_s"]
    return lines


def test_a_run_leaves_what_it_promises(manifest: Path, undisturbed: Path) -> None:
    assert [f.name for f in checkpoint.folders(undisturbed)] == ["000000000192", "000000000240"]
    assert sorted(f.name for f in (undisturbed / "samples").iterdir()) == ["000000000120.png", "000000000240.png"]
    lines = figures(undisturbed)
    assert [line["images"] for line in lines] == list(range(24, 241, 24))
    assert lines[-1]["lr"] == pytest.approx(CONFIG.lr_at(232))
    about = json.loads((undisturbed / "config.json").read_text())
    assert TrainConfig.from_json(about["config"]) == CONFIG
    assert about["manifest"] == str(manifest)
    assert not list(undisturbed.rglob("*.partial"))


def test_stopping_and_continuing_changes_nothing(manifest: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Stops every seven steps, between checkpoints and between lines of the log, until the run is finished."""
    run = tmp_path / "run"
    for end in (56, 112, 168, 224, 240):
        steps = iter(range(8))
        newest = train(manifest, run, CONFIG, device="cpu", workers=0, stop=lambda steps=steps: next(steps) == 7)
        assert int(newest.name) == end
    assert_same_weights(run, undisturbed)
    seen = [line["images"] for line in figures(run)]
    assert seen == sorted({*range(24, 241, 24), 56, 112, 168, 224})


def test_stopping_before_the_first_step_can_be_continued(manifest: Path, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(manifest, run, CONFIG, device="cpu", stop=lambda: True).name == "000000000000"
    train(manifest, run, CONFIG, device="cpu")
    assert_same_weights(run, undisturbed)


SCRIPT = """
import sys, time, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[3])
from test_loop import CONFIG
from ambient.train.loop import build_sampler, train
def slowly():
    time.sleep(0.02)
    return False
train(Path(sys.argv[1]), Path(sys.argv[2]), CONFIG, device="cpu", stop=slowly)
"""


def test_sigkill_and_the_same_command_give_the_same_weights(manifest: Path, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    here = Path(__file__)
    environment = {"PYTHONPATH": os.pathsep.join([str(here.parent), *sys.path]), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", SCRIPT, str(manifest), str(run), str(here.parent)]
    process = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "000000000096").exists():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.11)  # into the steps after the checkpoint
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert checkpoint.folders(run)[-1].name < "000000000240"
    train(manifest, run, CONFIG, device="cpu")
    assert_same_weights(run, undisturbed)
    assert figures(run) == figures(undisturbed)


def test_a_damaged_checkpoint_is_passed_over_and_trained_again(
    manifest: Path, tmp_path: Path, undisturbed: Path
) -> None:
    run = tmp_path / "run"
    train(manifest, run, CONFIG, device="cpu")
    weights = run / "checkpoints" / "000000000240" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    told: list[Progress] = []
    train(manifest, run, CONFIG, device="cpu", report=told.append)
    assert "is damaged" in told[0].message
    assert "continues: 192 of 240" in told[1].message
    assert_same_weights(run, undisturbed)
    assert figures(run) == figures(undisturbed)


def test_a_finished_run_says_so_and_does_nothing(manifest: Path, undisturbed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    told: list[Progress] = []
    newest = train(manifest, undisturbed, CONFIG, device="cpu", report=told.append)
    assert newest.name == "000000000240"
    assert [p.message for p in told] == [f"{undisturbed} is finished: 240 of 240 pictures"]
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before


def test_a_run_whose_learning_rate_does_not_end_can_be_made_longer(manifest: Path, tmp_path: Path) -> None:
    long = replace(CONFIG, decay=0.0)
    train(manifest, tmp_path / "at once", long, device="cpu")
    train(manifest, tmp_path / "twice", replace(long, num_images=120), device="cpu")
    train(manifest, tmp_path / "twice", long, device="cpu")
    assert_same_weights(tmp_path / "twice", tmp_path / "at once")
    short = replace(CONFIG, num_images=120)
    train(manifest, tmp_path / "decayed", short, device="cpu")
    with pytest.raises(UserError, match=r"was trained with num_images = 120, not 240"):
        train(manifest, tmp_path / "decayed", CONFIG, device="cpu")


def test_another_configuration_or_manifest_is_refused(manifest: Path, undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"was trained with lr = 0.001, not 0.5"):
        train(manifest, undisturbed, replace(CONFIG, lr=0.5), device="cpu")
    wider = replace(CONFIG, network=replace(CONFIG.network, channels=16))
    with pytest.raises(UserError, match=r"network.channels = 8, not 16"):
        train(manifest, undisturbed, wider, device="cpu")
    with pytest.raises(UserError, match=r"ema_stds = \[0.05, 0.1\], not \[0.05, 0.1, 0.15\]"):  # it is not damaged
        train(manifest, undisturbed, replace(CONFIG, ema_stds=(0.05, 0.1, 0.15)), device="cpu")
    with pytest.raises(UserError, match=r"was trained with lr = 0.001, not 0.5"):
        describe(manifest, replace(CONFIG, lr=0.5), out=undisturbed)
    assert describe(manifest, CONFIG, out=undisturbed)["done"] == 240
    with pytest.raises(UserError, match="another manifest"):
        train(write_pool(tmp_path, sigma_min=[0.0] * 12), undisturbed, CONFIG, device="cpu")


@pytest.mark.parametrize("target", ["ambient", "plain"])
def test_loss_falls(manifest: Path, tmp_path: Path, target: str) -> None:
    told: list[Progress] = []
    config = replace(CONFIG, num_images=2400, log_images=240, snapshot_images=2400, sample_images=2400, target=target)
    train(manifest, tmp_path / "run", config, device="cpu", report=told.append)
    losses = [p.losses.loss for p in told if p.losses]
    assert losses[0] > 0.8
    assert losses[-1] < 0.7 * losses[0]
    floors = [p.losses.floor for p in told if p.losses]
    assert all(f == 0 for f in floors) == (target == "plain")


def test_the_clean_set_is_a_matter_of_words_not_of_thresholds(tmp_path: Path) -> None:
    path = write_pool(tmp_path, num=5, sigma_min=[0.0, 0.0, 0.0, 0.5, 0.5])
    table, schema = pq.read_table(path), pq.read_schema(path)
    rows = table.to_pylist()
    words = [("clean", "clean"), ("pool", "classifier"), ("pool", "rule"), ("pool", "rule"), ("pool", "classifier")]
    for row, (role, method) in zip(rows, words, strict=True):
        row["role"], row["method"] = role, method
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    found = read_rows(path)
    assert found.clean.tolist() == [True, False, True, False, False]
    assert build_sampler(found, CONFIG).num_clean == 2
    assert build_sampler(found, replace(CONFIG, keep_composition=False)).num_clean == 0


def test_the_share_of_the_pool_reaches_the_draws(tmp_path: Path) -> None:
    path = write_pool(tmp_path)
    table, metadata = pq.read_table(path), read_metadata(path)
    shares = {}
    for share in (0.1, 0.5):
        told = replace(metadata, sigma_grid=[0.1, 10.0], pool_share=[share, share])
        pq.write_table(table.replace_schema_metadata({METADATA_KEY: told.to_bytes()}), path)
        rows = read_rows(path)
        drawn, sigma = build_sampler(rows, CONFIG).draw(torch.arange(20_000))
        shares[rows.fingerprint] = float((~rows.clean[drawn])[sigma > 0.6].float().mean())
    assert list(shares.values()) == pytest.approx([0.1, 0.5], abs=0.02)
    other = replace(CONFIG, buffer=2.0)  # with which other pictures are usable than those that were counted
    assert build_sampler(rows, other).draw(torch.arange(9))[0].shape == (9,)
    assert build_sampler(rows, other)._pool_share is None is not build_sampler(rows, CONFIG)._pool_share


@pytest.mark.parametrize("damage", [[0.1, 0.5], ["a"], [None], [math.nan], [1.5], "0.5"])
def test_a_damaged_share_of_the_pool_is_one_line(tmp_path: Path, damage: object) -> None:
    path = write_pool(tmp_path)
    metadata = replace(read_metadata(path), sigma_grid=[0.1], pool_share=damage)
    pq.write_table(pq.read_table(path).replace_schema_metadata({METADATA_KEY: metadata.to_bytes()}), path)
    with pytest.raises(UserError, match="is damaged: pool_share"):
        read_rows(path)


def test_progress_is_spoken(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ambient.train.run._NOTABLE_S", 1e9)
    report = spoken(Reporter())
    for _ in range(2):
        train(manifest, tmp_path / "run", replace(CONFIG, num_images=48), device="cpu", report=report)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0].startswith("each of the 4 clean pictures will be seen about ")
    assert lines[1] == "12 pictures of 8x8x1 (0.0 MiB) in the memory of cpu"
    assert [line.partition(",")[0] for line in lines[2:4]] == [f"training: {n} of 48 pictures" for n in (24, 48)]
    assert lines[3].endswith("0 s left")
    newest = tmp_path / "run" / "checkpoints" / "000000000048"
    assert lines[4] == f"trained: {newest}; `ambient sample {tmp_path / 'run'}` draws pictures"
    assert lines[5:] == [f"{tmp_path / 'run'} is finished: 48 of 48 pictures"]


@pytest.mark.parametrize("name", ["a.png", "cats/notes.txt"])
def test_a_folder_of_other_things_is_no_run(manifest: Path, tmp_path: Path, name: str) -> None:
    """A run in a pool would make its own samples pictures of the pool."""
    out = tmp_path / "pool"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_bytes(b"")
    for act in (lambda: train(manifest, out, CONFIG, device="cpu"), lambda: describe(manifest, CONFIG, out=out)):
        with pytest.raises(UserError, match="is no run and holds other things"):
            act()
    assert [path.name for path in out.iterdir()] == [name.partition("/")[0]]


def test_a_log_in_the_folder_of_a_run_does_no_harm(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").write_text("begun\n")
    train(manifest, tmp_path / "run", replace(CONFIG, num_images=24), device="cpu")
    assert (tmp_path / "run" / "log.txt").read_text() == "begun\n"


def test_two_runs_in_one_folder_refuse_each_other(manifest: Path, tmp_path: Path) -> None:
    def again() -> bool:
        with pytest.raises(UserError, match="another run is training in"):
            train(manifest, tmp_path / "run", CONFIG, device="cpu")
        return True

    assert train(manifest, tmp_path / "run", CONFIG, device="cpu", stop=again).name == "000000000000"


def test_conditional_training_runs(tmp_path: Path) -> None:
    manifest = write_pool(tmp_path, labels=[0, 1, None] * 4)
    config = replace(CONFIG, num_images=16, num_classes=2)
    assert train(manifest, tmp_path / "run", config, device="cpu").name == "000000000016"
    with pytest.raises(UserError, match="at least 2"):
        train(manifest, tmp_path / "other", replace(config, num_classes=1), device="cpu")
    assert not (tmp_path / "other").exists()


def test_uncovered_noise_levels_stop_before_training(tmp_path: Path) -> None:
    manifest = write_pool(tmp_path, sigma_min=[2.0] * 12)
    with pytest.raises(UserError, match=r"no picture is usable below sigma 2\.309"):
        train(manifest, tmp_path / "run", CONFIG, device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_asked_for_and_absent(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="PyTorch sees 0 CUDA devices"):
        train(manifest, tmp_path / "run", CONFIG, device="cuda")


def test_unknown_device(manifest: Path, tmp_path: Path) -> None:
    for device in ("gpu", "meta"):
        with pytest.raises(UserError, match="use auto, cpu, cuda"):
            train(manifest, tmp_path / "run", CONFIG, device=device)


def test_what_a_killed_run_left_half_written_is_removed(manifest: Path, tmp_path: Path) -> None:
    steps = iter(range(100))
    train(manifest, tmp_path / "run", CONFIG, device="cpu", stop=lambda: next(steps) == 4)
    (tmp_path / "run" / "checkpoints" / "000000000999.partial").mkdir()
    (tmp_path / "run" / "ema" / "000000000999-0.05.safetensors.partial").touch()
    train(manifest, tmp_path / "run", CONFIG, device="cpu")
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_describe_counts_what_training_would_see(tmp_path: Path) -> None:
    plan = describe(write_pool(tmp_path), CONFIG)
    assert (plan["pictures"], plan["steps"], plan["uncovered_share"]) == (12, 30, 0.0)
    assert list(plan["bands"]) == band_names()
    assert plan["parameters"] == sum(
        w.numel() for w in build_denoiser(CONFIG, Space(resolution=8, channels=1)).parameters()
    )
    assert plan["memory_gib"]["weights"] == round(plan["parameters"] * 24 / 2**30, 2)
    assert plan["memory_gib"]["pictures"] == 0  # 12 of 8x8
    assert plan["bands"]["0-0.1"]["usable"] == 4  # the clean ones
    assert plan["bands"]["1-3"]["usable"] == 12
    assert sum(band["share"] for band in plan["bands"].values()) == pytest.approx(1)
    assert 240 / 12 < plan["clean_repeats"] < 240 / 4
    json.dumps(plan)
    (tmp_path / "spread").mkdir()
    spread = write_pool(tmp_path / "spread", sigma_min=[0, 0, 0, 0, 0.1, 0.2, 0.4, 0.8, 1, 1.5, 2, 3])
    plain, kept = (describe(spread, replace(CONFIG, keep_composition=keeps)) for keeps in (False, True))
    assert kept["clean_repeats"] > 1.2 * plain["clean_repeats"]


@pytest.mark.parametrize("settings", [{}, {"micro_batch": 4}, {"target": "plain", "flip": True}])
def test_nothing_is_compiled_again_after_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict
) -> None:
    """Progress, rate, noise levels and snapshots are no part of what is compiled; a run that continues is like it."""
    monkeypatch.setattr(loop, "compile_network", lambda network: network.compile(dynamic=False, backend="eager"))
    monkeypatch.setattr(loop, "compiled_shown", lambda: loop.shown)
    monkeypatch.setattr(loop, "should_compile", lambda *_: True)
    network = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, dropout=0.1)
    config = TrainConfig(
        num_images=48, batch_size=8, snapshot_images=16, sample_count=2, decay=0.0, network=network, **settings
    )
    manifest, seen = write_pool(tmp_path), torch._dynamo.utils.counters["frames"]
    with torch._dynamo.config.patch(error_on_recompile=True):
        torch._dynamo.reset()
        seen.clear()
        train(manifest, tmp_path / "run", config, device="cpu")
        first = seen["ok"]
        assert first > 0
        torch._dynamo.reset()
        train(manifest, tmp_path / "run", replace(config, num_images=80), device="cpu")
        assert seen["ok"] == 2 * first
