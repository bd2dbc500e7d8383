"""`ambient compare` on pictures of the demo: what it trains, what it records, and that it continues."""

import contextlib
import io
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ambient.curate.annotate import AnnotateConfig, annotate
from ambient.curate.corrupt import corrupt
from ambient.curate.corruptions import parse
from ambient.curate.reporter import Reporter
from ambient.schemas.errors import UserError
from ambient.schemas.manifest import METADATA_KEY, read_metadata
from ambient.schemas.space import Space
from ambient.train import demo, loop
from ambient.train import generate as generate_module
from ambient.train.config import TrainConfig
from ambient.train.evaluate import compare as module
from ambient.train.evaluate import judge as judge_module
from ambient.train.evaluate.arms import ALL, CLEAN, chosen
from ambient.train.evaluate.compare import CompareConfig, compare, plan, table
from ambient.train.evaluate.judge import denoising, moments_of
from ambient.train.evaluate.sources import open_source, read
from ambient.train.rows import read_rows
from ambient.train.state import State
from ambient.train.trained import load_trained
from in_process import run_command
from PIL import Image
from small_pool import write_pool
from torch import Tensor

QUIET = Reporter(quiet=True)
TINY = ["num_images=96", "batch_size=16", "network.channels=8", "network.multipliers=1,2", "sample_count=0"]
ARMS = ["clean", "all", "ambient", "fixed-1.5", "sharp"]
MORE_ARMS = ["clean", "all", "ambient", "soft"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's photographs and damages, fewer of them, annotated in passing."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "PHOTOGRAPHS", ["chelsea", "coffee"])
        demo.cut(folder / "photographs")
    for path in sorted((folder / "photographs").rglob("*.png"))[160:]:
        path.unlink()
    kinds = [parse(name) for name in demo.CORRUPTIONS]
    corrupt(folder / "photographs", folder / "pool", corruptions=kinds, fraction=0.75)
    config = AnnotateConfig(
        clean=folder / "pool" / "clean", resolution=16, steps=5, draws=1, accept_indistinguishable=True
    )
    return annotate(folder / "pool", folder / "manifest.parquet", config, device="cpu", reporter=QUIET)


def config(**changes: object) -> CompareConfig:
    options = {"seeds": 1, "num": 8, "holdout": 0.4, **changes}
    return CompareConfig(train=TrainConfig.from_settings(TINY), **options)


def run_compare(manifest: Path, out: Path, *options: str) -> int:
    """The exit code of the command with TINY settings."""
    settings = [word for setting in TINY for word in ("--set", setting)]
    return run_command("compare", manifest, "-o", out, "--num", "8", "--holdout", "0.4", *options, *settings)


class Begun:
    """What trainings and draws began from while ``watch`` was in force: (W,) first weights, (N, C, R, R) noise."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.noise: list[Tensor] = []

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        step, initial_noise = loop.step, generate_module.initial_noise

        def watched_step(state: State, *arguments: object) -> None:
            if state.num_images == 0:
                self.weights.append(torch.cat([weight.detach().flatten() for weight in state.denoiser.parameters()]))
            step(state, *arguments)

        def watched_noise(*arguments: object) -> Tensor:
            self.noise.append(initial_noise(*arguments))
            return self.noise[-1]

        patch.setattr(loop, "step", watched_step)
        patch.setattr(generate_module, "initial_noise", watched_noise)


@pytest.fixture(scope="module")
def begun() -> Begun:
    """Of the runs of ``finished``."""
    return Begun()


@pytest.fixture(scope="module")
def finished(manifest: Path, begun: Begun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five arms, one seed, by the command line."""
    out = tmp_path_factory.mktemp("cmp") / "cmp"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(out.parent / "cache"))
        begun.watch(patch)
        assert run_compare(manifest, out, "--seeds", "1", "--fixed", "1.5", "--arm", "sharp=sharpness > -2") == 0
    return out


@dataclass(frozen=True, kw_only=True)
class Continued:
    """A comparison that was finished, after a second call of the command with these options."""

    out: Path
    options: tuple[str, ...]
    begun: Begun
    stdout: str


