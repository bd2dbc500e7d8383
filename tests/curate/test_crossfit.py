"""Cross-fitting: which pictures a classifier sees, what that is good for, and the file."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ambient.curate import fit
from ambient.curate.classifier import ClassifierConfig, QualityClassifier
from ambient.curate.crossfit import CrossFitted, folds_of, load_classifier, save_classifier
from ambient.curate.fit import FitConfig, Split, cross_fit, fit_members
from ambient.curate.noise import names_of
from ambient.curate.noisy import Sample
from ambient.schemas.errors import UserError
from ambient.schemas.space import Space
from fields import Fields

FIELDS = Fields(resolution=8)
SPACE = Space(resolution=8, channels=1)
NAMES = names_of([f"{i:032x}"[::-1] for i in range(4000)])


def sample(pictures: torch.Tensor, first: int = 0) -> Sample:
    names = NAMES[first : first + len(pictures)]
    return Sample(pictures=pictures, names=names, groups=torch.zeros(len(pictures), dtype=torch.int64))


def test_folds_depend_on_content_and_seed_alone() -> None:
    folds = folds_of(NAMES, 2, seed=0)
    assert 0.45 < folds.double().mean() < 0.55
    order = torch.randperm(4000)[:100]
    assert torch.equal(folds_of(NAMES[order], 2, seed=0), folds[order])
    assert 0.4 < (folds_of(NAMES, 2, seed=1) == folds).double().mean() < 0.6
    assert sorted(folds_of(NAMES, 5, seed=0).unique().tolist()) == [0, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def one_population() -> tuple[Sample, Sample]:
    """Clean and other pictures that are not different at all: whatever is told apart, is remembered."""
    return sample(FIELDS.draw(80, seed=1)), sample(FIELDS.draw(80, seed=2), first=80)


def shown(member: QualityClassifier, pictures: torch.Tensor) -> torch.Tensor:
    """p_clean of each picture at noise that hides next to nothing."""
    sigma = torch.full((len(pictures),), 0.05)
    with torch.no_grad():
        return torch.sigmoid(member(pictures, sigma))


def overtrained(clean: Sample, other: Sample, splits: list[Split]) -> list[QualityClassifier]:
    """Members after 200 steps, whatever the held-out loss says: it is measured on what they train on."""
    config = FitConfig(steps=200, batch_size=64, lr=5e-3)
    blind = [Split(clean=s.clean, other=s.other, held_clean=s.clean, held_other=s.other) for s in splits]
    network = ClassifierConfig(dropout=0.0, width=64, block_width=32)
    return fit_members(clean, other, blind, space=SPACE, config=config, network=network).members


def test_a_picture_that_was_trained_on_is_judged_by_memory(one_population: tuple[Sample, Sample]) -> None:
    """The bias that cross-fitting removes: of two equal sets the "other" one looks bad to whom has learned it so."""
    clean, other = one_population
    all_ = torch.arange(80)
    (alone,) = overtrained(clean, other, [Split(clean=all_, other=all_, held_clean=all_, held_other=all_)])
    biased = shown(alone, clean.pictures).mean() - shown(alone, other.pictures).mean()

    folds = [folds_of(s.names, 2, 0) for s in one_population]
    places = [[(f == k).nonzero()[:, 0] for f in folds] for k in (0, 1)]
    splits = [
        Split(clean=places[1 - k][0], other=places[1 - k][1], held_clean=places[k][0], held_other=places[k][1])
        for k in (0, 1)
    ]
    members = overtrained(clean, other, splits)
    judged = [
        torch.cat([shown(members[k], s.pictures[places[k][i]]) for k in (0, 1)]).mean()
        for i, s in enumerate(one_population)
    ]
    assert biased > 0.4
    assert abs(judged[0] - judged[1]) < 0.2


@pytest.mark.parametrize("num", [2, 3])
def test_no_member_depends_on_the_pictures_that_it_judges(one_population: tuple[Sample, Sample], num: int) -> None:
    """Other pixels in fold 0 change the members that train on it, and leave member 0, which judges it, alone.

    Not other energies: how all members start follows from what the likelihood path makes of held-out pictures.
    """
    clean, other = one_population
    changed = copy.deepcopy(other)
    mine = folds_of(other.names, num, 0) == 0
    changed.pictures[mine] = changed.pictures[mine].flip(2)
    config = FitConfig(steps=12, batch_size=16)
    before, after = (cross_fit(clean, o, space=SPACE, config=config, folds=num).members for o in (other, changed))
    assert len(before) == num
    for name, value in before[0].state_dict().items():
        assert torch.equal(value, after[0].state_dict()[name]), name
    assert not any(
        torch.equal(a.joint_in.weight, b.joint_in.weight) for a, b in zip(before[1:], after[1:], strict=True)
    )


def test_two_threads_find_the_same_gradients_bit_for_bit() -> None:
    """Sums by atomic additions come in another order every time, and training amplifies that."""
    random = torch.Generator().manual_seed(0)
    member = QualityClassifier(Space(resolution=16), ClassifierConfig(), torch.rand(6, 5, 192, generator=random) + 0.1)
    x, sigma = torch.randn(512, 3, 16, 16, generator=random), torch.rand(512, generator=random) + 0.1
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    found = [torch.autograd.grad(member(x, sigma).square().sum(), member.log_spectra)[0] for _ in range(5)]
    torch.set_num_threads(threads)
    assert all(torch.equal(gradient, found[0]) for gradient in found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_the_same_classifiers_twice() -> None:
    """On so many pictures that a GPU's sums over all of them would come in another order every time."""
    device = torch.device("cuda")
    random = torch.Generator(device).manual_seed(0)

    def some(num: int, groups: int) -> Sample:
        pictures = torch.randint(256, (num, 3, 32, 32), device=device, generator=random).to(torch.uint8)
        names = torch.arange(num, device=device)
        return Sample(pictures=pictures, names=names, groups=names % groups)

    clean, other, space = some(8000, 1), some(60_000, 6), Space(resolution=32)
    once, twice = (
        cross_fit(clean, other, space=space, config=FitConfig(steps=300), network=ClassifierConfig(groups=6))
        for _ in range(2)
    )
    assert once.steps == twice.steps
    for a, b in zip(once.members, twice.members, strict=True):
        for name, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[name]), name


