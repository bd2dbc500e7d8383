"""The kernel for GPUs draws what PyTorch does by many: here by Triton's interpreter, on a GPU in test_noise.py."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from ambient.curate.noise import Purpose, normals, uniforms
from torch._subclasses.fake_tensor import FakeTensorMode

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton comes with PyTorch for GPUs")

COMPARE = """
import itertools, sys
import torch
from ambient.curate.noise import normals, words
from ambient.curate.philox_kernel import kernel, launched

names = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 123456789012345])
indices = torch.zeros(6, dtype=torch.int64), torch.arange(6) * 12345 + 7
for count, index, seed, purpose in itertools.product((1, 3, 64, 129, 5000), indices, (0, 2**40 + 5, -3), (0, 9)):
    drawn = [launched(kernel, names, index, torch.tensor(seed), count, purpose, normal) for normal in (False, True)]
    told = {"seed": torch.tensor(seed), "purpose": purpose, "index": index}
    assert torch.equal(drawn[0], words(names, count, **told)), (count, seed, purpose)
    torch.testing.assert_close(drawn[1], normals(names, count, **told), rtol=1e-6, atol=1e-6)
print("equal", launched(kernel, names[:0], indices[0][:0], torch.tensor(1), 5, 0, True).shape)
"""


def test_it_draws_the_same_numbers() -> None:
    """Triton reads TRITON_INTERPRET when it is imported."""
    variables = {**os.environ, "TRITON_INTERPRET": "1"}
    found = subprocess.run([sys.executable, "-c", COMPARE], env=variables, capture_output=True, text=True)
    assert found.stdout == "equal torch.Size([0, 5])\n", found.stderr


@pytest.mark.parametrize("normal", [False, True])
def test_it_compiles_for_a_gpu(normal: bool) -> None:
    import triton
    from ambient.curate.philox_kernel import kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers = {"out": "*fp32" if normal else "*i64", "names": "*i64", "index": "*i64", "seed": "*i64", "count": "i32"}
    constants = {"PURPOSE": 4, "NORMAL": normal, "BLOCKS": 32}
    source = ASTSource(
        fn=kernel,
        signature={**pointers, **dict.fromkeys(constants, "constexpr")},
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
    )
    assert "st.global" in triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]


def test_on_a_gpu_it_is_what_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ambient.curate.noise._has_kernel", lambda device: True)
    with FakeTensorMode():
        names = torch.empty(6, dtype=torch.int64, device="cuda")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            drawn = normals(names, 4099, seed=3, purpose=Purpose.FRESH)
            u = uniforms(names, 9, seed=2**64 - 3, purpose=Purpose.AUGMENT, index=1)
    assert (drawn.shape, drawn.dtype, drawn.device.type) == ((6, 4099), torch.float32, "cuda")
    assert (u.shape, u.dtype) == ((6, 9), torch.float64)
    assert sum(event.count for event in profiler.key_averages() if event.key == "ambient::philox") == 2
