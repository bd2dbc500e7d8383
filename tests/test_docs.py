"""The documents say what is so: queries have these results, recipes run, columns are the columns, links lead on.

tests/demo.parquet is the manifest that `ambient demo` wrote on two CPU cores on 2026-11-23, without its curves.
"""

import importlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from statistics import mean
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from ambient import cli
from ambient.curate.pool import to_table
from ambient.curate.query import matching, query
from ambient.curate.scores import SCORES
from ambient.curate.tables import print_table
from ambient.schemas import manifest as schema
from ambient.schemas.manifest import Metadata, check_rows
from hostile_pool import write_hostile_pool

ROOT = Path(cli.__file__).parent
DEMO = Path(__file__).parent / "demo.parquet"
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
DOCUMENTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PAGES}
COMMANDS = {command.callback.__name__ for command in cli.app.registered_commands}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def shell_commands() -> Iterator[tuple[str, str]]:
    """(document, command line) of every `ambient ...` in a block of shell."""
    for name, text in DOCUMENTS.items():
        for block in blocks(text, "sh"):
            for line in block.splitlines():
                if line.startswith("ambient "):
                    yield name, line


QUESTIONS = re.findall(
    r"^\*\*(\d+)\. ([^\n]*)\*\*\n\n```sql\n(.*?)^```\n```text\n(.*?)^```$",
    DOCUMENTS["README.md"],
    re.MULTILINE | re.DOTALL,
)


def test_there_are_ten_questions() -> None:
    assert [int(number) for number, *_ in QUESTIONS] == list(range(1, 11))
    check_rows(pq.read_table(DEMO), "the demo")


@pytest.mark.parametrize(("number", "question", "sql", "answer"), QUESTIONS, ids=[q[0] for q in QUESTIONS])
def test_the_answers_in_the_readme(
    number: str, question: str, sql: str, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_table(query(DEMO, sql))
    found = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert found == answer.splitlines()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", DOCUMENTS[name]):
        if not target.startswith("https://"):
            assert ((ROOT / name).parent / target).exists(), target


def test_every_command_has_a_place_in_the_readme() -> None:
    for name in COMMANDS:
        assert re.search(rf"^\| `ambient {name}\b", DOCUMENTS["README.md"], re.MULTILINE), name


@pytest.mark.parametrize(("name", "line"), list(shell_commands()))
def test_command_lines_are_accepted(name: str, line: str) -> None:
    group = typer.main.get_command(cli.app)
    _, command, *arguments = shlex.split(line)
    context = typer.Context(group)
    found = group.get_command(context, command)
    assert found is not None
    found.make_context(command, arguments, parent=context)


@pytest.mark.parametrize("line", [line for _, line in shell_commands() if re.search("--(clean-)?where ", line)])
def test_predicates_are_about_columns_that_there_are(line: str) -> None:
    words = shlex.split(line)
    option = "--where" if "--where" in words else "--clean-where"
    assert matching(to_table([]), words[words.index(option) + 1], "uri") == []


def test_the_map_in_the_readme_is_of_files_that_there_are() -> None:
    top = inner = ROOT
    lines = re.search(r"```\n(schemas/ .*?)```", DOCUMENTS["README.md"], re.DOTALL)[1].splitlines()
    for line in lines:
        indent, folder = re.match(r"( *)(?:(\w+)/ )?", line).groups()
        if indent == "":
            top = inner = ROOT / (folder or "")
        elif indent == "  ":
            inner = top / (folder or "")
        for name in re.findall(r"\w+\.(?:py|sql)\b", line):
            assert (inner / name).exists(), f"{inner / name}"
    assert len(lines) > 30


def written(kind: pa.DataType) -> str:
    """A type as docs/manifest.md writes it."""
    if pa.types.is_dictionary(kind):
        return "dictionary"
    if pa.types.is_list(kind):
        return f"list of {written(kind.value_type)}"
    return {"float": "float32"}.get(str(kind), str(kind))


def test_every_column_is_in_docs_manifest() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\w ]+?) \| (null)? ?\| (.+) \|$", DOCUMENTS["docs/manifest.md"], re.MULTILINE)
    columns = [*schema.RECORD, *schema.ANNOTATION]
    assert [(name, kind, bool(null)) for name, kind, null, _ in rows] == [
        (column.name, written(column.type), column.nullable) for column in columns
    ]
    meaning = {name: text for name, *_, text in rows}
    for column, words in (("status", schema.STATUSES), ("role", schema.ROLES), ("method", schema.METHODS)):
        assert set(re.findall(r"`(\w+)`", meaning[column])) == set(words)
    for score in SCORES:
        assert f"`{score}`" in DOCUMENTS["docs/manifest.md"]
    assert f"{schema.ROW_GROUP_SIZE:,}" in DOCUMENTS["docs/manifest.md"]


def test_every_field_of_the_metadata_is_in_docs_manifest() -> None:
    _, _, metadata = DOCUMENTS["docs/manifest.md"].partition("## Metadata")
    rows = re.findall(r"^\| `(\w+)` \| .+ \|$", metadata, re.MULTILINE)
    assert rows == [field.name for field in fields(Metadata)]


@pytest.mark.parametrize("name", ["docs/manifest.md", "docs/recipes.md"])
def test_the_python_in_the_documents_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_hostile_pool(tmp_path, num=36)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks(DOCUMENTS[name], "python"):
        exec(compile(block, name, "exec"), names)
    if name == "docs/manifest.md":
        assert capsys.readouterr().out == "16 48\n"
        return
    assert float(names["loss"]) > 0
    assert len(names["x_t"]) == 16