def test_more_steps_than_it_takes_change_nothing(one_population: tuple[Sample, Sample]) -> None:
    fits = [cross_fit(*one_population, space=SPACE, config=FitConfig(steps=s, batch_size=32)) for s in (100, 150)]
    assert fits[0].steps < 100 / 1.7  # it has turned before the shorter one ends
    assert fits[0].turned
    assert fits[1].steps == fits[0].steps
    for a, b in zip(fits[0].members, fits[1].members, strict=True):
        torch.testing.assert_close(a.state_dict(), b.state_dict())


def test_accuracy_is_of_held_out_pictures(one_population: tuple[Sample, Sample]) -> None:
    fit = cross_fit(*one_population, space=SPACE, config=FitConfig(steps=50, batch_size=32))
    assert abs(fit.accuracy - 0.5) < 0.15
    assert not fit.turned  # nobody looked again
    blurred = sample(FIELDS.draw(60, blur=1.5, seed=5), first=80)
    assert cross_fit(one_population[0], blurred, space=SPACE, config=FitConfig(steps=50, batch_size=32)).accuracy > 0.9


def test_a_fold_with_nothing_in_it_is_one_line() -> None:
    few = sample(FIELDS.draw(1, seed=1))
    other = sample(FIELDS.draw(20, seed=2), first=1)
    with pytest.raises(UserError, match="too few pictures to cut in two: one half has none of a set"):
        cross_fit(few, other, space=SPACE, config=FitConfig(steps=1))
    with pytest.raises(UserError, match="too few pictures to cut in 5 folds: one has none of a set"):
        cross_fit(few, other, space=SPACE, config=FitConfig(steps=1), folds=5)


