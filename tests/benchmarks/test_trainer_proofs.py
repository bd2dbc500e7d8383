"""The trainer's proofs keep to their time, and what they had found by then is written down."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import ambient
import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(ambient.__file__).parent / "benchmarks"))
    for name in ("trainer_proofs", "trainer_bench"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_proof_out_of_time_leaves_its_rows_and_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trainer_proofs
    from trainer_bench import TINY, Bench

    started = tmp_path / "pid"
    forever = f"import os, time; open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    def slow(bench: Bench) -> trainer_proofs.Rows:
        yield {"what": "first", "rms": 1.5}
        bench.run([sys.executable, "-c", forever], bench.log("slow"), {})
        yield {"what": "never", "rms": 2.5}

    monkeypatch.setitem(trainer_proofs.PROOFS, "killed", slow)
    out = tmp_path / "proofs.json"
    out.write_text(json.dumps({"world": {"rows": []}}))
    bench = Bench(work=tmp_path, size=TINY, device="cpu")
    begin = time.monotonic()
    assert not trainer_proofs.prove("killed", bench, argparse.Namespace(device="cpu", budget=3.0, out=out, tiny=True))
    assert time.monotonic() - begin < 20
    found = json.loads(out.read_text())
    assert found["world"] == {"rows": []}
    assert found["killed"]["rows"] == [{"what": "first", "rms": 1.5}]
    assert "slow was not finished" in found["killed"]["stopped"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def test_a_proof_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trainer_proofs
    from trainer_bench import TINY, Bench

    asked: list[str] = []

    def two_runs(bench: Bench) -> trainer_proofs.Rows:
        yield {"what": "both", "end": float(bench.trained("first")[-1] + bench.trained("second")[-1])}

    def run(bench: Bench, command: list[str], log: Path, extra: dict[str, str]) -> None:
        asked.append(log.stem)

    monkeypatch.setitem(trainer_proofs.PROOFS, "killed", two_runs)
    monkeypatch.setattr(Bench, "run", run)
    monkeypatch.setattr(Bench, "curve", lambda bench, name: np.array([2.0, 1.0]))
    out = tmp_path / "proofs.json"
    same = {"hardware": "CPU", "torch": torch.__version__, "tiny": True}
    first = {"first": {"seconds": 3, "loss": [5.0, 4.0]}}
    stopped = {**same, "rows": [], "runs": first, "seconds": 7, "finished": False}
    out.write_text(json.dumps({"killed": stopped}))
    bench = Bench(work=tmp_path, size=TINY, device="cpu")
    arguments = argparse.Namespace(device="cpu", budget=3.0, out=out, tiny=True)
    assert trainer_proofs.prove("killed", bench, arguments)
    found = json.loads(out.read_text())["killed"]
    assert (found["rows"], found["finished"], found["seconds"]) == ([{"what": "both", "end": 5.0}], True, 7)
    assert asked == ["second"]
    asked.clear()
    assert trainer_proofs.prove("killed", bench, arguments)  # what is finished is begun anew
    assert asked == ["first", "second"]
    asked.clear()
    out.write_text(json.dumps({"killed": {**stopped, "tiny": False}}))
    assert trainer_proofs.prove("killed", bench, arguments)  # and so is what was found with other settings
    assert asked == ["first", "second"]


def test_every_proof_says_how_long_it_takes() -> None:
    from trainer_proofs import EXPECTED, PROOFS

    assert EXPECTED.keys() == PROOFS.keys()


def test_curves_are_compared_with_those_of_other_seeds() -> None:
    import numpy as np
    from trainer_proofs import against

    rng = np.random.default_rng(0)
    seeds = [1 + 0.1 * rng.standard_normal(300) for _ in range(2)]
    assert against("", seeds[0] + 0.001, seeds[0], seeds)["within"]
    assert not against("", seeds[0] + 0.1, seeds[0], seeds)["within"]
