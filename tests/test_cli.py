"""The command line as a program: help, exit codes, one-line errors, formats, signals."""

import csv
import inspect
import io
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ambient import __version__, cli
from ambient.schemas.manifest import manifest_schema, read_metadata
from in_process import run_command
from manifests import METADATA, rows, write
from photo_pool import write_photo_pool

COMMANDS = {command.callback.__name__: command.callback for command in cli.app.registered_commands}


def ambient(*arguments: object, **options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ambient.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process. Returns exit code, stdout, stderr."""
    return lambda *words: (run_command(*words), *capsys.readouterr())


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    sigmas = [0.0, 0.5, 0.25, math.inf, None]
    uris = ["a.png", "[red]b.png", "c\nd.png", "é,.png", "x.png"]
    table = rows(5, uri=uris, sigma_min=sigmas, status=["ok"] * 4 + ["unreadable"], source=["a", "a", "b", "b", "b"])
    return write(tmp_path / "m.parquet", table)


def one_line(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert code == 2
    assert out == ""
    assert err.startswith("ambient: ")
    assert err.count("\n") == 1
    return err


def test_threshold_passes_no_epsilon_that_was_not_given(run: Callable, manifest: Path, tmp_path: Path) -> None:
    code, _, err = run("threshold", manifest, "-o", tmp_path / "t.parquet", "--sigma-min", 1)
    assert code == 0, err
    assert read_metadata(tmp_path / "t.parquet").epsilon == read_metadata(manifest).epsilon
    assert "leave out --epsilon" in one_line(
        run("threshold", manifest, "-o", tmp_path / "u.parquet", "--sigma-min", 1, "--epsilon", 0.1)
    )


CURVES = [[0.25, 0.5, 0.5, 0.5], [0, 0.25, 0.5, 0.5], [0, 0, 0.25, 0.5], [0, 0, 0, 0.25], [0.5, 0.1, 0.1, 0.5]]
"""p_clean on the grid 0.01, 0.1, 1, 10; the last one falls again."""
CROSSINGS = [0.01 * 10**0.8, 0.1 * 10**0.8, 10**0.8, math.inf, 10**0.8125]
"""Of 0.45, by hand; a fit that rises makes 0.7 / 3 of the first three levels of the last curve."""


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """Five pictures with these curves, and a clean one."""
    clean = [False] * 5 + [True]
    table = rows(
        6,
        p_clean=[*CURVES, [0.5] * 4],
        draws=[[50] * 4] * 6,
        source=[*"ababcd"],
        label=[0, 0, 1, 1, 2, 0],
        role=["clean" if c else "pool" for c in clean],
        sigma_min=[0.0 if c else 9.0 for c in clean],
        method=["clean" if c else "classifier" for c in clean],
    )
    score = pa.array([0.4, 0.3, 0.3, 0.1, 0.05, 0.9], pa.float32())
    table = table.append_column("noise", score).select(manifest_schema(["noise"]).names)
    return write(tmp_path / "j.parquet", table, replace(METADATA, draw_noise=[0.02] * 4, fold_spread=[0.05] * 4))


@pytest.mark.parametrize(
    ("options", "expected", "method"),
    [
        ("", CROSSINGS, "classifier"),
        ("--epsilon 0.2", [0.01 * 10**0.2, 0.1 * 10**0.2, 10**0.2, math.inf, 10**0.25], "classifier"),
        ("--crossing first", [*CROSSINGS[:4], 0], "classifier"),
        ("--floor 0.5", [0.5, *CROSSINGS[1:]], "classifier"),
        ("--cap 2", [*CROSSINGS[:2], 2, math.inf, 2], "classifier"),
        ("--per source", [10**0.6, math.inf, 10**0.6, math.inf, CROSSINGS[4]], "source"),
        ("--per label", [0.1 * 10**0.6] * 2 + [math.inf] * 2 + [CROSSINGS[4]], "label"),
        ("--per quality --by noise", [CROSSINGS[0], 10**0.6, 10**0.6, math.inf, CROSSINGS[4]], "quality"),
        ("--sigma-min 2", [2] * 5, "fixed"),
        ("--rule 'CASE WHEN label = 0 THEN 0.5 ELSE width END'", [0.5, 0.5, 16, 16, 16], "rule"),
        ("--quantile noise --sigma-min 2", [2] * 5, "quantile"),
        ("--quantile noise --sigma-min 2 --share 0.3", [0, 0, 0, 2, 2], "quantile"),
    ],
)
def test_every_option_of_threshold_decides(
    options: str, expected: list[float], method: str, run: Callable, judged: Path, tmp_path: Path
) -> None:
    code, out, err = run("threshold", judged, "-o", tmp_path / "t.parquet", *shlex.split(options))
    assert code == 0, err
    assert out.count("\n") == 5  # the head, and four sources
    found = pq.read_table(tmp_path / "t.parquet", columns=["sigma_min", "method"]).to_pydict()
    assert found["sigma_min"] == pytest.approx([*expected, 0], rel=1e-5)
    assert found["method"] == [method] * 5 + ["clean"]


def test_a_rule_over_a_table_of_ones_own(run: Callable, judged: Path, tmp_path: Path) -> None:
    uris = pq.read_table(judged, columns=["uri"])["uri"].to_pylist()
    (tmp_path / "mine.csv").write_text("uri,plddt\n" + "".join(f"{uri},{80 + 3 * k}\n" for k, uri in enumerate(uris)))
    rule = "CASE WHEN plddt > 90 THEN 0 WHEN plddt > 84 THEN 0.5 ELSE 2 END"
    options = ["--scores", tmp_path / "mine.csv", "--rule", rule]
    code, _, err = run("threshold", judged, "-o", tmp_path / "t.parquet", *options)
    assert code == 0, err
    assert pq.read_table(tmp_path / "t.parquet")["sigma_min"].to_pylist() == [2, 2, 0.5, 0.5, 0, 0]


def test_threshold_takes_the_upper_ends(run: Callable, judged: Path, tmp_path: Path) -> None:
    for name, options in {"plain": [], "careful": ["--use", "hi"]}.items():
        assert run("threshold", judged, "-o", tmp_path / name, *options)[0] == 0
    plain, careful = (pq.read_table(tmp_path / name) for name in ("plain", "careful"))
    assert careful["sigma_min"].equals(plain["sigma_min_hi"])
    upper = careful["sigma_min"].to_pylist()
    assert all(CROSSINGS[i] < upper[i] < math.inf for i in range(3))


def test_help_lists_every_command(run: Callable) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert {"annotate", "sql", "train", "sample", "corrupt", "demo"} <= set(COMMANDS)
    for name in COMMANDS:
        assert re.search(rf"^\W*{name}\b", out, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(run: Callable, name: str) -> None:
    code, out, _ = run(name, "--help")
    assert code == 0
    assert "Example:" in out
    example = re.search(r"Example: (ambient .*)", inspect.getdoc(COMMANDS[name]))
    words = shlex.split(example[1])
    assert words[:2] == ["ambient", name]


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_accepted_by_the_parser(
    name: str, run: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Up to the first thing that is missing: the pool, the manifest, the run."""
    monkeypatch.chdir(tmp_path)
    if name in (takes_long := {"demo": None, "doctor": []}):
        monkeypatch.setattr(f"ambient.train.{name}.{name}", lambda *_, **__: takes_long[name])
        monkeypatch.setattr("ambient.train.doctor.print_checks", lambda *_, **__: None)
    words = shlex.split(re.search(r"Example: ambient (.*)", inspect.getdoc(COMMANDS[name]))[1])
    code, _, err = run(*words)
    assert "Usage" not in err
    assert code == (0 if name in takes_long else 2)


def test_help_is_light_and_fast() -> None:
    probe = (
        "import sys, time; start = time.process_time(); sys.argv = ['ambient', '--help']\n"
        "from ambient.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(time.process_time() - start, *sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    seconds, *loaded = done.stderr.split()
    heavy = {"torch", "numpy", "pyarrow", "duckdb", "polars", "PIL", "scipy", "skimage", "safetensors", "pyiqa"}
    assert heavy.isdisjoint(loaded)
    assert float(seconds) < 2  # a machine with other work to do; the aim is half a second, see benchmarks/


def test_version(run: Callable) -> None:
    assert run("--version") == (0, f"ambient-omni {__version__}\n", "")


def test_unknown_commands_and_options_are_2(run: Callable) -> None:
    for arguments in (["paint"], ["sql"], ["annotate", "pool", "--colour"], ["annotate", "pool", "--draws", "many"]):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert "Traceback" not in err


def test_sql_table(run: Callable, manifest: Path) -> None:
    code, out, err = run("sql", manifest, "SELECT source, count(*) AS n FROM manifest GROUP BY source ORDER BY source")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [["source", "n"], ["a", "2"], ["b", "3"]]
    _, out, _ = run("sql", manifest, "SELECT uri FROM manifest")
    assert [line.strip() for line in out.splitlines()] == ["uri", "a.png", "[red]b.png", "c\\nd.png", "é,.png", "x.png"]


def test_sql_csv_and_json(run: Callable, manifest: Path) -> None:
    query = "SELECT uri, sigma_min, p_clean FROM manifest"
    code, out, err = run("sql", manifest, query, "--csv")
    assert (code, err) == (0, "")
    header, *found = csv.reader(io.StringIO(out, newline=""))
    assert header == ["uri", "sigma_min", "p_clean"]
    assert [row[0] for row in found] == ["a.png", "[red]b.png", "c\nd.png", "é,.png", "x.png"]
    assert [row[1] for row in found] == ["0.0", "0.5", "0.25", "inf", ""]
    code, out, err = run("sql", manifest, query, "--json")
    assert (code, err) == (0, "")
    found = [json.loads(line) for line in out.splitlines()]
    assert [row["sigma_min"] for row in found] == [0.0, 0.5, 0.25, math.inf, None]
    assert found[2]["uri"] == "c\nd.png"


def test_sql_parameters_and_files(run: Callable, manifest: Path, tmp_path: Path) -> None:
    query = "SELECT source, count(*) AS n FROM manifest WHERE sigma_min <= $s GROUP BY ALL ORDER BY ALL"
    code, out, err = run("sql", manifest, query, "--param", "s=0.3", "--csv")
    assert (code, out, err) == (0, "source,n\na,1\nb,1\n", "")
    for name in ("out.csv", "out.parquet"):
        assert run("sql", manifest, query, "--param", "s=inf", "-o", tmp_path / name) == (0, "", "")
    assert (tmp_path / "out.csv").read_text() == "source,n\na,2\nb,2\n"
    assert pq.read_table(tmp_path / "out.parquet").to_pydict() == {"source": ["a", "b"], "n": [2, 2]}
    before = manifest.read_bytes()
    assert "manifest itself" in one_line(run("sql", manifest, query, "-o", manifest))
    assert "manifest itself" in one_line(run("sql", manifest, query, "-o", tmp_path / "." / "m.parquet"))
    assert manifest.read_bytes() == before
    assert "give one" in one_line(run("sql", manifest, query, "-o", tmp_path / "x.csv", "--json"))
    assert "name=value" in one_line(run("sql", manifest, query, "--param", "s"))
    assert "s" in one_line(run("sql", manifest, query))
    assert not (tmp_path / "x.csv").exists()


def test_sql_from_stdin(manifest: Path) -> None:
    done = ambient("sql", manifest, "--csv", input="SELECT count(*) AS n\nFROM manifest;\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "n\n5\n", "")
    done = ambient("sql", manifest, input="")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_ctrl_c_stops_a_query_with_130(manifest: Path) -> None:
    endless = "SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b"
    command = [sys.executable, "-m", "ambient.cli", "sql", str(manifest), endless]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        time.sleep(2)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert err.count("\n") == 1


def test_sql_errors_are_one_line(run: Callable, manifest: Path, tmp_path: Path) -> None:
    assert "sigma_mim" in one_line(run("sql", manifest, "SELECT sigma_mim\nFROM manifest"))
    assert "disabled" in one_line(run("sql", manifest, f"COPY manifest TO '{tmp_path}/x.csv'"))
    assert "no manifest" in one_line(run("sql", tmp_path / "none.parquet", "SELECT 1"))
    assert "give one" in one_line(run("sql", manifest, "SELECT 1", "--csv", "--json"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.parquet"]


def test_show(run: Callable, manifest: Path) -> None:
    code, out, err = run("show", manifest, "[red]b.png", "a.png")
    assert (code, err) == (0, "")
    assert out.startswith("[red]b.png\n  used at noise levels above 0.577\n")
    assert "\na.png\n" in out
    code, out, _ = run("show", manifest, "x.png", "--json")
    assert (code, json.loads(out)["status"]) == (0, "unreadable")
    assert "no picture 'none.png'" in one_line(run("show", manifest, "none.png"))


def test_report(run: Callable, manifest: Path, tmp_path: Path) -> None:
    code, out, err = run("report", manifest, "-o", tmp_path / "report.html")
    assert (code, out) == (0, "")
    assert "could not be read" in err
    assert "5 pictures" in err
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert "no root named" in one_line(run("report", manifest, "-o", tmp_path / "b.html", "--root", "x=/"))


def test_doctor(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from ambient.train.doctor import Check

    good, bad = (Check(group="g", name=str(ok), value="v", ok=ok, advice="do this") for ok in (True, False))
    monkeypatch.setattr("ambient.train.doctor.doctor", lambda device: [good])
    assert run("doctor")[0] == 0
    monkeypatch.setattr("ambient.train.doctor.doctor", lambda device: [good, bad])
    code, out, _ = run("doctor")
    assert (code, out.splitlines()[-1]) == (1, "False: do this")
    code, out, _ = run("doctor", "--json")
    assert [json.loads(line)["ok"] for line in out.splitlines()] == [True, False]


def test_debug_shows_the_traceback() -> None:
    quiet, loud = ambient("annotate", "/nowhere"), ambient("annotate", "/nowhere", "--debug")
    assert quiet.returncode == 2
    assert quiet.stderr.count("\n") == 1
    assert loud.returncode != 0
    assert "Traceback" in loud.stderr
    assert "UserError: there is no pool at /nowhere" in loud.stderr


def test_our_own_bugs_are_a_traceback(monkeypatch: pytest.MonkeyPatch, run: Callable, manifest: Path) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("ambient.curate.ask.query", bug)
    with pytest.raises(ZeroDivisionError):
        run("sql", manifest, "SELECT 1")


def test_devices(run: Callable, tmp_path: Path) -> None:
    import torch

    pool = write_photo_pool(tmp_path / "pool", clean=1, per_blur=1)
    assert "auto, cpu, cuda" in one_line(run("annotate", pool, "--device", "gpu7"))
    assert "not supported" in one_line(run("annotate", pool, "--device", "meta"))
    if not torch.cuda.is_available():
        assert "sees 0 CUDA devices" in one_line(run("annotate", pool, "--device", "cuda"))
    assert "CUDA devices" in one_line(run("annotate", pool, "--device", "cuda:99"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pool"]


def test_bad_input_is_one_line(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    pool = write_photo_pool(tmp_path / "pool", clean=2, per_blur=2)
    assert "no picture in empty" in one_line(run("annotate", "empty"))
    assert "epsilon" in one_line(run("annotate", pool, "--epsilon", "0.7"))
    assert "no manifest" in one_line(run("train", "none.parquet", "-o", "runs"))
    (tmp_path / "text.parquet").write_text("text")
    assert "not a readable Parquet" in one_line(run("train", "text.parquet", "-o", "runs"))
    assert "--root is written name=path" in one_line(run("train", "none.parquet", "-o", "runs", "--root", "pool"))
    one_line(run("sample", "nowhere"))
    one_line(run("corrupt", "nowhere", "out"))
    (pool / "torn.png").write_bytes(b"torn")
    code, _, err = run("corrupt", pool, "out")
    assert (code, "1 pictures cannot be used and were left out" in err) == (0, True)


def test_dry_run_prints_json_and_writes_nothing(run: Callable, tmp_path: Path) -> None:
    pool = write_photo_pool(tmp_path / "pool", clean=2, per_blur=2)
    code, out, _ = run("annotate", pool, "-o", tmp_path / "m.parquet", "--dry-run", "--draws", "4")
    assert code == 0
    assert json.loads(out)["pictures_found"] == 6
    assert json.loads(out)["draws"] == 4
    code, out, _ = run("score", pool, "-o", tmp_path / "s.parquet", "--by", "phash,noise", "--dry-run")
    assert code == 0
    assert json.loads(out)["pictures"] == 6
    assert json.loads(out)["scores"][-1] == "phash"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pool"]


def test_messages_go_to_stderr_and_the_table_to_stdout(tmp_path: Path) -> None:
    pool = write_photo_pool(tmp_path / "pool", clean=12, per_blur=8)
    options = ["--clean", pool / "clean", "--steps", 1, "--draws", 1, "--accept-indistinguishable"]
    done = ambient("annotate", pool, "-o", tmp_path / "m.parquet", *options)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [
        ["blurred", "8"],
        ["clean", "12"],
        ["soft", "8"],
    ]
    assert "found 28 pictures" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_annotate_with_130_and_one_line(tmp_path: Path, number: signal.Signals) -> None:
    pool = write_photo_pool(tmp_path / "pool", clean=12, per_blur=8)
    out = tmp_path / "m.parquet"
    options = ["-o", str(out), "--clean", str(pool / "clean"), "--steps", "100000"]
    command = [sys.executable, "-m", "ambient.cli", "annotate", str(pool), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        until = time.monotonic() + 60
        while not (tmp_path / "m.parquet.parts" / "records-000000.parquet").exists():
            assert running.poll() is None, running.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(0.3)  # training
        running.send_signal(number)
        _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "ambient: stopped; the same command continues"
    assert "Traceback" not in err
    assert not out.exists()
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("options", [[], ["--csv"], ["--json"]])
@pytest.mark.parametrize("rows", [1, 200_000])
def test_a_reader_that_stops_early_is_no_error(manifest: Path, options: list[str], rows: int) -> None:
    """`ambient sql ... | head -1`: quiet. The pipe is closed before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    query = f"FROM range({rows})"
    command = [sys.executable, "-m", "ambient.cli", "sql", str(manifest), query, *options]
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    finally:
        os.close(writing)
    assert done.stderr == ""
    assert done.returncode in (0, -signal.SIGPIPE)


def test_installed_console_script_is_main() -> None:
    import tomllib

    root = Path(cli.__file__).parent
    assert tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"] == {"ambient": "ambient.cli:main"}