def test_the_file_holds_all_of_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ClassifierConfig(groups=3, width=16, block_width=8)
    members = [QualityClassifier(SPACE, config).eval() for _ in range(2)]
    for member in members:
        for parameter in member.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        member.log_temperature.normal_()
    saved = CrossFitted(
        members, seed=7, groups=("a", "b", ""), spread=[0.25, 0.5], calibration=[[0.01, 0.2, 0.03, 0.02]]
    )
    digest = save_classifier(tmp_path / "c.safetensors", saved)
    loaded, again = load_classifier(tmp_path / "c.safetensors")
    assert digest == again
    assert loaded.calibration == saved.calibration
    assert (loaded.seed, loaded.groups, loaded.spread) == (7, ("a", "b", ""), [0.25, 0.5])
    assert loaded.told(("a", "b", "never seen"), torch.zeros(3)).tolist() == [0, 1, 2]
    assert torch.equal(loaded.folds(NAMES), folds_of(NAMES, 2, 7))
    x, sigma, group = torch.randn(5, 1, 8, 8), torch.rand(5) + 0.1, torch.tensor([0, 1, 2, 0, 1])
    outputs = []
    for member, other in zip(loaded.members, members, strict=True):
        outputs.append(member(x, sigma, group))
        assert torch.equal(outputs[-1], other(x, sigma, group))
    assert not torch.equal(*outputs)
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "c.safetensors").read_bytes()[:500])
    for path in (tmp_path / "torn.safetensors", tmp_path / "missing.safetensors"):
        with pytest.raises(UserError, match="is not a classifier"):
            load_classifier(path)


def test_one_level_for_all_is_the_same_as_level_by_level() -> None:
    """The quick way that the annotator takes, and groups beside it."""
    torch.manual_seed(1)
    member = QualityClassifier(SPACE, ClassifierConfig(groups=2), torch.rand(6, 3, 64) + 0.1).eval()
    for parameter in member.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, group = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 0, 1, 1, 0])
    quick = member(x, torch.tensor([0.7]).expand(6), group)
    torch.testing.assert_close(quick, member(x, torch.full((6,), 0.7), group), rtol=1e-4, atol=1e-5)
    assert not np.allclose(quick.detach(), member(x, torch.tensor([0.7]).expand(6), 1 - group).detach())


def checks(last: int) -> tuple[int, ...]:
    """The steps of the checks up to this one."""
    step, found = 50, []
    while step <= last:
        found.append(step)
        step = math.ceil(1.15 * step)
    return tuple(found)


@pytest.mark.parametrize(
    ("lows", "gain", "best", "end"),
    [
        ((50, 78, 120), 0.01, 120, 211),  # 56 and 54 % more steps were worth waiting for
        ((50, 78, 159), 0.01, 78, 138),  # 104 % were not
        ((*checks(2643), 4021), 0.01, 4021, 6117),  # 1,378 more, of 1,500
        (checks(12307), 0.01, 12307, 16278),  # 30 % more
        (checks(3000), 0.0001, 2643, 4625),  # however little it is, of few steps
        (checks(20_000), 0.0014, 9305, 9305),  # lower at each check, but not by 0.3 % with 30 % more
        (checks(12307), 0.0016, 12307, 14154),  # by more
    ],
)
def test_how_long_a_loss_is_watched(
    lows: tuple[int, ...],
    gain: float,
    best: int,
    end: int,
    one_population: tuple[Sample, Sample],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """lows: the checks at which the held-out loss is lower than ever before, by this share."""
    steps = [0]

    def held_out_loss(trainee: fit._Trainee) -> float:
        return (1 - gain) ** (1 + lows.index(steps[-1])) if steps[-1] in lows else 1.0

    monkeypatch.setattr(fit._Trainee, "prepare", lambda trainee, number: steps.append(number))
    monkeypatch.setattr(fit._Trainee, "step", lambda trainee: None)
    monkeypatch.setattr(fit._Trainee, "held_out_loss", held_out_loss)
    found = cross_fit(*one_population, space=SPACE, config=FitConfig(steps=20_000, batch_size=32))
    assert (found.steps, steps[-1], found.turned) == (best, end, True)
