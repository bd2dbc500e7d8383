"""``ambient doctor``: what it finds, and what it says is wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ambient.schemas.errors import UserError
from ambient.train import doctor as module
from ambient.train.doctor import Check, doctor, print_checks
from ambient.train.selftest import Comparison


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], dict[tuple[str, str], Check]]:
    """Examines with a self-test that takes no time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    good = Comparison(name="loss", found=0.701, expected=0.7, tolerance=0.01)
    monkeypatch.setattr(module, "self_test", lambda folder, device: [good])
    return lambda: {(check.group, check.name): check for check in doctor()}


def test_a_healthy_machine(examined: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    checks = examined()
    assert not any(check.ok is False for check in checks.values() if check.name not in ("disk", "memory"))
    assert checks["packages", "duckdb"].ok
    assert checks["machine", "torch"].value.startswith(torch.__version__)
    assert checks["self-test on cpu", "loss"] == Check(
        group="self-test on cpu", name="loss", value="0.701", ok=True, advice=checks["self-test on cpu", "loss"].advice
    )
    print_checks([check for check in checks.values() if check.ok is not False])
    out = capsys.readouterr().out
    assert out.startswith("\nmachine\n")
    assert out.endswith("\nall is well\n")


def test_missing_and_old_packages(examined: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_requirements", lambda: ["no-such>=1.0", "numpy>=999.1", "torch", "rich>=13.9"])
    checks = examined()
    found = {name: check.ok for (group, name), check in checks.items() if group == "packages"}
    assert found == {"no-such": False, "numpy": False, "torch": True, "rich": True}
    assert checks["packages", "numpy"].advice == "pip install 'numpy>=999.1'"


def test_little_room(examined: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "host_memory", lambda: 2**30)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**30}))
    checks = examined()
    assert checks["machine", "memory"].ok is False
    assert checks["machine", "disk"].value.startswith("1.0 GiB free")
    assert checks["machine", "disk"].ok is False


def test_weights_at_hand(examined: Callable, tmp_path: Path) -> None:
    blob = tmp_path / "cache" / "huggingface" / "hub" / "models--org--name" / "blobs" / "ab12"
    point = tmp_path / "torch" / "hub" / "checkpoints" / "net.pth"
    for path in (blob, point):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"0" * (3 << 20))
    (point.parent / "small.txt").write_text("no weights")
    (blob.parents[1] / "snapshot").symlink_to(blob)
    weights = [check.value for (group, _), check in examined().items() if group == "weights"]
    assert weights == ["net.pth (3 MiB)", "org/name (3 MiB)"]


def test_a_wrong_value_and_a_crash_are_said(
    examined: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Comparison(name="loss", found=0.8, expected=0.7, tolerance=0.01)
    monkeypatch.setattr(module, "self_test", lambda folder, device: [bad])
    check = examined()["self-test on cpu", "loss"]
    assert (check.ok, check.value) == (False, "0.8 instead of 0.7 +- 0.01")

    def crash(folder: Path, device: torch.device) -> None:
        raise RuntimeError("illegal\ninstruction")

    monkeypatch.setattr(module, "self_test", crash)
    checks = examined()
    assert checks["self-test on cpu", "run"].value == "RuntimeError: illegal instruction"
    print_checks(list(checks.values()))
    out = capsys.readouterr().out
    assert "BAD run" in out
    assert "run: results on this machine would differ" in out


def test_requirements_are_those_of_the_project() -> None:
    names = {requirement.split(">")[0] for requirement in module._requirements()}
    assert {"torch", "duckdb", "rich"} <= names
    assert not {"pytest", "ruff"} & names


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UserError, match="not supported"):
        doctor(device="meta")
