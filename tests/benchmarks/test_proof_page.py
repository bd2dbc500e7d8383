"""The page that is made of recorded results, and the commands on it."""

import re
import shlex
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from proof_records import run_record, small_records, trained_with

ANNOTATED = {"draws": 4, "steps": 2000}

pytestmark = pytest.mark.usefixtures("proof")


def test_the_page_is_made_of_the_records() -> None:
    from docs_results import page

    records = small_records()
    text = page(records)
    assert "| blur-1.0 | 11.0 +- 1.7 (3) | 6.0 +- 1.7 (3) | 50.0 +- " in text
    assert "| blur-0.6 | 11.0 +- 1.7 (3) | 4.000 +- 0.020 (1) |" in text
    assert "| blur-1.0 | ambient | clean only | -5 | -45.5 % |" in text
    assert text.count(r"`lambda \|D - w_0\|^2, z drawn") == 1  # not in each row
    assert "| copies of clean pictures, %" in text
    assert "| damage | label | 0.1 | 1 |" in text
    assert "| blur-1.0 | ambient | 0.500 | 1.000 |" in text
    assert "[any clean 2](../benchmarks/proof/results/fashion-any-clean-2.json)" in text
    assert "## Annotation" not in text
    network = "100 samples, unet of 64 channels x 1 2, P_mean -1.2, dropout 0.1"
    assert text.count(f"### 60 pictures, 1,000 to train on by 50, {network}\n") == 1
    other = page([*records, run_record("blur-1.0", "all", 0, 1.0, config=trained_with(num_images=500))])
    assert "| 1.000 +- " not in other.partition("### 60 pictures, 500 to train")[0]
    changed = run_record("blur-1.0", "all", 0, 1.0, config={**trained_with(), "lr": 1.0})
    assert "| 1.000 +- " in page([*records, changed]).partition("dropout 0.1, lr=1.0\n")[2]
    annotated = run_record("blur-1.0", "all", 0, 1.0, annotated={"draws": 1, "steps": 2000})
    assert "| 1.000 +- " in page([*records, annotated]).partition("dropout 0.1, annotation's draws 1\n")[2]
    fewer = run_record("blur-1.0", "all", 0, 1.0, reference={"pictures": 30})
    assert "| 1.000 +- " in page([*records, fewer]).partition("### 30 pictures")[2]


def test_runs_that_are_held_from_learning_by_heart_otherwise_are_not_compared() -> None:
    from docs_results import page

    moved = run_record("blur-1.0", "all", 0, 1.0, config=trained_with(augment=0.12, dropout=0))
    text = page([*small_records(), moved])
    assert text.count("| 1.000 +- ") == 1
    assert "| 1.000 +- " in text.partition("x 1 2, P_mean -1.2, dropout 0, augmentation 0.12\n")[2]


@pytest.mark.parametrize(("part", "key"), [("reference", "fingerprint"), ("features", "digest")])
def test_runs_against_other_pictures_or_features_are_refused(part: str, key: str) -> None:
    from docs_results import page

    one, other = (run_record("a", "all", seed, 1.0, **{part: {"pictures": 60, key: f"{seed}"}}) for seed in (0, 1))
    assert page([one, {**other, part: one[part]}])
    with pytest.raises(ValueError, match=f"the {key} of the {part} is another: {one['file']}, {other['file']}"):
        page([one, other])


def claimed(clean: float, all_: float, kept: float, *, row: str = "blur-0.6") -> str:
    """The line of the table of the claim, of three seeds that differ in nothing but chance."""
    from results_verdicts import claim_table

    distances = {"clean": clean, "all": all_, "kept": kept}
    labels = {
        label: {seed: run_record(row, label, seed, value * (1 + 0.01 * seed)) for seed in range(3)}
        for label, value in distances.items()
    }
    return claim_table({row: labels}).rpartition("\n")[2]


def test_the_claim_is_told_first() -> None:
    from docs_results import page

    line = claimed(2.0, 4.0, 1.5)
    assert line.startswith("| blur-0.6 | -25.0 % (-")
    assert line.endswith("; 3 seeds) |  | reached |")  # no arm with one sigma_min for all
    missed_clean, missed_all = "| missed against clean only |", "| missed against all as equal |"
    assert claimed(2.0, 4.0, 1.8).endswith(missed_clean)  # by 10 % only
    assert claimed(2.0, 4.0, 1.8, row="blur-1.0").endswith("| reached |")
    assert claimed(2.0, 4.0, 1.995, row="blur-1.0").endswith(missed_clean)  # within two standard errors
    assert claimed(2.0, 4.0, 3.0).endswith(missed_clean)
    assert claimed(2.0, 1.0, 1.5).endswith(missed_all)
    assert claimed(2.0, 1.499, 1.5).endswith("| reached |")
    records = small_records()
    assert "The claim:" not in page(records)  # nothing of the trainer's own draw
    text = page([*records, run_record("blur-1.0", "kept", 0, 5.0)])
    assert text.partition("dropout 0.1\n\n")[2].startswith("The claim:")
    assert "| not measured |" in text