@pytest.fixture(scope="module")
def continued(manifest: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Continued:
    """``finished`` with another seed and another arm."""
    out, options = tmp_path_factory.mktemp("more") / "cmp", ("--seeds", "2", "--arm", "soft=sharpness <= -2")
    begun, stdout = Begun(), io.StringIO()
    shutil.copytree(finished, out)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(stdout):
        patch.setenv("XDG_CACHE_HOME", str(out.parent / "cache"))
        begun.watch(patch)
        assert run_compare(manifest, out, *options) == 0
    return Continued(out=out, options=options, begun=begun, stdout=stdout.getvalue())


def results(out: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((out / "results").glob("*.json"))}


def test_every_arm_is_recorded(finished: Path, manifest: Path) -> None:
    found = results(finished)
    assert set(found) == {f"{arm}-0" for arm in ARMS}
    for result in found.values():
        assert {"frechet", "kernel", "precision", "recall", "memorised"} <= set(result["measures"])
        assert result["config"]["num_images"] == 96
        assert result["config"]["seed"] == 0
        assert [point["images"] for point in result["curve"]] == [32, 48, 64, 80, 96]
        assert all(point["samples"] == 8 for point in result["curve"])
        assert result["curve"][-1]["frechet"]["value"] == pytest.approx(result["measures"]["frechet"]["value"])
        assert len(result["validation"]["mean"]) == len(result["validation"]["sigma"]) == 16
        assert result["reference"] == found["clean-0"]["reference"]
        assert result["memorised_among"] == {"pictures": result["pictures"]}
        assert result["judge_seed"] == 0
        assert result["drawn"] == {"seeds": "0-7", "ema_std": 0.05, "solver": "heun", "steps": 18}
    held = found["clean-0"]["reference"]["pictures"]
    ok = len(read_rows(manifest))
    assert [found[f"{arm}-0"]["pictures"] for arm in ("clean", "all", "ambient")] == [40 - held, ok - held, ok - held]
    usable = {arm: found[f"{arm}-0"]["usable"]["pictures"] for arm in ARMS}
    assert set(usable["clean"]) == {40 - held}
    assert set(usable["all"]) == {ok - held}
    assert usable["fixed-1.5"][0] == 40 - held < usable["fixed-1.5"][-1] == ok - held
    assert usable["clean"] <= usable["ambient"] <= usable["all"]


def test_arms_share_configuration_first_weights_and_noise(finished: Path, begun: Begun) -> None:
    """Each draws at five moments, every time from the noise of the seeds 0 to 7."""
    configs = [result["config"] for result in results(finished).values()]
    assert all(each == configs[0] for each in configs)
    assert len({results(finished)[f"{arm}-0"]["checkpoint"] for arm in ("clean", "all", "ambient")}) == 3
    assert [len(begun.weights), len(begun.noise)] == [len(ARMS), 5 * len(ARMS)]
    for tensors in (begun.weights, begun.noise):
        assert all(torch.equal(tensor, tensors[0]) for tensor in tensors)
        assert float(tensors[0].std()) > 0
    assert begun.noise[0].shape == (8, 3, 16, 16)


def test_what_is_done_stays_when_seeds_and_an_arm_are_added(continued: Continued, finished: Path) -> None:
    before, now = ({path.name: path for path in (out / "results").iterdir()} for out in (finished, continued.out))
    assert all(now[name].stat().st_mtime_ns == path.stat().st_mtime_ns for name, path in before.items())
    assert now.keys() - before.keys() == {
        f"{run}.json" for run in ("soft-0", "clean-1", "all-1", "ambient-1", "soft-1")
    }


def test_seeds_differ(continued: Continued, begun: Begun) -> None:
    """In first weights and in all that follows, not in configuration and noise of samples; arms share these again."""
    found = results(continued.out)
    for arm in MORE_ARMS:
        one, other = found[f"{arm}-0"], found[f"{arm}-1"]
        assert [one["config"].pop("seed"), other["config"].pop("seed")] == [0, 1]
        assert one["config"] == other["config"]
        assert one["checkpoint"] != other["checkpoint"]
        assert one["measures"]["frechet"]["value"] != other["measures"]["frechet"]["value"]
    of_seed_0, *of_seed_1 = continued.begun.weights
    assert torch.equal(of_seed_0, begun.weights[0])
    assert not torch.equal(of_seed_0, of_seed_1[0])
    assert len(of_seed_1) == len(MORE_ARMS)
    assert all(torch.equal(weights, of_seed_1[0]) for weights in of_seed_1)
    assert all(torch.equal(noise, begun.noise[0]) for noise in continued.begun.noise)


def test_what_is_told_is_of_all_seeds(
    continued: Continued, finished: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, lines = results(continued.out), continued.stdout.splitlines()
    rows = {line.split()[0]: line.split() for line in lines[1:5]}
    for arm in MORE_ARMS:
        values = [found[f"{arm}-{seed}"]["measures"]["frechet"]["value"] for seed in (0, 1)]
        assert [rows[arm][1], rows[arm][4]] == ["2", f"{np.mean(values):.4g}"]
    for other in ("clean", "all", "soft"):
        (sentence,) = (line for line in lines[5:] if f" {other}: " in line)
        assert sentence.startswith("ambient ")
        assert sentence.endswith(", 2 seeds)")
    assert (continued.out / "curve.png").read_bytes() != (finished / "curve.png").read_bytes()
    assert run_compare(manifest, continued.out, *continued.options, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((continued.out / "summary.json").read_text())


def test_the_grid_has_a_line_for_each_arm(finished: Path) -> None:
    grid = np.asarray(Image.open(finished / "grid.png"))
    assert grid.shape == (len(ARMS) * 32, 8 * 32, 3)
    for number, arm in enumerate(ARMS):
        row = np.asarray(Image.open(finished / "samples" / f"{arm}-0.png")).repeat(2, axis=0).repeat(2, axis=1)
        np.testing.assert_array_equal(grid[number * 32 : number * 32 + 32], row)


def test_nobody_trains_on_the_held_out(finished: Path, manifest: Path) -> None:
    trained = {uri for arm in ARMS for uri in read_rows(finished / "arms" / f"{arm}.parquet").uris.to_pylist()}
    judge = module.build_judge(manifest, config(), device="cpu", roots=None, workers=0, reporter=QUIET)
    left = len(set(read_rows(manifest).uris.to_pylist()) - trained)
    assert left == judge.reference.moments.num == len(judge.held_out.pixels)
    assert len(judge.taught.pixels) == 40 - left
    assert not set(judge.taught.names.tolist()) & set(judge.held_out.names.tolist())


def test_denoising_is_measured_on_what_was_taught_and_on_what_was_not(finished: Path) -> None:
    for arm in ARMS:
        result = json.loads((finished / "results" / f"{arm}-0.json").read_text())
        assert result["validation"]["sigma"] == result["validation_taught"]["sigma"]
        assert result["validation"]["mean"] != result["validation_taught"]["mean"]


def test_summary_table_and_plots(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert {verdict["other"] for verdict in summary["verdicts"]} == set(ARMS) - {"ambient"}
    assert "95 %" in summary["rule"]
    for name in ("curve", "validation", "usable"):
        with Image.open(finished / f"{name}.png") as plot:
            assert min(plot.size) > 300
    found = list(results(finished).values())
    rows = {row["arm"]: row for row in table(found).to_pylist()}
    assert rows["clean"]["frechet"].startswith(f"{results(finished)['clean-0']['measures']['frechet']['value']:.4g} ")


def test_it_continues(manifest: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the second arm's training: that one goes on, the first is left alone, and the values are the same."""
    out, asked = tmp_path / "cmp", []

    def stop() -> bool:
        asked.append(True)
        return len(asked) > 8

    done = compare(manifest, out, config(), device="cpu", stop=stop, reporter=QUIET)
    assert [result["arm"] for result in done] == ["clean"]
    assert [path.name for path in (out / "runs" / "all-0" / "checkpoints").iterdir()] == ["000000000016"]
    before = (out / "results" / "clean-0.json").stat().st_mtime_ns
    done = compare(manifest, out, config(), device="cpu", reporter=QUIET)
    assert [result["arm"] for result in done] == ["clean", "all", "ambient"]
    assert (out / "results" / "clean-0.json").stat().st_mtime_ns == before
    for name, result in results(out).items():
        assert result["checkpoint"] == results(finished)[name]["checkpoint"]
        assert [point["images"] for point in result["curve"]] == [32, 48, 64, 80, 96]
        assert result["measures"]["frechet"]["value"] == pytest.approx(
            results(finished)[name]["measures"]["frechet"]["value"], rel=1e-6
        )
    monkeypatch.setattr(module, "train", None)  # nothing is left to train
    compare(manifest, out, config(), device="cpu", reporter=QUIET)
    with pytest.raises(UserError, match="another num"):
        compare(manifest, out, config(num=9), device="cpu", reporter=QUIET)
    with pytest.raises(UserError, match=r"another (holdout|reference)"):
        compare(manifest, out, config(holdout=0.5), device="cpu", reporter=QUIET)


def test_another_arm_of_the_same_name_is_refused(manifest: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "results", tmp_path / "cmp" / "results")
    shutil.copy(finished / "compare.json", tmp_path / "cmp")
    shutil.copytree(finished / "samples", tmp_path / "cmp" / "samples")
    with pytest.raises(UserError, match="another arm named sharp"):
        compare(
            manifest, tmp_path / "cmp", config(more=(chosen("sharp", "sharpness < 0"),)), device="cpu", reporter=QUIET
        )


@pytest.mark.parametrize("name", ["compare.json", "results/clean-0.json"])
@pytest.mark.parametrize(("text", "words"), [("{", "is damaged"), ("", "is damaged"), ("null", "was not written by")])
def test_damaged_files_are_one_line(
    manifest: Path, finished: Path, tmp_path: Path, name: str, text: str, words: str
) -> None:
    shutil.copytree(finished, tmp_path / "cmp")
    (tmp_path / "cmp" / name).write_text(text)
    with pytest.raises(UserError, match=rf"{Path(name).name} {words}.* remove it") as error:
        compare(manifest, tmp_path / "cmp", config(), device="cpu", reporter=QUIET)
    assert "\n" not in str(error.value)


def test_an_arm_that_was_begun_is_not_continued_as_another(manifest: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "cmp")
    (tmp_path / "cmp" / "results" / "sharp-0.json").unlink()
    other = config(more=(chosen("sharp", "sharpness < 0"),))
    with pytest.raises(UserError, match="was trained on another manifest"):
        compare(manifest, tmp_path / "cmp", other, device="cpu", reporter=QUIET)


def test_the_denoising_error_is_that_of_the_last_average(finished: Path, manifest: Path) -> None:
    """Not of the earlier averages that the curve is drawn from."""
    judge = module.build_judge(manifest, config(), device="cpu", roots=None, workers=0, reporter=QUIET)
    trained = load_trained(finished / "runs" / "clean-0", torch.device("cpu"), warn=print)
    for name, shown in (("validation", judge.held_out), ("validation_taught", judge.taught)):
        expected = denoising(trained, shown, judge).to_json()
        assert results(finished)["clean-0"][name]["mean"] == pytest.approx(expected["mean"], rel=1e-4)
    assert moments_of(finished / "runs" / "clean-0", trained.config, most=2) == [48, 96]


def test_copies_are_those_of_the_arms_own_pictures(
    finished: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of damaged ones, too: to an arm that has not seen them they are no copies."""
    pool = open_source(manifest, where="role = 'pool'", workers=0, reporter=QUIET).some(8, seed=0)
    pixels, _ = read(pool, pool.space, workers=0, reporter=QUIET)
    monkeypatch.setattr(judge_module, "draw", lambda trained, num, device: pixels[:num])
    judge = module.build_judge(manifest, config(), device="cpu", roots=None, workers=0, reporter=QUIET)
    found = {}
    for arm in (CLEAN, ALL):
        run, path = finished / "runs" / f"{arm.name}-0", finished / "arms" / f"{arm.name}.parquet"
        result = module.record(run, path, arm, 0, judge, workers=0, reporter=QUIET)
        found[arm.name] = result["measures"]["memorised"]["value"]
    assert found["all"] == 1
    assert found["clean"] < 0.5


@pytest.mark.parametrize("where", ["no_such > 1", "width > 1000"])
def test_a_wrong_arm_is_said_before_anything_is_done(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    for name in ("train", "build_judge"):
        monkeypatch.setattr(module, name, None)
    wrong, said = config(more=(chosen("x", where),)), "SQL|arm x: no usable picture"
    with pytest.raises(UserError, match=said):
        plan(manifest, wrong)
    with pytest.raises(UserError, match=said):
        compare(manifest, tmp_path / "cmp", wrong, device="cpu", reporter=QUIET)
    assert run_command("compare", manifest, "-o", tmp_path / "cmp", "--arm", f"x={where}", "--dry-run") == 2


def test_all_arms_are_written_before_the_first_is_trained(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: object, **__: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(module, "train", train)
    with pytest.raises(InterruptedError):
        compare(manifest, tmp_path / "cmp", config(), device="cpu", reporter=QUIET)
    assert {path.stem for path in (tmp_path / "cmp" / "arms").iterdir()} == {"clean", "all", "ambient"}


def test_a_reference_of_too_few_pictures_is_said_before_training(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "train", None)
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((manifest.parent / "pool" / "clean").rglob("*.png"))[:3]:
        shutil.copy(path, few)
    with pytest.raises(UserError, match="few: 3; 8 are needed"):
        plan(manifest, config(reference=few))
    with pytest.raises(UserError, match="few: 3; 8 are needed"):
        compare(manifest, tmp_path / "cmp", config(reference=few), device="cpu", reporter=QUIET)
    for number in range(6):
        (few / f"{number}.png").write_bytes(f"torn {number}".encode())
    with pytest.raises(UserError, match="few: 3; 8 are needed"):
        compare(manifest, tmp_path / "cmp", config(reference=few), device="cpu", reporter=QUIET)
    labelled = write_pool(tmp_path / "labelled", num=10, space=Space(resolution=16), labels=[0, 1] * 5)
    wrong = config(reference=labelled, where="true", features="labels")
    with pytest.raises(UserError, match=r"no classifier is trained on: [0-7]; 8 are needed"):
        compare(manifest, tmp_path / "cmp", wrong, device="cpu", reporter=QUIET)


def test_the_root_of_a_reference_may_have_moved(manifest: Path, tmp_path: Path) -> None:
    reference = write_pool(tmp_path / "other", num=30, space=Space(resolution=16))
    table, metadata = pq.read_table(reference), read_metadata(reference)
    gone = replace(metadata, roots={"real": str(tmp_path / "gone")})
    uris = pa.array([f"real:{uri}" for uri in table["uri"].to_pylist()])
    table = table.set_column(table.column_names.index("uri"), "uri", uris)
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: gone.to_bytes()}), reference)
    roots = {"real": str(tmp_path / "other" / "pool")}
    judge = module.build_judge(
        manifest, config(reference=reference), device="cpu", roots=roots, workers=0, reporter=QUIET
    )
    assert judge.reference.moments.num == 10
    assert plan(manifest, config(reference=reference), roots=roots)["runs"] == 3
    with pytest.raises(UserError, match="--root real: there is none of that name"):
        plan(manifest, config(), roots=roots)


def test_where_without_a_reference_is_refused(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--where picks rows of a --reference"):
        config(where="nonsense")
    with pytest.raises(UserError, match="SQL"):
        plan(manifest, config(reference=manifest, where="nonsense = 1"))


def test_plan_and_refusals(manifest: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    planned = plan(manifest, config(seeds=2, fixed=2.0))
    assert planned["runs"] == 8
    assert planned["training_pictures"] == 8 * 96
    assert 8 < planned["held_out"] < 32
    assert planned["pictures"]["clean"] == 40 - planned["held_out"]
    assert planned["pictures"]["ambient"] == len(read_rows(manifest)) - planned["held_out"]
    with pytest.raises(UserError, match="too few"):
        plan(manifest, config(holdout=0.01))
    with pytest.raises(UserError, match="two arms are named"):
        config(more=(chosen("a", "true"), chosen("a", "false")))
    with pytest.raises(UserError, match="too few"):
        compare(manifest, tmp_path / "a", config(holdout=0.01), device="cpu", reporter=QUIET)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="without torchrun"):
        compare(manifest, tmp_path / "a", config(), device="cpu", reporter=QUIET)
