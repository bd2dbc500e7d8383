"""The command line: a table of contents. One short function per command; each makes one call.

Heavy imports live inside the commands, so that ``ambient --help`` answers at once.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from . import __version__
from .curate.signals import Stopped, let_readers_leave, stop_at_once, until_signal
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

_CORES = min(32, os.cpu_count() or 1)

# Options of several commands.
Manifest = Annotated[Path, typer.Argument(help="A manifest.")]
Root = Annotated[list[str] | None, typer.Option("--root", help="name=path: where a root of the manifest lies now.")]
Epsilon = Annotated[float, typer.Option(help="A level is good when p_clean > 0.5 - epsilon.")]
Preset = Annotated[str, typer.Option(help="smoke (CPU, minutes), small (GPU, minutes), or see README.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="key=value, such as lr=1e-3; repeatable.")]
Features = Annotated[
    str, typer.Option(help="texture (built in), labels, inception, dinov2, timm:MODEL, openclip:MODEL/TAG, FILE.")
]
FeatureWeights = Annotated[
    list[str] | None,
    typer.Option("--weights", help="NAME=FILE: a local copy of the weights of features, or of a measure."),
]
Where = Annotated[str | None, typer.Option(help="SQL predicate: rows of a reference manifest; default: the clean.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Workers = Annotated[int, typer.Option(help="Threads or processes of this host that read pictures.", min=0)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON; of rows, one object each.")]
_SCORES = "Adds the scores of `ambient score`'s table, or numbers of any Parquet or CSV file, by uri or id."
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what another command wrote.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")]


@app.command()
def annotate(
    pool: Annotated[Path, typer.Argument(help="Folder, .zip, .tar, .parquet, list of paths, or url.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The manifest to write.")] = Path("manifest.parquet"),
    clean: Annotated[Path | None, typer.Option(help="Clean pictures, in the pool or not: as POOL.")] = None,
    clean_where: Annotated[str | None, typer.Option(help="SQL predicate over the records that picks them.")] = None,
    clean_top: Annotated[str | None, typer.Option(help="The best by rank, such as 10%.")] = None,
    by: Annotated[str | None, typer.Option(help="Scores that rank, such as sharpness,noise; their mean rank.")] = None,
    within: Annotated[str | None, typer.Option(help="Rank within each label or source.")] = None,
    sigma_min: Annotated[float | None, typer.Option(help="Of all that are not clean; no classifier is asked.")] = None,
    where: Annotated[str | None, typer.Option(help="SQL: what gets --sigma-min; the rest is clean.")] = None,
    scores: Annotated[Path | None, typer.Option(help=_SCORES)] = None,
    classifier: Annotated[Path | None, typer.Option(help="Of an earlier run; nothing is trained.")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Also show the clean set in OUT.clean.png.")] = False,
    resolution: Annotated[int | None, typer.Option(help="Side to train at; default: fits the pool.")] = None,
    channels: Annotated[int, typer.Option(help="3 (RGB) or 1 (grey).")] = 3,
    epsilon: Epsilon = 0.05,
    draws: Annotated[int, typer.Option(help="Noise draws per picture and noise level.")] = 6,
    per: Annotated[Literal["picture", "source"], typer.Option(help="What has a threshold of its own.")] = "picture",
    crossing: Annotated[
        Literal["rising", "first"],
        typer.Option(help="Which crossing of 0.5 - epsilon: the rising fit's (careful), or the first (the paper's)."),
    ] = "rising",
    steps: Annotated[int | None, typer.Option(help="The classifier's, at most; default: 1,000, GPU 32,000.")] = None,
    folds: Annotated[int, typer.Option(help="Classifiers, each judging a part it has not seen.")] = 2,
    seed: Seed = 0,
    device: Device = "auto",
    workers: Workers = _CORES,
    accept_indistinguishable: Annotated[
        bool, typer.Option("--accept-indistinguishable", help="Go on when clean and other pictures look the same.")
    ] = False,
    duplicates: Annotated[Literal["mark", "keep"], typer.Option(help="Mark copies, or keep them usable.")] = "mark",
    overwrite: Overwrite = False,
    update: Annotated[bool, typer.Option("--update", help="Add what is new or changed; the rest stays.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Find the lowest trustworthy noise level of every picture and write the manifest.

    Without a word about what is clean, it is the twentieth of the pool that looks least damaged (score `undamaged`:
    no blur, no JPEG blocks, no noise). The same command continues a run that was stopped.

    Example: ambient annotate ./pool --clean ./pool/camera -o manifest.parquet
    """
    from .curate.annotate import annotate as run_annotation
    from .curate.annotate import plan
    from .curate.config import AnnotateConfig
    from .curate.ranks import top_of
    from .curate.show import print_sources

    config = AnnotateConfig(
        clean=clean,
        clean_where=clean_where,
        clean_top=top_of(clean_top, by, within),
        sigma_min=sigma_min,
        where=where,
        scores=scores,
        classifier=classifier,
        resolution=resolution,
        channels=channels,
        epsilon=epsilon,
        draws=draws,
        per=per,
        crossing=crossing,
        duplicates=duplicates,
        steps=steps,
        folds=folds,
        seed=seed,
        accept_indistinguishable=accept_indistinguishable,
    )
    if dry_run:
        _print_json(plan(pool, config, out, overwrite=overwrite, update=update, preview=preview))
        return
    run_annotation(
        pool, out, config, device=device, workers=workers, overwrite=overwrite, update=update, preview=preview
    )
    print_sources(out)