def test_rows_with_ablations_are_listed_with_all_their_arms() -> None:
    from results_tables import ablation_table

    def arms(row: str, *labels: str) -> dict:
        return {label: {0: run_record(row, label, 0, 1.0)} for label in labels}

    plain = arms("a", "clean", "all", "kept", "kept-plain", "ambient", "source", "hi", "kept-before")
    assert ablation_table({"a": plain}) == ""
    ablated = arms("b", "clean", "all", "kept", "ambient", "fresh")
    lines = ablation_table({"a": plain, "b": ablated}).splitlines()[4:]
    assert sorted(line.split(" | ")[:2] for line in lines) == sorted(["| b", label] for label in ablated)


def test_the_page_says_of_what_copies_were_counted() -> None:
    from docs_results import page

    clean = page(small_records())
    own = page(small_records(memorised_among={"pictures": 60}))
    some = page(small_records(memorised_among={"pictures": 20}))
    assert "| copies of clean pictures, %" in clean and "| copies of clean pictures, %" in some
    assert "| copies of training pictures, %" in own and "copies of clean" not in own


def test_every_length_has_its_own_plots(tmp_path: Path) -> None:
    from docs_results import page
    from results_plots import draw_all
    from results_tables import ARMS

    records = [*small_records(), *small_records(config=trained_with(num_images=500), samples=50)]
    drawn = []

    def draw(name: str, rows: Any) -> dict[str, str]:
        drawn.append(draw_all(name, rows, ARMS, tmp_path, tmp_path / "plots"))
        return drawn[-1]

    text = page(records, draw)
    assert not drawn[0].keys() & drawn[1].keys()
    assert all(text.count(f"({name})") == 1 for names in drawn for name in names)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {*drawn[0], *drawn[1]}


def test_sections_are_introduced_in_order(tmp_path: Path) -> None:
    from docs_results import page

    names = ("photographs", "fashion16", "fashion")
    text = page([record for name in names for record in small_records(proof=name, hardware="CPU")])
    places = [text.index(f"\n## {name}\n") for name in ("fashion", "photographs", "fashion16")]
    assert places == sorted(places)
    assert "\n## fashion16\n\nFashion-MNIST at 16x16, for machines without a GPU: 20,000 pictures," in text
    assert "\n## photographs\n\nPhotographs: 64x64 crops, 10 % clean" in text
    assert "On CPU, PyTorch 2. Command:\n\n    python benchmarks/proof/prove.py fashion16" in text


def test_the_spread_over_seeds_grows_with_the_value() -> None:
    from results_verdicts import verdict_table

    # 7 % of one arm and nothing of the other: 5 % of each value, with four degrees of freedom.

    def seeds(*values: float, label: str) -> dict:
        return {seed: run_record("a", label, seed, value) for seed, value in enumerate(values)}

    large = {"all": seeds(93.0, 100.0, 107.0, label="all"), "ambient": seeds(50.0, 50.0, 50.0, label="ambient")}
    small = {"all": seeds(9.0, label="all"), "ambient": seeds(7.0, label="ambient")}
    assert "| small | ambient | all as equal | -2 | -22.2 % | 3.5 | 1 | better |" in verdict_table(
        {"big": large, "small": small}
    )
    close = {"all": seeds(7.1, label="all"), "ambient": seeds(7.0, label="ambient")}
    assert "| 1 | within noise |" in verdict_table({"big": large, "small": close})


def test_distances_on_the_way_are_means_over_seeds() -> None:
    from results_tables import curve_table

    runs = {seed: run_record("a", "clean", seed, value) for seed, value in enumerate((2.0, 4.0))}
    table = curve_table({"a": {"clean": runs, "ambient": {0: run_record("a", "ambient", 0, 1.5)}}})
    assert table.startswith("On the way: Frechet distance of 80 samples")
    assert "| damage | label | 500 | 1,000 | seeds |" in table
    assert "| a | clean | 6 | 3 | 2 |" in table
    assert "| a | ambient | 3 | 1.5 | 1 |" in table


