"""Work that is recorded and replayed on a GPU is the same work."""

import pytest
import torch
from ambient.curate.replay import Replayed, SideBySide


def twenty_calls(device: torch.device, kind: type) -> list[torch.Tensor]:
    """What two functions, which draw from one generator, have made of their tensors."""
    generator = torch.Generator(device).manual_seed(3)
    found = [torch.zeros(256, 256, device=device) for _ in range(2)]

    def grow(x: torch.Tensor) -> None:
        noise = torch.randn(x.shape, device=device, generator=generator)
        x.copy_(torch.tanh(x @ noise / 16 + noise))

    work = kind([lambda x=x: grow(x) for x in found], device)
    advance = Replayed(work, device, generator)
    for _ in range(20):
        advance()
    return found


class InTurn:
    def __init__(self, functions: list, device: torch.device) -> None:
        self.functions = functions

    def __call__(self) -> None:
        for function in self.functions:
            function()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_side_by_side_is_one_after_the_other(device: str) -> None:
    """On a GPU each has a stream of its own; on a CPU it is the same thing."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    found, expected = (twenty_calls(torch.device(device), kind) for kind in (SideBySide, InTurn))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
        assert a.abs().mean() > 0.1
    assert not torch.equal(*found)
