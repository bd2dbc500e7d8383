"""What tests of benchmarks share."""

import sys
from pathlib import Path

import ambient
import pytest

PROOF = Path(ambient.__file__).parent / "benchmarks" / "proof"


@pytest.fixture
def proof(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The proofs' modules can be imported, each test its own."""
    monkeypatch.syspath_prepend(str(PROOF))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for path in PROOF.glob("*.py"):
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
