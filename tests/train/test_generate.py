"""Pictures of a run: that a seed decides, whatever else is drawn, killed or shared, and what is refused."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ambient.curate.reporter import Reporter
from ambient.curate.units import to_uint8
from ambient.schemas.errors import UserError
from ambient.schemas.space import Space
from ambient.train import checkpoint, ema
from ambient.train import generate as module
from ambient.train import trained as loading
from ambient.train.config import TrainConfig
from ambient.train.generate import SampleConfig, generate, initial_noise, plan, seeds_of, solve
from ambient.train.loop import train
from ambient.train.networks.unet import UNetConfig
from ambient.train.samples import load_pngs
from ambient.train.solvers import Denoise, heun, sigma_steps
from ambient.train.trained import Trained, load_trained, told
from in_process import run_command
from PIL import Image
from small_pool import write_pool
from torch import Tensor
from trained_run import write_run

CPU = torch.device("cpu")
QUICK = SampleConfig(steps=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three classes and the class "none"."""
    return write_run(tmp_path_factory.mktemp("classes"), num_classes=3, trains_none=True, seed=1)


@pytest.fixture(scope="module")
def seven(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeds 0 to 6, two at a time."""
    folder = tmp_path_factory.mktemp("seven") / "out"
    generate(run, folder, range(7), QUICK, batch_size=2, device="cpu")
    return folder


def test_the_plan_counts_what_is_not_drawn_yet(run: Path, classes: Path, seven: Path, tmp_path: Path) -> None:
    """Heun's method evaluates the denoiser twice a step but for the last; guidance doubles that."""
    found = plan(run, seven, range(10), QUICK)
    assert (found["pictures"], found["pictures_to_draw"], found["denoiser_evaluations"]) == (10, 3, 3 * 7)
    guided = SampleConfig(steps=4, solver="euler", guidance=2.0, labels=(2, 0))
    found = plan(classes, tmp_path / "new.npz", range(5), guided, npz=True)
    assert (found["denoiser_evaluations"], found["labels"]) == (5 * 4 * 2, [2, 0])
    json.dumps(found)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="trained without classes"):
        plan(run, tmp_path / "new", range(5), guided)
    with pytest.raises(UserError, match="drawn with steps = 4, not 5"):
        plan(run, seven, range(10), replace(QUICK, steps=5))


def loaded(run: Path) -> Trained:
    return load_trained(run, CPU, warn=lambda _: None)