def test_the_tables_on_annotation_are_what_was_measured() -> None:
    """docs/annotation/*.json, written by benchmarks/annotation.py."""
    page = DOCUMENTS["docs/annotation.md"]
    assert script("annotation_table").with_tables(page, ROOT / "docs" / "annotation") == page


def test_the_tables_on_performance_are_what_was_measured() -> None:
    """docs/proofs.json and docs/train_step.jsonl, written by benchmarks/trainer_proofs.py and train_step.py."""
    page, proofs = DOCUMENTS["docs/performance.md"], json.loads((ROOT / "docs" / "proofs.json").read_text())
    assert script("proofs_page").with_tables(page, ROOT / "docs") == page
    assert set(proofs) == {"precision", "world", "resize", "resume", "killed"}
    for name, proof in proofs.items():
        assert proof["finished"] and all(row.get("within", True) for row in proof["rows"]), name


def test_a_step_is_as_fast_as_was_asked_for() -> None:
    records = [json.loads(line) for line in (ROOT / "docs" / "train_step.jsonl").read_text().splitlines()]
    found = {(m["preset"], m["gpus"]): m for m in records if "pictures" not in m}
    one, two, latents = (found[key] for key in (("cifar10", 1), ("cifar10", 2), ("imagenet512-xs", 1)))
    assert one["pictures_per_s"] >= 3000
    assert two["pictures_per_s"] >= 1.9 * one["pictures_per_s"]
    assert latents["pictures_per_s"] >= 1200
    for m in found.values():
        assert m["data_path_share"] <= 0.03
    assert [m["data_path_share"] <= 0.03 for m in records if "before" not in m.get("pictures", "")] == [True] * 7
    phases = script("proofs_page").COMPILER
    whole = [m for m in records if set(phases) <= set(m["compile_s"])]  # of the others most was compiled before
    assert len(whole) == 6
    for m in whole:
        assert sum(m["compile_s"][phase] for phase in phases) <= 90
        assert m["first_step_s"] <= 110
    for m in (one, two, latents):
        assert f"{m['pictures_per_s']:,.0f}" in DOCUMENTS["README.md"]


def script(name: str) -> ModuleType:
    """A module of benchmarks/, which is no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module(name)


def measured(pattern: str) -> dict[str, dict]:
    """name -> what is in docs/annotation/*.json of these names."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(ROOT.glob(f"docs/annotation/{pattern}.json"))}


DATA = ("fashion", "fields", "photographs")


def test_damages_that_are_known_are_in_the_right_order() -> None:
    found = measured("orders-*")
    assert tuple(of["data"] for of in found.values()) == DATA
    for name, of in found.items():
        assert of["in_order"] is True, name
        medians: dict[str, list[float]] = {}
        for row in of["rows"]:
            medians.setdefault(row["damage"].partition("-")[0], []).append(row["median"])
        assert {kind: len(values) for kind, values in medians.items()} == {"blur": 4, "jpeg": 5, "motion": 3}
        assert all(values == sorted(set(values)) for values in medians.values()), name


def test_annotation_is_near_the_exact_answer() -> None:
    trainings = measured("oracle-*")
    assert len(trainings) == 5
    for name, found in trainings.items():
        assert len(found["kl"]) == 6
        assert max(found["kl"].values()) <= 0.01, name
        assert set(found["draws"]) == {"8", "16", "64"}
        for of in found["draws"].values():
            assert of["spearman"] >= 0.97, name
            assert of["median_ln_ratio"] <= 0.08, name
            assert len(of["within"]) == len(found["blurs"]) == 3
            assert min(of["within"]) >= 0.75, name
            assert 0.85 <= of["covers_own"] <= 0.95, name
    for draws in ("8", "16", "64"):
        assert 0.85 <= mean(found["draws"][draws]["covers_optimal"] for found in trainings.values()) <= 0.95


def test_what_is_undamaged_among_the_others_stays_usable() -> None:
    found = measured("hidden-*")
    assert {of["data"] for of in found.values()} == set(DATA)
    for name, of in found.items():
        pictures, medians = of["pictures"], of["median"]
        assert pictures["whole"] / (pictures["whole"] + pictures["blurred"]) == pytest.approx(0.3, abs=0.001), name
        assert medians["whole"] <= 0.1 * medians["blurred"], name
        assert of["whole_above_a_tenth"] <= 0.3, name
        assert 0 < medians["blur-0.6"] < medians["blur-0.8"] < medians["blur-1"], name


def test_more_training_changes_nothing() -> None:
    found = measured("longer-*")
    assert sorted(of["pool"] for of in found.values()) == [3648, 16_000, 16_000, 48_000]
    for name, of in found.items():
        once, twice = of["steps_allowed"]
        assert twice == 2 * once, name
        assert all(judge["steps"] < once for judge in of["judges"]), name
        assert of["median_ln_ratio"] <= 0.05, name


def test_the_search_agrees_with_the_dense_protocol() -> None:
    found = measured("dense-*")
    assert {of["data"]: of["compared"] for of in found.values()} == dict.fromkeys(DATA, 1000)
    for name, of in found.items():
        assert of["first"]["spearman"] >= 0.98, name
        assert of["first"]["median_ln_ratio"] <= 0.08, name
