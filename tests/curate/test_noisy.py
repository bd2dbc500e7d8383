"""What a batch of a quality classifier's training is made of."""

import torch
from ambient.curate.noisy import Sample, draw_table, noised


def test_a_group_is_drawn_by_the_square_root_of_its_share() -> None:
    groups = torch.tensor([2] * 900 + [0] * 100 + [2] * 700)
    table = draw_table(groups)
    each = table.diff(prepend=torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(each[900:1000].sum().item(), 10 / (10 + 40))  # of 100 and 1,600 pictures
    torch.testing.assert_close(each[0].item(), 40 / 50 / 1600)
    assert table[-1] == 1  # so that no draw lies behind it


def test_pictures_are_drawn_as_the_table_says() -> None:
    pictures = 1000.0 * torch.arange(6).view(6, 1, 1, 1)  # whatever noise is added, each is known
    other = Sample(pictures=pictures, names=torch.arange(6), groups=torch.tensor([0, 1, 1, 1, 1, 0]))
    clean = Sample(pictures=pictures[:2] - 9000, names=torch.arange(2), groups=torch.zeros(2).long())
    places = torch.tensor([0, 1, 2, 4])  # two groups: one picture, and three
    half, generator = 20_000, torch.Generator().manual_seed(0)
    x, _, told, labels = noised(clean, other, torch.arange(2), places, half, (0.01, 80.0), generator)
    shown = (x[:, 0, 0, 0] / 1000).round().long()
    assert labels.tolist() == [1.0] * half + [0.0] * half
    assert set(shown[:half].tolist()) == {-9, -8}
    assert set(shown[half:].tolist()) == {0, 1, 2, 4}
    assert torch.equal(told[half:], other.groups[shown[half:]])
    rare = 1 / (1 + 3**0.5)
    for groups in told[:half], told[half:]:  # clean pictures are told the same groups
        assert abs((groups == 0).double().mean() - rare) < 0.01
    assert abs((shown[half:] == 4).double().mean() - (1 - rare) / 3) < 0.01
