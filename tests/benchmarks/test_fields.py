"""The fields experiment's parts: ideal denoisers by brute force, one network for many runs, verdict and page."""

import re
import sys
from itertools import product
from pathlib import Path

import ambient
import pytest
import torch
from ambient.train.state import new_state
from ambient.train.world import World
from fields import Fields
from torch.testing import assert_close

CPU = torch.device("cpu")
DOCS = Path(ambient.__file__).parent / "docs"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(ambient.__file__).parent / "benchmarks"))
    for name in ("fields_training", "fields_ideal", "fields_page", "marks"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_the_mixture_denoiser_is_the_posterior_mean(sigma: float) -> None:
    """Against the mean of a million fields, each weighted by how likely it is to have become x."""
    from fields_ideal import mixture_denoiser

    fields, shares = Fields(resolution=2), {0.0: 0.3, 0.5: 0.7}
    num = 1_000_000
    w0 = torch.cat([fields.draw(round(num * s), blur=b, seed=k) for k, (b, s) in enumerate(shares.items())]).double()
    x = fields.draw(4, seed=9) + sigma * torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    for one in x.double():
        weight = torch.softmax(-(one - w0).square().sum(dim=(1, 2, 3)) / (2 * sigma**2), dim=0)
        expected = (weight[:, None, None, None] * w0).sum(dim=0)
        assert_close(mixture_denoiser(fields, one[None], sigma, shares)[0].double(), expected, rtol=0, atol=0.02)


def test_ideal_excess_follows_what_an_arm_may_use() -> None:
    from fields_ideal import ARMS, ideal_excess

    fields, floors = Fields(resolution=8), {0.5: 0.5, 1.0: 1.0}
    clean, everything, ambient_target, plain_target = (
        [ideal_excess(fields, arm, floors, sigma, num=256) for sigma in (0.55, 0.7, 2.0)] for arm in ARMS
    )
    assert max(clean) < 1e-9
    assert ambient_target == plain_target
    assert plain_target[0] < 1e-9  # 0.55 is below beta * 0.5
    assert 0 < plain_target[1] < everything[1]
    assert plain_target[2] == everything[2] > 0


def test_runs_that_share_a_network_learn_what_they_learn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import fields_training
    from fields_training import Setting, share_compiled, train

    compilations = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: compilations.append(1))
    setting = Setting(resolution=8, num=300, images=256, channels=8)
    floors = dict.fromkeys(fields_training.BLURS, 0.5)
    shared, found = None, {True: [], False: []}
    for share in (True, False):
        for arm, seed in (("all as equal", 0), ("thresholds (ambient)", 1)):
            state = new_state(setting.config(arm, seed, CPU), setting.space, World(rank=0, size=1, device=CPU))
            if share:
                shared = share_compiled(state, shared)
            train(state, setting, arm, seed, floors, CPU)
            found[share].append([weight.clone() for weight in state.average.parameters()])
    assert len(compilations) == 1
    for alone, together in zip(found[False], found[True], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_the_verdict_is_of_paired_differences() -> None:
    from fields_ideal import ARMS
    from fields_page import complete, table, verdict

    def runs(excess: dict[str, list[float]]) -> list[dict]:
        about = {"ideal": {"1.0": 0.01}, "sigma_min": {"0.4": 0.9}, "seconds": 1, "hardware": "a", "torch": "2"}
        return [
            {"arm": arm, "seed": seed, "excess": {"1.0": value}, **about, "date": "2026-01-01", "command": "python x"}
            for arm, values in excess.items()
            for seed, value in enumerate(values)
        ]

    names = list(ARMS)
    # Seeds differ by far more than arms do, but the last arm is worse by 0.02 with each of them.
    made = runs(dict(zip(names, ([0.1, 0.3], [0.2, 0.5], [0.11, 0.29, 0.9], [0.12, 0.321]), strict=True)))
    assert complete(made) == {0, 1}
    assert verdict(made, "1.0") == "plain: by 2.05 ± 0.05"
    assert "| 1.0 | 20.00 ± 10.00 | 35.00 ± 15.00, 1.00 | 20.00 ± 9.00, 1.00 |" in table(made)
    better = [{**run, "excess": {"1.0": 0.05}} if run["arm"] == names[3] else run for run in made]
    assert verdict(better, "1.0") == "no"


def test_the_page_is_what_was_measured() -> None:
    from fields_page import records, with_tables

    page = (DOCS / "fields.md").read_text()
    assert with_tables(page, records(DOCS / "fields")) == page
    assert set(re.findall("<!-- table (.*) -->", page)) == set(records(DOCS / "fields"))


def test_where_some_fields_are_hardly_damaged_and_some_ruined_thresholds_are_best_at_every_level() -> None:
    from fields_page import OTHERS, OURS, complete, records, values, verdict

    runs = records(DOCS / "fields")["wide"]
    assert complete(runs) == set(range(5))
    levels = list(runs[0]["excess"])
    assert len(levels) == 12
    for level in levels:
        assert verdict(runs, level) == "no"
        ours, others = ([values(runs, arm, level).mean() for arm in arms] for arms in (OURS, OTHERS))
        assert max(ours) < min(others), level


def test_with_strict_thresholds_none_is_better_even_far_out() -> None:
    """And the plain target's mean is below both others' everywhere, the ambient one's where nothing ruined is used."""
    from fields_page import OTHERS, complete, records, standard_error, values, verdict

    runs = records(DOCS / "fields")["strict"]
    assert complete(runs) == set(range(10))
    assert all(run["setting"]["epsilon"] == 0.01 for run in runs)
    levels = list(runs[0]["excess"])
    assert (len(levels), levels[0], levels[-1]) == (16, "0.02", "40.0")
    for level in levels:
        assert verdict(runs, level) == "no"
        others = [values(runs, arm, level) for arm in OTHERS]
        ambient, plain = (values(runs, f"thresholds ({target})", level) for target in ("ambient", "plain"))
        assert plain.mean() < min(other.mean() for other in others)
        assert ambient.mean() < min(other.mean() for other in others) or float(level) > 17.2
        if 0.2 <= float(level) <= 15:
            for ours, other in product((ambient, plain), others):
                assert (other - ours).mean() > 2 * standard_error(other - ours)