def drawn(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def by_hand(trained: Trained, seeds: list[int], condition: list[int] | None) -> Tensor:
    """The same pictures without files, guidance or shares."""
    told = None if condition is None else torch.tensor(condition)
    noise = initial_noise(torch.tensor(seeds), trained.space, 80.0)
    return heun(lambda x, sigma: trained.denoiser(x, sigma, told), noise, sigma_steps(4).float())


def same_but_for_rounding(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and int((a.int() - b.int()).abs().max()) <= 1


def test_initial_noise_depends_on_the_seed_only() -> None:
    space = Space(resolution=8)
    noise = initial_noise(torch.arange(10), space, 80.0)
    assert torch.equal(initial_noise(torch.tensor([7, 3]), space, 80.0), noise[[7, 3]])
    assert float(noise.std()) == pytest.approx(80, rel=0.05)


def test_pictures_are_those_of_the_solver(run: Path, seven: Path) -> None:
    found = load_pngs([seven / f"{seed:06d}.png" for seed in range(7)])
    assert same_but_for_rounding(found, to_uint8(by_hand(loaded(run), list(range(7)), None)))
    assert float(found.float().std()) > 20
    assert len({picture.numpy().tobytes() for picture in found}) == 7
    with Image.open(seven.with_name("out-grid.png")) as grid:
        assert grid.size == (3 * 8, 3 * 8)
    assert sorted(path.name for path in seven.iterdir()) == [*(f"{i:06d}.png" for i in range(7)), "sampling.json"]


def test_a_seed_alone_is_the_same_as_among_64(run: Path) -> None:
    """In float32, to a hundred thousandth: a batch of one takes other kernels than a batch of 64."""
    alone, among = by_hand(loaded(run), [7], None), by_hand(loaded(run), list(range(64)), None)
    assert float((alone[0] - among[7]).abs().max()) < 1e-5 * float(among.abs().max())


def test_other_seeds_other_batches_other_order(run: Path, seven: Path, tmp_path: Path) -> None:
    """Bit for bit while batches have one size; else by rounding to the next of 256 levels."""
    generate(run, tmp_path / "a", [6, 1, 4], QUICK, batch_size=2, device="cpu")
    assert drawn(tmp_path / "a").items() < drawn(seven).items()
    generate(run, tmp_path / "b", [6, 1, 4], QUICK, batch_size=64, device="cpu")
    names = [f"{seed:06d}.png" for seed in (1, 4, 6)]
    b, c = (load_pngs([folder / name for name in names]) for folder in (tmp_path / "b", seven))
    assert same_but_for_rounding(b, c)


def test_every_batch_is_full(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the last one would take other kernels, and its pictures depend on where the others end."""
    sizes: list[int] = []
    real = module.solve

    def spied(denoise: Denoise, space: Space, seeds: Tensor, config: SampleConfig) -> Tensor:
        sizes.append(len(seeds))
        return real(denoise, space, seeds, config)

    monkeypatch.setattr(module, "solve", spied)
    generate(run, tmp_path / "out", range(7), QUICK, batch_size=3, device="cpu")
    (tmp_path / "out" / "000004.png").unlink()
    generate(run, tmp_path / "out", range(7), QUICK, batch_size=3, device="cpu")
    assert sizes == [3, 3, 3, 3]


def test_ranks_share_the_seeds(run: Path, seven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    counts = []
    for rank in ("1", "2", "0"):
        monkeypatch.setenv("RANK", rank)
        generate(run, tmp_path / "out", range(7), QUICK, batch_size=2, device="cpu")
        counts.append(len(drawn(tmp_path / "out")))
    assert counts == [2, 4, 7]
    assert drawn(tmp_path / "out") == drawn(seven)
    monkeypatch.setenv("RANK", "9")
    monkeypatch.setenv("WORLD_SIZE", "10")
    generate(run, tmp_path / "few", range(7), QUICK, device="cpu")
    assert drawn(tmp_path / "few") == {}


def test_the_first_rank_waits_for_the_others_and_shows_the_first_seeds(
    run: Path, seven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, said, reporter = tmp_path / "out", [], Reporter()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(reporter, "say", lambda message: said.append((message, len(drawn(out)))))
    monkeypatch.setattr(module.time, "sleep", lambda _: rank(1))

    def rank(number: int) -> Path:
        monkeypatch.setenv("RANK", str(number))
        return generate(run, out, range(7), QUICK, batch_size=2, device="cpu", reporter=reporter)

    grid = rank(0)  # waits for rank 1, which "arrives" then
    assert [count for message, count in said if "7 pictures in" in message] == [7]
    assert grid.read_bytes() == seven.with_name("out-grid.png").read_bytes()


def test_a_continued_run_draws_what_is_missing(run: Path, seven: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    generate(run, out, range(7), QUICK, batch_size=2, device="cpu")
    kept = (out / "000002.png").stat().st_mtime_ns
    (out / "000003.png").unlink()
    (out / "000005.png").write_bytes((out / "000005.png").read_bytes()[:-20])
    generate(run, out, range(7), QUICK, batch_size=2, device="cpu")
    assert drawn(out) == drawn(seven)
    assert (out / "000002.png").stat().st_mtime_ns == kept
    generate(run, out, [5, 1234], QUICK, batch_size=2, device="cpu")
    assert sorted(set(drawn(out)) - set(drawn(seven))) == ["001000/001234.png"]


def test_sigkill_leaves_no_half_file_and_costs_little(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [str(run), "-o", str(out), "--seeds", "0-199", "--batch", "2", "--steps", "40", "--device", "cpu"]
    command = [sys.executable, "-m", "ambient.cli", "sample", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        until = time.monotonic() + 60
        while len(list(out.glob("*.png"))) < 6:
            assert running.poll() is None, running.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
    before = drawn(out)
    assert 6 <= len(before) < 200
    load_pngs(out / name for name in before)
    seeds = range(len(before) + 3)
    generate(run, out, seeds, SampleConfig(steps=40), batch_size=2, device="cpu")
    generate(run, tmp_path / "undisturbed", seeds, SampleConfig(steps=40), batch_size=2, device="cpu")
    assert drawn(out) == drawn(tmp_path / "undisturbed")
    assert not list(out.rglob("*.partial"))


def test_classes_take_turns(classes: Path, tmp_path: Path) -> None:
    seeds = [0, 1, 5, 6]
    for labels, expected in ((None, [0, 1, 2, 0]), ((2,), [2] * 4), ((2, 0), [2, 0, 0, 2])):
        out = tmp_path / str(labels)
        generate(classes, out, seeds, SampleConfig(steps=4, labels=labels), device="cpu")
        found = load_pngs([out / f"{seed:06d}.png" for seed in seeds])
        assert same_but_for_rounding(found, to_uint8(by_hand(loaded(classes), seeds, expected)))
    assert drawn(tmp_path / "None")["000001.png"] != drawn(tmp_path / "(2,)")["000001.png"]


def guided_by_hand(main: Trained, guide: Trained, guide_condition: Tensor | None, scale: float) -> Tensor:
    told = torch.tensor([0, 1, 2])

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        worse = guide.denoiser(x, sigma, guide_condition)
        return worse + scale * (main.denoiser(x, sigma, told) - worse)

    return to_uint8(heun(denoise, initial_noise(torch.arange(3), main.space, 80.0), sigma_steps(4).float()))


def test_guidance_by_the_class_none(classes: Path, tmp_path: Path) -> None:
    generate(classes, tmp_path / "out", range(3), SampleConfig(steps=4, guidance=2.5), device="cpu")
    found = load_pngs([tmp_path / f"out/{seed:06d}.png" for seed in range(3)])
    main = loaded(classes)
    assert same_but_for_rounding(found, guided_by_hand(main, main, None, 2.5))
    assert not same_but_for_rounding(found, guided_by_hand(main, main, None, 1.0))


@pytest.mark.parametrize("num_classes", [0, 3])
def test_guidance_by_another_run(classes: Path, tmp_path: Path, num_classes: int) -> None:
    """Unconditional, it hears no class; conditional, it hears the same one (autoguidance)."""
    guide = write_run(tmp_path / "guide", num_classes=num_classes, seed=5)
    config = SampleConfig(steps=4, guidance=2.0)
    generate(classes, tmp_path / "out", range(3), config, guide=guide, device="cpu")
    found = load_pngs([tmp_path / f"out/{seed:06d}.png" for seed in range(3)])
    told = torch.tensor([0, 1, 2]) if num_classes else None
    assert same_but_for_rounding(found, guided_by_hand(loaded(classes), loaded(guide), told, 2.0))


def test_npz_of_two_ranks_is_that_of_one(classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert generate(classes, tmp_path / "one.npz", [3, 1, 8, 4], QUICK, npz=True, device="cpu") == tmp_path / "one.npz"
    monkeypatch.setenv("WORLD_SIZE", "2")
    started = []
    monkeypatch.setattr(module.time, "sleep", lambda _: started.append(rank(1)))

    def rank(number: int) -> None:
        monkeypatch.setenv("RANK", str(number))
        generate(classes, tmp_path / "two.npz", [3, 1, 8, 4], QUICK, npz=True, device="cpu")

    rank(0)  # waits for rank 1, which "arrives" then
    assert len(started) == 1
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        assert one["arr_0"].shape == (4, 8, 8, 3)
        assert np.abs(one["arr_0"].astype(int) - two["arr_0"]).max() <= 1
        assert one["seed"].tolist() == two["seed"].tolist() == [3, 1, 8, 4]
        assert one["label"].tolist() == two["label"].tolist() == [0, 1, 2, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.npz", "two.npz"]
    written = (tmp_path / "two.npz").stat().st_mtime_ns
    rank(0)
    assert (tmp_path / "two.npz").stat().st_mtime_ns == written
    with pytest.raises(UserError, match="other seeds"):
        generate(classes, tmp_path / "two.npz", [3], QUICK, npz=True, device="cpu")


def test_latents_go_into_an_npz_only(tmp_path: Path) -> None:
    space = Space(resolution=8, channels=4, kind="latent", vae="some-vae")
    run = write_run(tmp_path / "run", space=space)
    with pytest.raises(UserError, match=r"latents of some-vae.*--npz"):
        generate(run, tmp_path / "out", range(2), QUICK, device="cpu")
    with pytest.raises(UserError, match=r"latents of some-vae.*--npz"):
        plan(run, tmp_path / "out", range(2), QUICK)
    for _ in range(2):
        generate(run, tmp_path / "out.npz", range(2), QUICK, npz=True, device="cpu")
        (tmp_path / "out.npz.parts").mkdir()  # as a call that was killed before it had removed them leaves it
    generate(run, tmp_path / "out.npz", range(2), QUICK, npz=True, device="cpu")
    with np.load(tmp_path / "out.npz") as arrays:
        expected = by_hand(loaded(run), [0, 1], None).permute(0, 2, 3, 1)
        np.testing.assert_allclose(arrays["arr_0"], expected, rtol=1e-4, atol=1e-4)
        assert arrays["label"].tolist() == [-1, -1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npz", "run"]


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_folder_of_others_is_not_removed(run: Path, tmp_path: Path, is_packed: bool) -> None:
    npz, notes = tmp_path / "out.npz", tmp_path / "out.npz.parts" / "notes.txt"
    if is_packed:
        generate(run, npz, range(2), QUICK, npz=True, device="cpu")
    notes.parent.mkdir()
    notes.write_text("mine")
    for draw in (plan, partial(generate, device="cpu")):
        with pytest.raises(UserError, match=r"out\.npz\.parts holds files that were not written .*another file"):
            draw(run, npz, range(2), QUICK, npz=True)
    assert [path.name for path in notes.parent.iterdir()] == ["notes.txt"]
    assert npz.exists() == is_packed
    notes.unlink()
    generate(run, npz, range(2), QUICK, npz=True, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["out.npz"]


def refused(
    match: str, run: Path, tmp_path: Path, seeds: list[int], guide: Path | None = None, **fields: object
) -> None:
    with pytest.raises(UserError, match=match) as caught:
        generate(run, tmp_path / "out", seeds, SampleConfig(**fields), guide=guide, device="cpu")  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_refusals(run: Path, classes: Path, tmp_path: Path) -> None:
    two = write_run(tmp_path / "two", num_classes=2)
    grey = write_run(tmp_path / "grey", space=Space(resolution=8, channels=1))
    refused("no checkpoint yet", tmp_path / "none", tmp_path, [0])
    refused("must be a seed", run, tmp_path, [])
    refused("named twice", run, tmp_path, [1, 2, 1])
    refused("seeds lie between", run, tmp_path, [-1])
    refused("seeds lie between", run, tmp_path, [2**63])
    refused("heun, euler", run, tmp_path, [0], solver="rk4")
    refused("steps", run, tmp_path, [0], steps=0)
    refused("must be a number", run, tmp_path, [0], guidance=float("nan"))
    refused("trained without classes", run, tmp_path, [0], labels=(0,))
    refused("no class 3", classes, tmp_path, [0], labels=(1, 3))
    refused("no label", classes, tmp_path, [0], labels=())
    refused("trained without classes.*--guide", run, tmp_path, [0], guidance=2.0)
    refused("label_dropout", two, tmp_path, [0], guidance=2.0)
    refused("changes nothing", run, tmp_path, [0], guide=two)
    refused("cannot guide", run, tmp_path, [0], guide=grey, guidance=2.0)
    refused("same or none", classes, tmp_path, [0], guide=two, guidance=2.0)


def test_a_run_trained_with_label_dropout_can_be_guided(tmp_path: Path) -> None:
    manifest = write_pool(tmp_path, labels=[0, 1] * 6)
    network = UNetConfig(channels=8, multipliers=(1,), blocks=1)
    for dropout in (0.0, 0.5):
        config = TrainConfig(
            num_images=16, batch_size=8, sample_count=2, num_classes=2, label_dropout=dropout, network=network
        )
        run = train(manifest, tmp_path / f"run{dropout}", config, device="cpu").parents[1]
        assert loaded(run).trains_none == (dropout > 0)
    generate(run, tmp_path / "out", range(4), SampleConfig(steps=2, guidance=3.0), device="cpu")
    assert len(drawn(tmp_path / "out")) == 4


def test_pictures_of_other_settings_are_not_mixed(run: Path, seven: Path) -> None:
    before = drawn(seven)
    with pytest.raises(UserError, match="steps = 4, not 5"):
        generate(run, seven, range(9), SampleConfig(steps=5), device="cpu")
    with pytest.raises(UserError, match="another checkpoint"):
        generate(write_run(seven.with_name("other"), seed=9), seven, range(9), QUICK, device="cpu")
    assert drawn(seven) == before


def test_the_seeds_that_options_name() -> None:
    assert len(seeds_of(50_000, "0-49999")) == 50_000
    assert list(seeds_of(3, None)) == [0, 1, 2]
    assert len(seeds_of(None, None)) == 64
    assert len(seeds_of(0, None)) == 0  # which generate refuses
    with pytest.raises(UserError, match="--seeds names 2"):
        seeds_of(3, "0-1")
    with pytest.raises(UserError, match="at most 100,000,000 at a time"):
        seeds_of(None, "0-9223372036854775807")


def test_too_little_memory_is_one_line(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_memory(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")

    monkeypatch.setattr(module, "solve", without_memory)
    with pytest.raises(UserError, match=r"for drawing 8 pictures at a time: .*`--batch 2` continues"):
        generate(run, tmp_path / "out", range(9), QUICK, batch_size=8, device="cpu")
    with pytest.raises(UserError, match=r"cpu has too little memory for drawing a picture: .* machine") as told:
        generate(run, tmp_path / "out", range(9), QUICK, batch_size=1, device="cpu")
    assert "--batch" not in str(told.value)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="for the weights of the network: "):
        patch.setattr(loading, "build_denoiser", without_memory)
        generate(run, tmp_path / "out", range(9), QUICK, device="cpu")
    gpu, quiet = torch.device("meta"), Reporter(quiet=True)
    with pytest.raises(UserError, match=r"for drawing a picture: .*--device cpu.* GPU") as told:
        module._draw_into(tmp_path / "out", ".png", [0], without_memory, 8, gpu, quiet, nested=False)
    assert "--batch" not in str(told.value)


def test_a_full_disk_is_one_line(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room, real = [0], Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(28, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    for files, left in enumerate([[], ["sampling.json"]]):
        room[0] = files
        with pytest.raises(UserError, match=r"disk that holds .* is full"):
            generate(run, tmp_path / "out", range(2), QUICK, device="cpu")
        assert [path.name for path in (tmp_path / "out").iterdir()] == left


def test_pictures_of_an_average_of_another_length(tmp_path: Path) -> None:
    """The length that was stored gives its own weights again, but for half precision; another gives others."""
    run = write_run(tmp_path / "run")
    averages = checkpoint.read(checkpoint.folders(run)[-1], ("ema0", "ema1")).parts
    for part, std in (("ema0", 0.05), ("ema1", 0.1)):
        ema.store(run, 100, std, averages[part])
    seeds = torch.arange(2)
    pictures = {}
    for std in (None, 0.05, 0.1):
        trained = load_trained(run, CPU, warn=print, ema_std=std)
        pictures[std] = solve(told(trained.denoiser, None, trained.config), trained.space, seeds, SampleConfig())
    torch.testing.assert_close(pictures[0.05], pictures[None], rtol=0.02, atol=0.02)
    assert float((pictures[0.1] - pictures[None]).abs().max()) > 0.1
    with pytest.raises(UserError, match="must lie in"):
        load_trained(run, CPU, warn=print, ema_std=0.9)


@pytest.fixture(scope="module")
def growing(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with classes, with averages stored after 50 pictures, when it was like another run, and after 100."""
    folder = tmp_path_factory.mktemp("growing")
    run = write_run(folder / "run", num_classes=3, trains_none=True, seed=1)
    earlier = write_run(folder / "earlier", num_classes=3, trains_none=True, seed=5)
    for moment, of in ((50, earlier), (100, run)):
        averages = checkpoint.read(checkpoint.folders(of)[-1], ("ema0", "ema1")).parts
        for part, std in (("ema0", 0.05), ("ema1", 0.1)):
            ema.store(run, moment, std, averages[part])
    return run


def test_a_run_as_it_was_at_an_earlier_moment(growing: Path) -> None:
    trained, earlier = load_trained(growing, CPU, warn=print, at=50), loaded(growing.with_name("earlier"))
    assert (trained.num_images, trained.ema_std) == (50, 0.05)
    assert loaded(growing).num_images == 100
    for name, weight in trained.denoiser.named_parameters():
        torch.testing.assert_close(weight, earlier.denoiser.get_parameter(name), rtol=2e-3, atol=2e-3)
    assert trained.checksum not in (loaded(growing).checksum, earlier.checksum)


def test_guidance_by_the_same_run_at_an_earlier_moment(growing: Path, tmp_path: Path) -> None:
    main, told = loaded(growing), torch.tensor([0, 1, 2])
    for number, (at, std) in enumerate([(50, None), (50, 0.1), (None, 0.1)]):
        config = SampleConfig(steps=4, guidance=2.0, guide_at=at, guide_ema_std=std)
        out = tmp_path / str(number)
        generate(growing, out, range(3), config, guide=growing, device="cpu")
        found = load_pngs([out / f"{seed:06d}.png" for seed in range(3)])
        guide = load_trained(growing, CPU, warn=print, ema_std=std, at=at)
        assert same_but_for_rounding(found, guided_by_hand(main, guide, told, 2.0))
    assert len({tuple(drawn(tmp_path / str(number)).values()) for number in range(3)}) == 3
    with pytest.raises(UserError, match=r"drawn with guide_ema_std = None, not 0\.1"):
        generate(growing, tmp_path / "0", range(3), config, guide=growing, device="cpu")


def test_the_command_names_moments_and_lengths(growing: Path, tmp_path: Path) -> None:
    words = ["--guide", growing, "--guide-at", 50, "--guide-ema", 0.1, "--at", 100, "--ema", 0.05, "--guidance", 2]
    common = ["-n", 1, "--steps", 1, "--device", "cpu"]
    assert run_command("sample", growing, "-o", tmp_path / "out", *common, *words) == 0
    how = json.loads((tmp_path / "out" / "sampling.json").read_text())
    assert (how["at"], how["ema_std"], how["guide_at"], how["guide_ema_std"]) == (100, 0.05, 50, 0.1)


def test_moments_and_lengths_that_cannot_be(growing: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def fails(match: str, guide: Path | None = growing, **fields: object) -> None:
        with pytest.raises(UserError, match=match) as caught:
            generate(growing, out, [0], SampleConfig(**{"guidance": 2.0, **fields}), guide=guide, device="cpu")
        assert "\n" not in str(caught.value)

    fails("by the very same weights.*--guide-at")
    fails("by the very same weights", at=50, guide_at=50)
    fails("by the very same weights", ema_std=0.1, guide_ema_std=0.1)
    fails("by the very same weights", guide_at=100)
    fails("name its run, with --guide RUN", guide=None, guide_at=50)
    fails("name its run, with --guide RUN", guide=None, guide_ema_std=0.1)
    fails("no averages stored at 70 pictures: the nearest moments are 50 and 100", guide_at=70)
    fails("no averages stored at 7 pictures", at=7)
    fails("at least 1, not 0", at=0)
    fails("at least 1, not -5", guide_at=-5)
    fails("must lie in", guide_ema_std=0.9)
    fails("changes nothing at guidance 1", guidance=1.0, guide_at=50)
    assert not out.exists()