def test_numbers_have_the_digits_that_their_interval_gives() -> None:
    from results_tables import plus_minus

    found = [
        plus_minus(*pair)
        for pair in ((133.24, 24.6), (11.04, 1.7), (0.12345, 0.0123), (0.5, 0.0), (1e3, 333.0), (59.442, 0.082))
    ]
    assert found == ["133 +- 25", "11.0 +- 1.7", "0.123 +- 0.012", "0.5", "1000 +- 333", "59.44 +- 0.08"]


def test_the_page_of_results_is_of_all_that_is_recorded() -> None:
    from docs_results import OUT, RESULTS, page, read_records
    from results_plots import CAPTIONS

    plots = {path.relative_to(OUT.parent).as_posix() for path in OUT.with_suffix("").iterdir()}

    def drawn(name: str, rows: Any) -> dict[str, str]:
        files = {f"{OUT.stem}/{name}-{kind}.png": caption for kind, caption in CAPTIONS.items()}
        return {file: caption for file, caption in files.items() if file in plots}

    text = page(read_records(RESULTS), drawn)
    assert text == OUT.read_text(), "write it: python benchmarks/proof/docs_results.py"
    assert plots == set(re.findall(r"^!\[.*\]\((.+)\)$", text, re.MULTILINE))


def empty_proof(name: str, **about: Any) -> Any:
    import tasks

    pictures, clean = np.zeros((0, 16, 16), dtype=np.uint8), np.zeros(0, dtype=bool)
    about |= {"name": name, "pictures": pictures, "clean": clean, "held_out": pictures}
    return tasks.Proof(rows={}, jobs=[], extractor="texture", **about)


def test_commands_on_the_page_train_what_was_recorded() -> None:
    """And name it so: names end with a digest of the settings, but for the oldest, and 267d02a1 by another rule."""
    import tasks
    from commands import changes
    from docs_results import RESULTS, read_records
    from prove import build_parser
    from recorded import command_of, config_of

    named = set()
    for run in (record for record in read_records(RESULTS) if "arm" in record):
        asked = build_parser().parse_args(shlex.split(command_of(run))[2:])
        module, num = import_module(asked.proof), run["reference"]["pictures"]
        assert (asked.samples, asked.pool_size or num, tasks.annotated(asked)) == (run["samples"], num, ANNOTATED)
        job = tasks.Job(row=run["row"], label=run["label"].removesuffix("-before"), seed=run["seed"])
        assert changes(config_of(run), tasks.training_of(module.SETTINGS, job, asked).to_json()) == []
        proof, stem = empty_proof(asked.proof, settings=module.SETTINGS), Path(run["file"]).stem
        if (digest := re.search(r"-[0-9a-f]{8}$", stem)) and digest[0] != "-267d02a1":
            named.add(digest[0])
            assert tasks.job_stem(proof, job, asked).endswith(f"x{run['samples']}{digest[0]}")
    assert len(named) >= 4


def test_commands_in_the_documents_are_accepted() -> None:
    from docs_results import OUT
    from prove import build_parser

    blocks = re.findall(r"^```sh\n(.*?)^```$", OUT.with_name("evaluation.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = re.findall(r"prove\.py (.*)", "".join(blocks).replace("\\\n", ""))
    asked = [build_parser().parse_args(shlex.split(line)) for line in lines]
    assert {options.proof for options in asked} == {"fashion", "photographs", "fashion16"}
    assert all(options.record and options.wait == 60 * options.minutes for options in asked)


def test_commands_that_are_recorded_need_no_defaults() -> None:
    import tasks
    from prove import build_parser

    job, parse = tasks.Job(row="blur-1", label="kept", seed=1), build_parser().parse_args
    folders = ["fashion", "--data", "a", "--work", "b", "--out", "c"]
    asked = [[], ["--pool-size", "20"], ["--pool-size", "9"], ["--images", "7", "--samples", "5", "--draws", "1"]]
    asked += [["--steps", "3", "--set", "lr=1e-5", "--set", "network.attention_resolutions="]]
    proof = empty_proof("fashion", settings=("P_mean=-0.4", "network.multipliers=1,2,4"), usual_size=20)
    stems = []
    for words in asked:
        options = parse([*folders, *words])
        again = parse(shlex.split(tasks.command_of(proof, options))[2:])
        stems.append(tasks.job_stem(proof, job, options))
        assert tasks.job_stem(proof, job, again) == stems[-1]
        assert tasks.job_stem(replace(proof, settings=("lr=3",)), job, again) == stems[-1]
    assert len(set(stems)) == 4  # as many pictures as usual are no other job
    everything = empty_proof("fashion", settings=())
    assert "--pool-size" not in tasks.command_of(everything, parse(folders))