@app.command()
def threshold(
    manifest: Manifest,
    out: Annotated[Path, typer.Option("--out", "-o", help="The manifest to write.")],
    epsilon: Annotated[
        float | None, typer.Option(help="A level is good when p_clean > 0.5 - epsilon; default: the manifest's.")
    ] = None,
    crossing: Annotated[
        Literal["rising", "first"] | None,
        typer.Option(help="Which crossing of 0.5 - epsilon; default: the manifest's."),
    ] = None,
    per: Annotated[
        Literal["picture", "source", "label", "quality"], typer.Option(help="What has a threshold of its own.")
    ] = "picture",
    by: Annotated[str | None, typer.Option(help="Score whose tenths --per quality takes.")] = None,
    sigma_min: Annotated[float | None, typer.Option(help="Of all, or of those that --quantile picks.")] = None,
    quantile: Annotated[str | None, typer.Option(help="Score: the lowest --share get --sigma-min, others 0.")] = None,
    share: Annotated[float, typer.Option(help="Of the pictures that are not clean, for --quantile.")] = 0.9,
    rule: Annotated[str | None, typer.Option(help="SQL expression over the columns, but curves.")] = None,
    scores: Annotated[Path | None, typer.Option(help=_SCORES)] = None,
    use: Annotated[Literal["estimate", "hi"], typer.Option(help="hi: the careful end of intervals.")] = "estimate",
    floor: Annotated[float, typer.Option(help="Least sigma_min of a picture that is not clean.")] = 0.0,
    cap: Annotated[float, typer.Option(help="Largest finite sigma_min.")] = float("inf"),
    overwrite: Overwrite = False,
) -> None:
    """Decide sigma_min again from the stored curves, or by a rule: seconds, no GPU, no pictures.

    Clean pictures keep 0.

    Example: ambient threshold manifest.parquet -o careful.parquet --use hi --per source
    """
    from .curate.decide import Rule
    from .curate.rethreshold import rethreshold
    from .curate.show import print_sources

    decided = Rule(
        epsilon=epsilon,
        crossing=crossing,
        per=per,
        by=by,
        fixed=sigma_min,
        sql=rule,
        quantile=quantile,
        share=share,
        use=use,
        floor=floor,
        cap=cap,
    )
    rethreshold(manifest, out, decided, scores=scores, overwrite=overwrite)
    print_sources(out)


