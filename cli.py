"""The command line: a table of contents. One short function per command; each makes one call.

Heavy imports live inside the commands, so that ``ambient --help`` answers at once.
"""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal, NoReturn

import typer

from . import __version__
from .schemas.errors import UserError

app = typer.Typer(
    name="ambient",
    help="What is each picture good for? Find the noise levels at which each picture of a pool can be trained on, ask "
    "about them in SQL, and train diffusion models that obey them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Workers = Annotated[int, typer.Option(help="Threads that decode pictures.", min=0)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
Per = Literal["picture", "source"]
Root = Annotated[list[str] | None, typer.Option("--root", help="name=path: where a root of the manifest lies now.")]


@app.command()
def annotate(
    pool: Annotated[Path, typer.Argument(help="Folder or .zip of pictures, folders and .zip archives.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The manifest to write.")] = Path("manifest.parquet"),
    clean: Annotated[Path | None, typer.Option(help="Folder or .zip of clean pictures, in the pool or not.")] = None,
    clean_where: Annotated[str | None, typer.Option(help="SQL predicate over the records that picks them.")] = None,
    clean_top: Annotated[str | None, typer.Option(help="The best by rank, such as 10%.")] = None,
    by: Annotated[str | None, typer.Option(help="Scores that rank, such as sharpness,noise; their mean rank.")] = None,
    within: Annotated[str | None, typer.Option(help="Rank within each label or source.")] = None,
    scores: Annotated[Path | None, typer.Option(help="Table of `ambient score` whose scores may rank.")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Also show the clean set in OUT.clean.png.")] = False,
    resolution: Annotated[
        int | None, typer.Option(help="Side of the training pictures; default: fits the pool.")
    ] = None,
    channels: Annotated[int, typer.Option(help="3 (RGB) or 1 (grey).")] = 3,
    epsilon: Annotated[float, typer.Option(help="A level is good when p_clean > 0.5 - epsilon.")] = 0.05,
    draws: Annotated[int, typer.Option(help="Noise draws per picture and noise level.")] = 8,
    per: Annotated[Per, typer.Option(help="One threshold per picture, or per source.")] = "picture",
    steps: Annotated[int, typer.Option(help="Optimiser steps of the classifier.")] = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    workers: Workers = 4,
    accept_indistinguishable: Annotated[
        bool, typer.Option("--accept-indistinguishable", help="Go on when clean and other pictures look the same.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another run's manifest.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Find the lowest trustworthy noise level of every picture and write the manifest.

    Without a word about what is clean, it is the twentieth of the pool that looks least damaged (score `undamaged`:
    no blur, no JPEG blocks, no noise). The same command continues a run that was stopped.

    Example: ambient annotate ./pool --clean ./pool/camera -o manifest.parquet
    """
    from .curate.annotate import AnnotateConfig, plan
    from .curate.annotate import annotate as run_annotation
    from .curate.query import query
    from .curate.ranks import top_of
    from .curate.reporter import Reporter
    from .curate.tables import print_table

    config = AnnotateConfig(
        clean=clean,
        clean_where=clean_where,
        clean_top=top_of(clean_top, by, within),
        scores=scores,
        resolution=resolution,
        channels=channels,
        epsilon=epsilon,
        draws=draws,
        per=per,
        steps=steps,
        seed=seed,
        accept_indistinguishable=accept_indistinguishable,
    )
    if dry_run:
        _print_json(plan(pool, config))
        return
    run_annotation(
        pool, out, config, device=device, workers=workers, overwrite=overwrite, preview=preview, reporter=Reporter()
    )
    print_table(query(out, "FROM by_source"))


@app.command()
def score(
    target: Annotated[Path, typer.Argument(help="Folder or .zip of pictures, or a manifest (.parquet).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The table to write.")] = Path("scores.parquet"),
    by: Annotated[str | None, typer.Option(help="Measures: built-in, clipiqa, pyiqa's, phash; with commas.")] = None,
    clip_model: Annotated[str, typer.Option(help="Model of open_clip, for clipiqa.")] = "RN50",
    clip_pretrained: Annotated[str, typer.Option(help="Its pretrained tag.")] = "openai",
    prompts: Annotated[str, typer.Option(help="The good and the bad prompt.")] = "Good photo.|Bad photo.",
    weights: Annotated[list[str] | None, typer.Option(help="measure=FILE: a local copy of its weights.")] = None,
    root: Root = None,
    device: Device = "auto",
    workers: Workers = 4,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another run's table.")] = False,
) -> None:
    """Measure the quality of every picture: one column per measure, to ask about, to rank by, to filter with.

    Of a pool, the built-in measures always; of a manifest, the same manifest with the scores added. The same command
    continues a run that was stopped.

    Example: ambient score ./pool --by clipiqa,phash -o scores.parquet
    """
    from .curate.clip import ClipConfig, prompts_of
    from .curate.reporter import Reporter
    from .curate.scoring import ScoreConfig, score_target

    config = ScoreConfig(
        by=tuple(name.strip() for name in by.split(",")) if by else (),
        clip=ClipConfig(model=clip_model, pretrained=clip_pretrained, prompts=prompts_of(prompts)),
        weights=_named(weights, "--weights", "measure=FILE"),
    )
    roots, reporter = _pairs(root), Reporter()
    score_target(
        target, out, config, device=device, workers=workers, roots=roots, overwrite=overwrite, reporter=reporter
    )


@app.command()
def sql(
    manifest: Annotated[Path, typer.Argument(help="A manifest.")],
    query: Annotated[str, typer.Argument(help="One SQL statement (DuckDB).")],
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per row.")] = False,
) -> None:
    """Ask a manifest. Views: manifest, by_source, coverage; table macro: usable(sigma).

    A query sees the manifest only, and cannot write.

    Example: ambient sql manifest.parquet "SELECT source, count(*), median(sigma_min) FROM manifest GROUP BY ALL"
    """
    from .curate.query import query as ask
    from .curate.tables import print_table, to_csv, to_json_lines

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a word, as it ends cat
    if csv and as_json:
        raise UserError("--csv and --json are two formats: give one of them")
    table = ask(manifest, query)
    if csv or as_json:
        sys.stdout.write(to_csv(table) if csv else to_json_lines(table))
    else:
        print_table(table)


@app.command()
def train(
    manifest: Annotated[Path, typer.Argument(help="A manifest.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
    preset: Annotated[str, typer.Option(help="smoke (CPU, minutes) or small (GPU, minutes).")] = "smoke",
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value, such as lr=1e-3; repeatable.")] = None,
    root: Root = None,
    device: Device = "auto",
    workers: Workers = 4,
    dry_run: DryRun = False,
) -> None:
    """Train a diffusion model that uses every picture at the noise levels where it can be trusted, and only there.

    The same command continues a run that was stopped, exactly.

    Example: ambient train manifest.parquet -o runs/first --set num_images=200000
    """
    from .curate.reporter import Reporter
    from .train.config import TrainConfig
    from .train.loop import train as run_training
    from .train.plan import describe
    from .train.run import spoken

    config = TrainConfig.from_settings(settings or [], preset=preset)
    if dry_run:
        _print_json(describe(manifest, config, roots=_pairs(root)))
        return
    stop, report = _until_signal(), spoken(Reporter())
    run_training(manifest, out, config, device=device, roots=_pairs(root), workers=workers, stop=stop, report=report)
    if stop():
        raise _Stopped


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path("samples"),
    num: Annotated[int, typer.Option(help="How many pictures.", min=1)] = 64,
    seed: Seed = 0,
    steps: Annotated[int, typer.Option(help="Steps of the Heun sampler.", min=2)] = 18,
    device: Device = "auto",
) -> None:
    """Draw pictures from the newest checkpoint of a run, by the deterministic Heun sampler.

    Example: ambient sample runs/first --num 64 -o samples
    """
    from .curate.reporter import Reporter
    from .train.generate import generate

    grid = generate(run, out, num=num, seed=seed, steps=steps, device=device)
    Reporter().say(f"{num} pictures and a grid of them: {grid}")


@app.command()
def corrupt(
    pool: Annotated[Path, typer.Argument(help="Folder or .zip of pictures.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; must be new.")],
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--kind", help="blur-SIGMA, jpeg-QUALITY, motion-LENGTH, mask-FRACTION or down-FACTOR; repeatable."
        ),
    ] = None,
    fraction: Annotated[float, typer.Option(help="Share of the pictures to damage.", min=0.0, max=1.0)] = 0.9,
    seed: Seed = 0,
    workers: Workers = 4,
) -> None:
    """Damage a share of a pool on purpose, and write down what was done to which picture (corruption.parquet).

    Example: ambient corrupt ./photos ./damaged --fraction 0.9 --kind blur-1.2 --kind jpeg-25
    """
    from .curate.corrupt import DEFAULT_KINDS, parse
    from .curate.corrupt import corrupt as run_corruption
    from .curate.reporter import Reporter

    corruptions = [parse(kind) for kind in kinds or DEFAULT_KINDS]
    table = run_corruption(pool, out, corruptions=corruptions, fraction=fraction, seed=seed, workers=workers)
    Reporter().say(f"wrote {len(table):,} rows to {out / 'corruption.parquet'}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("demo"),
    device: Device = "auto",
    minutes: Annotated[float, typer.Option(help="About how long to train the denoiser.", min=0.1)] = 1.0,
) -> None:
    """See the whole idea on real photographs: cut, corrupt, annotate, ask, train, sample. Minutes on a CPU.

    Example: ambient demo --out demo
    """
    from .curate.reporter import Reporter
    from .train.demo import demo as run_demo

    run_demo(out, device=device, minutes=minutes, reporter=Reporter())


def main() -> NoReturn:
    """Run a command: exit code 2 and one line for what the user can put right, 130 when stopped, else a traceback."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        app(args=arguments, prog_name="ambient", standalone_mode=True)
    except UserError as error:
        if debug:
            raise
        _fail(str(error), 2)
    except _Stopped:
        _fail("stopped; the same command continues", 130)
    sys.exit(0)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,  # noqa: ARG001
) -> None:
    if version:
        typer.echo(f"ambient-omni {__version__}")
        raise typer.Exit


class _Stopped(BaseException):
    """Ctrl-C or SIGTERM came. Not KeyboardInterrupt, with which Typer ends the program itself, without a word."""


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _Stopped


def _until_signal() -> Callable[[], bool]:
    """A function that says whether Ctrl-C or SIGTERM has come; a second signal does not wait."""
    came = []

    def remember(_number: int, _frame: FrameType | None) -> None:
        came.append(True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, remember)
    return lambda: bool(came)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"ambient: {message}", err=True)
    sys.exit(code)


def _pairs(roots: list[str] | None) -> dict[str, str]:
    """``name=path`` options as a dictionary of absolute paths."""
    return {name: str(Path(path).resolve()) for name, path in _named(roots, "--root", "name=path").items()}


def _named(texts: list[str] | None, option: str, form: str) -> dict[str, str]:
    """What ``name=value`` options say."""
    named = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise UserError(f"{option} is written {form}, not {text!r}")
        named[name] = value
    return named


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


if __name__ == "__main__":
    main()
