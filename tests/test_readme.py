"""The README's code runs as it stands."""

import re
from pathlib import Path

import ambient
import pytest
import torch
from small_pool import write_pool
from torch import Tensor, nn

README = (Path(ambient.__path__[0]) / "README.md").read_text()


class Enough(Exception):  # noqa: N818 (nothing is wrong)
    pass


class Model(nn.Module):
    """A denoiser of one weight, and an optimiser that has enough after 20 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(()))
        self.sigma: list[Tensor] = []

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.sigma.append(sigma)
        return self.gain * x

    def step(self) -> None:
        with torch.no_grad():
            self.gain -= 0.02 * self.gain.grad.sign()
        if len(self.sigma) == 20:
            raise Enough


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_in_your_own_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = README[README.index("## In your own trainer") :]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    write_pool(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = Model()
    with pytest.raises(Enough):
        exec(code, {"model": model, "optimizer": model})
    assert len(torch.cat(model.sigma).unique()) == 20 * 64
    assert float(model.gain.detach()) > 0.1  # it has begun to learn


def test_the_code_is_short() -> None:
    section = README[README.index("## In your own trainer") :]
    lines = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1].splitlines()
    assert sum(bool(line) and not line.startswith(("from", "import")) for line in lines) <= 10
