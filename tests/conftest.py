"""What every test shares."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """One thread, unless the module says ``THREADS = 2``.

    Bit for bit holds for one number of threads, and on a shared machine little networks are faster with one; long
    training is not.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(getattr(request.module, "THREADS", 1))
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def one_thread_in_processes() -> Iterator[None]:
    """Programs that the tests start compute with one thread, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
