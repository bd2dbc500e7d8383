"""The same work again and again on a GPU, without a word of Python in between."""

from collections.abc import Callable

import torch

_FIRST = 3  # calls that are made as they are: what is set up once is then set up


class Replayed:
    """A function that, on CUDA, is recorded as a graph of kernels and replayed: hundreds of launches become one.

    function: takes and returns nothing; on CUDA it reads and writes tensors in place, of fixed shapes, and never waits
    for the GPU. generator: of the random numbers that it draws.
    """

    def __init__(self, function: Callable[[], None], generator: torch.Generator) -> None:
        self._function, self._generator, self._calls = function, generator, 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._generator.device.type != "cuda":
            self._function()
        elif self._graph is not None:
            self._graph.replay()
        elif self._calls < _FIRST:
            self._calls += 1
            self._aside()
        else:
            self._graph = torch.cuda.CUDAGraph()
            self._graph.register_generator_state(self._generator)
            with torch.cuda.graph(self._graph):
                self._function()
            self._graph.replay()

    def _aside(self) -> None:
        """Call it on a stream of its own, as recording will."""
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            self._function()
        here.wait_stream(aside)