@app.command()
def score(
    target: Annotated[Path, typer.Argument(help="A pool, as of `ambient annotate`, or a manifest.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The table to write.")] = Path("scores.parquet"),
    by: Annotated[
        str | None,
        typer.Option(help="Built-in measures, clipiqa, clipscore, clip_embedding, pyiqa's, phash; with commas."),
    ] = None,
    clip_model: Annotated[
        str | None,
        typer.Option(help="Model of open_clip; else RN50 for clipiqa, ViT-B-32 for clipscore and clip_embedding."),
    ] = None,
    clip_pretrained: Annotated[str, typer.Option(help="Its pretrained tag.")] = "openai",
    prompts: Annotated[str, typer.Option(help="The good and the bad prompt of clipiqa.")] = "Good photo.|Bad photo.",
    weights: Annotated[list[str] | None, typer.Option(help="measure=FILE: a local copy of its weights.")] = None,
    root: Root = None,
    device: Device = "auto",
    workers: Workers = _CORES,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Measure the quality of every picture: one column per measure, to ask about, to rank by, to filter with.

    Of a pool, the built-in measures always; of a manifest, the same manifest with the scores added. The same command
    continues a run that was stopped.

    Example: ambient score ./pool --by clipiqa,phash -o scores.parquet
    """
    from .curate.arguments import moved_roots, named, names_in
    from .curate.clip import prompts_of
    from .curate.networks import ScoreConfig
    from .curate.openclip import ClipConfig
    from .curate.scoring import plan, score_target

    config = ScoreConfig(
        by=names_in(by),
        clip=ClipConfig(model=clip_model, pretrained=clip_pretrained, prompts=prompts_of(prompts)),
        weights=named(weights, "--weights", "measure=FILE"),
    )
    roots = moved_roots(root)
    if dry_run:
        _print_json(plan(target, config, roots=roots))
        return
    score_target(target, out, config, device=device, workers=workers, roots=roots, overwrite=overwrite)


@app.command()
def sql(
    manifest: Manifest,
    query: Annotated[str | None, typer.Argument(help="One SQL statement (DuckDB); none: a prompt.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: Json = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the result: .parquet or .csv.")] = None,
    param: Annotated[list[str] | None, typer.Option(help="name=value of $name in the query; repeatable.")] = None,
) -> None:
    """Ask a manifest. Views: manifest, by_source, coverage; table macro: usable(sigma).

    A query sees the manifest only, and cannot write. Without a query, in a terminal, comes a prompt with completion and
    history; else the statement is read from stdin. A parameter's value is JSON where it can be, else text.

    Example: ambient sql manifest.parquet 'SELECT source, count(*) FROM usable($s) GROUP BY ALL' --param s=0.5
    """
    from .curate.ask import ask

    let_readers_leave()
    ask(manifest, query, csv=csv, as_json=as_json, out=out, parameters=param)


@app.command()
def report(
    manifest: Manifest,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
    root: Root = None,
) -> None:
    """Write one page that shows what a manifest says: thresholds, coverage, curves, and pictures at their trust levels.

    It is one file that needs no network; of a large pool it holds the numbers and a sample of the pictures.

    Example: ambient report manifest.parquet -o report.html
    """
    from .curate.arguments import moved_roots
    from .curate.report.page import report as write_report

    write_report(manifest, out, roots=moved_roots(root))


@app.command()
def show(
    manifest: Manifest,
    uris: Annotated[list[str], typer.Argument(metavar="URI...", help="Pictures, as the manifest names them.")],
    as_json: Json = False,
) -> None:
    """Print what a manifest knows of a picture: where it may be used, its scores, and its curve p_clean(sigma).

    Example: ambient show manifest.parquet cats/0001.jpg
    """
    from .curate.show import print_pictures

    let_readers_leave()
    print_pictures(manifest, uris, as_json=as_json)


@app.command()
def train(
    manifest: Manifest,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
    preset: Preset = "smoke",
    settings: Settings = None,
    root: Root = None,
    device: Device = "auto",
    workers: Workers = _CORES,
    dry_run: DryRun = False,
) -> None:
    """Train a diffusion model that uses every picture at the noise levels where it can be trusted, and only there.

    The same command continues a run that was stopped, exactly.

    Example: ambient train manifest.parquet -o runs/first --set num_images=200000
    """
    from .curate.arguments import moved_roots
    from .curate.reporter import Reporter
    from .train.config import TrainConfig
    from .train.loop import train as run_training
    from .train.plan import describe
    from .train.run import spoken

    config, roots = TrainConfig.from_settings(settings or [], preset=preset), moved_roots(root)
    if dry_run:
        _print_json(describe(manifest, config, out=out, roots=roots))
        return
    stop, report = until_signal(), spoken(Reporter())
    run_training(manifest, out, config, device=device, roots=roots, workers=workers, stop=stop, report=report)
    if stop():
        raise Stopped


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for PNG files.")] = Path("samples"),
    npz: Annotated[Path | None, typer.Option(help="Write one npz instead: arr_0, label, seed, about.")] = None,
    num: Annotated[
        int | None, typer.Option("--num", "-n", help="How many pictures; 64 unless --seeds says.", min=1, max=10**8)
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="One picture per seed, such as 0-49999 or 1,5,9-12.")] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", "--label", help="Classes in turn: 3, 0-9; default: all.")
    ] = None,
    guidance: Annotated[float, typer.Option(help="Strength of guidance; 1 is none.")] = 1.0,
    guide: Annotated[Path | None, typer.Option(help="Run to guide by; default: the same, without a class.")] = None,
    ema: Annotated[float | None, typer.Option(help="Length of the average of the weights, such as 0.07.")] = None,
    at: Annotated[
        int | None, typer.Option(help="Moment of the run, in training pictures; default: the newest.")
    ] = None,
    guide_ema: Annotated[float | None, typer.Option(help="As --ema, of the guide.")] = None,
    guide_at: Annotated[int | None, typer.Option(help="As --at, of the guide, which may be the same run.")] = None,
    solver: Annotated[Literal["heun", "euler"], typer.Option(help="Of second or first order.")] = "heun",
    steps: Annotated[int, typer.Option(help="Steps of the solver.", min=1)] = 18,
    batch: Annotated[int, typer.Option(help="Pictures at a time.", min=1)] = 64,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Draw pictures from the newest checkpoint of a run, or as it was at an earlier moment.

    A picture depends on its seed alone. The same command continues one that was stopped. For several GPUs, write
    `torchrun --nproc-per-node 8 -m ambient.cli sample RUN -n 50000` (torchrun takes --num for an option of its own):
    each draws its share of the seeds. To guide a run by what it was itself (autoguidance): `--guide RUN --guide-at
    200000 --guidance 2`, at a moment that its folder ema/ names.

    Example: ambient sample runs/first --num 50000 --seeds 0-49999 -o samples
    """
    from .curate.arguments import numbers
    from .curate.reporter import Reporter
    from .train.generate import SampleConfig, generate, plan, seeds_of

    classes = None if labels is None else tuple(numbers(labels, "--labels"))
    config = SampleConfig(
        solver=solver,
        steps=steps,
        guidance=guidance,
        ema_std=ema,
        at=at,
        guide_ema_std=guide_ema,
        guide_at=guide_at,
        labels=classes,
    )
    target, named, packed = npz or out, seeds_of(num, seeds), npz is not None
    if dry_run:
        _print_json(plan(run, target, named, config, guide=guide, npz=packed, batch_size=batch))
        return
    generate(run, target, named, config, guide=guide, npz=packed, batch_size=batch, device=device, reporter=Reporter())


@app.command()
def eval(
    samples: Annotated[Path, typer.Argument(help="A run, or a folder, npz or manifest of pictures.")],
    reference: Annotated[Path, typer.Option(help="Real pictures: a pool, or a manifest.")],
    where: Where = None,
    features: Features = "texture",
    by: Annotated[str | None, typer.Option(help="Further measures of quality, such as clipiqa,musiq.")] = None,
    weights: FeatureWeights = None,
    num: Annotated[int, typer.Option(help="Samples, at most; of a run so many are drawn.")] = 10_000,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the result as JSON.")] = None,
    as_json: Json = False,
    root: Root = None,
    seed: Seed = 0,
    device: Device = "auto",
    workers: Workers = 4,
    dry_run: DryRun = False,
) -> None:
    """Measure samples against real pictures, each measure with a 90 % interval.

    Frechet and kernel distance, precision, recall, density, coverage, diversity, copies, quality scores, also by
    networks (--by). Of a run, pictures are drawn first. What is known of the reference is kept for the next time.

    Example: ambient eval runs/first --reference manifest.parquet --num 2000
    """
    from .curate.arguments import moved_roots, named, names_in
    from .curate.reporter import Reporter
    from .curate.tables import print_table
    from .train.evaluate.evaluate import EvalConfig, evaluate, plan, table, write_json

    files, roots = named(weights, "--weights", "NAME=FILE"), moved_roots(root)
    measures = names_in(by)
    config = EvalConfig(features=features, by=measures, weights=files, where=where, num=num, seed=seed)
    if dry_run:
        _print_json(plan(samples, reference, config, roots=roots))
        return
    result = evaluate(samples, reference, config, device=device, workers=workers, roots=roots)
    if out is not None:
        write_json(out, result)
        Reporter().say(f"written to {out}")
    if as_json:
        _print_json(result)
    else:
        print_table(table(result))


@app.command()
def compare(
    manifest: Manifest,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the comparison.")],
    preset: Preset = "smoke",
    settings: Settings = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each arm.")] = 3,
    fixed: Annotated[float | None, typer.Option(help="Another arm: one sigma_min for all that is not clean.")] = None,
    arm: Annotated[list[str] | None, typer.Option(help='Another arm, name="SQL predicate": these as equal.')] = None,
    reference: Annotated[Path | None, typer.Option(help="Real pictures; default: held-out clean ones.")] = None,
    where: Where = None,
    holdout: Annotated[float, typer.Option(help="Share of the clean pictures that no arm trains on.")] = 0.2,
    features: Features = "texture",
    weights: FeatureWeights = None,
    num: Annotated[int, typer.Option(help="Samples of each training.")] = 2_000,
    as_json: Json = False,
    root: Root = None,
    device: Device = "auto",
    workers: Workers = 4,
    dry_run: DryRun = False,
) -> None:
    """Does it help? Train on the clean pictures only, on all as equal, and on all above their sigma_min, and measure.

    Every arm gets the same seeds, steps, network and samples. The same command continues one that was stopped; more
    seeds and arms may be added. What is said of differences, and by which rule, is in OUT/summary.json.

    Example: ambient compare manifest.parquet -o cmp --set num_images=200000 --arm sharp="sharpness > -2"
    """
    from .curate.arguments import moved_roots, named
    from .curate.tables import print_table
    from .train.config import TrainConfig
    from .train.evaluate import compare as comparison
    from .train.evaluate.arms import chosen
    from .train.evaluate.verdict import by_heart, verdicts

    config = comparison.CompareConfig(
        train=TrainConfig.from_settings(settings or [], preset=preset),
        seeds=seeds,
        fixed=fixed,
        more=tuple(chosen(name, sql) for name, sql in named(arm, "--arm", 'name="SQL predicate"').items()),
        features=features,
        weights=named(weights, "--weights", "FEATURES=FILE"),
        reference=reference,
        where=where,
        holdout=holdout,
        num=num,
    )
    roots = moved_roots(root)
    if dry_run:
        _print_json(comparison.plan(manifest, config, roots=roots))
        return
    stop = until_signal()
    results = comparison.compare(manifest, out, config, device=device, roots=roots, workers=workers, stop=stop)
    if stop():
        raise Stopped
    if as_json:
        _print_json(comparison.summary(results))
        return
    print_table(comparison.table(results))
    for said in (*verdicts(results), by_heart(results)):
        if said is not None:
            typer.echo(said.sentence())


@app.command()
def corrupt(
    pool: Annotated[Path, typer.Argument(help="As of `ambient annotate`.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; must be new.")],
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--kind", help="blur-SIGMA, jpeg-QUALITY, motion-LENGTH, mask-FRACTION or down-FACTOR; repeatable."
        ),
    ] = None,
    fraction: Annotated[float, typer.Option(help="Share of the pictures to damage.", min=0.0, max=1.0)] = 0.9,
    seed: Seed = 0,
    workers: Workers = _CORES,
) -> None:
    """Damage a share of a pool on purpose, and write down what was done to which picture (corruption.parquet).

    Example: ambient corrupt ./photos ./damaged --fraction 0.9 --kind blur-1.2 --kind jpeg-25
    """
    from .curate.corrupt import DEFAULT_KINDS, parse
    from .curate.corrupt import corrupt as run_corruption
    from .curate.reporter import Reporter

    corruptions = [parse(kind) for kind in kinds or DEFAULT_KINDS]
    table = run_corruption(pool, out, corruptions=corruptions, fraction=fraction, seed=seed, workers=workers)
    Reporter().say(f"written: {len(table):,} rows to {out / 'corruption.parquet'}")
    if left := table.num_rows - table["status"].to_pylist().count("ok"):
        Reporter().warn(f"{left:,} pictures cannot be used and were left out: column reason has why")


