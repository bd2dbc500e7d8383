"""How the device is used."""

import ctypes
import gc
import resource
from pathlib import Path

import pytest
import torch
from ambient.curate import device as devices
from ambient.schemas.errors import UserError
from ambient.train.device import compile_network, compiling, should_compile, use_fast_kernels
from torch._functorch import config as partitioner


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_used_again() -> None:
    use_fast_kernels(torch.device("cpu"))
    for _ in range(10):  # small blocks find their places
        torch.ones(16_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        torch.ones(16_000_000)  # 64 MB: 15,625 pages
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 1000


@pytest.mark.parametrize(
    ("kind", "variable", "program", "missing"),
    [("cpu", "CXX", "g++", "C++ compiler (g++)"), ("cuda", "CC", "clang", "C compiler (gcc or clang)")],
)
def test_nothing_is_compiled_without_a_compiler(
    kind: str, variable: str, program: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device(kind)
    said: list[str] = []
    monkeypatch.setattr(devices, "find_spec", lambda name: name)
    monkeypatch.setattr(devices.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "Python.h").touch()
    assert devices.missing_to_compile(device) == missing
    assert not should_compile(device, "auto", 10**9, said.append)
    assert said == ([f"not compiled, which would be faster: no {missing} was found"] if kind == "cuda" else [])
    with pytest.raises(UserError, match="install it, or set compile=off"):
        should_compile(device, "on", 0)
    (tmp_path / program).touch(mode=0o755)
    assert should_compile(device, "on", 0)
    (tmp_path / "Python.h").unlink()
    assert devices.missing_to_compile(device) == (None if kind == "cpu" else "Python.h (python3-dev)")


def test_the_compiler_gets_the_options_that_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older releases know fewer."""
    network, given = torch.nn.Linear(4, 4), {}
    monkeypatch.setattr(torch._inductor, "list_options", lambda: ["loop_ordering_after_fusion", "max_autotune"])
    monkeypatch.setattr(network, "compile", lambda **options: given.update(options))
    compile_network(network, {"max_autotune": True})
    assert given == {"dynamic": False, "options": {"loop_ordering_after_fusion": False, "max_autotune": True}}


@pytest.mark.skipif(devices.missing_to_compile(torch.device("cpu")) is not None, reason="no C++ compiler")
def test_a_compiled_network_is_the_network() -> None:
    network, x = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.SiLU()), torch.randn(3, 4)
    expected = network(x)
    compile_network(network)
    with compiling():
        torch.testing.assert_close(network(x), expected)


def test_old_objects_are_left_alone_for_a_while() -> None:
    before = gc.get_threshold()
    gc.collect()
    old = gc.get_stats()[2]["collections"]
    assert partitioner.ban_recompute_used_far_apart
    with compiling():
        assert not partitioner.ban_recompute_used_far_apart
        kept = [[] for _ in range(2_000_000)]
        assert gc.get_stats()[2]["collections"] == old
    assert gc.get_threshold() == before
    assert partitioner.ban_recompute_used_far_apart
    assert len(kept) == 2_000_000