@app.command()
def doctor(device: Device = "auto", as_json: Json = False) -> None:
    """Look at this machine, its GPUs, packages and weights, and check on a small task that it computes what it should.

    Takes about ten seconds; exit code 1 when something is wrong.

    Example: ambient doctor
    """
    from .train.doctor import doctor as examine
    from .train.doctor import print_checks

    checks = examine(device=device)
    print_checks(checks, as_json=as_json)
    if any(check.ok is False for check in checks):
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("demo"),
    device: Device = "auto",
    minutes: Annotated[float, typer.Option(help="About how long to train the denoiser.", min=0.1)] = 1.0,
) -> None:
    """See the whole idea on real photographs: cut, corrupt, annotate, ask, train, sample. Minutes on a CPU.

    Example: ambient demo --out demo
    """
    from .train.demo import demo as run_demo

    run_demo(out, device=device, minutes=minutes)


def main() -> NoReturn:
    """Run a command: exit code 2 and one line for what the user can put right, 130 when stopped, else a traceback."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    stop_at_once()
    try:
        app(args=arguments, prog_name="ambient", standalone_mode=True)
    except UserError as error:
        if debug:
            raise
        _fail(str(error), 2)
    except Stopped:
        _fail("stopped; the same command continues", 130, or_another=True)
    sys.exit(0)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,  # noqa: ARG001
) -> None:
    if version:
        typer.echo(f"ambient-omni {__version__}")
        raise typer.Exit


def _fail(message: str, code: int, *, or_another: bool = False) -> NoReturn:
    """Say it, once for all processes that say the same. or_another: as in ``first_says``."""
    if not _is_said(message, or_another=or_another):
        typer.echo(f"ambient: {message}", err=True)
    sys.exit(code)


def _is_said(message: str, *, or_another: bool) -> bool:
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return False
    from .curate.team import first_says

    return first_says(message, or_another=or_another)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


if __name__ == "__main__":
    main()
