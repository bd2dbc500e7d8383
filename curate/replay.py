"""The same work again and again on a GPU, without a word of Python in between."""

from collections.abc import Callable, Sequence

import torch

_FIRST = 3  # calls that are made as they are: what is set up once is then set up


class Replayed:
    """A function that, on CUDA, is recorded as a graph of kernels and replayed: hundreds of launches become one.

    function: takes and returns nothing; on CUDA it reads and writes tensors in place, of fixed shapes, and never waits
    for the GPU. What it allocates keeps its place in memory from the recording on, and is written anew by each call.
    generator: of the random numbers that it draws, where that is not the device's own.
    """

    def __init__(
        self, function: Callable[[], None], device: torch.device, generator: torch.Generator | None = None
    ) -> None:
        self._function, self._device, self._generator = function, device, generator
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream: torch.cuda.Stream | None = None

    @property
    def is_next_recorded(self) -> bool:
        """Whether the next call is the one that is recorded."""
        return self._device.type == "cuda" and self._graph is None and self._calls == _FIRST

    def __call__(self) -> None:
        if self._device.type != "cuda":
            self._function()
        elif self._graph is not None:
            self._graph.replay()
        elif self._calls < _FIRST:
            self._calls += 1
            self._aside()
        else:
            graph = torch.cuda.CUDAGraph()
            if self._generator is not None:
                graph.register_generator_state(self._generator)
            # Other threads, which read pictures or write checkpoints, may go on meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._function()
            self._graph = graph
            self._graph.replay()

    def _aside(self) -> None:
        """Call it on a stream of its own, as recording will."""
        here = torch.cuda.current_stream(self._device)
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            self._function()
        here.wait_stream(self._stream)


class SideBySide:
    """Several functions as one that, on CUDA, runs each on a stream of its own, for work too small to fill a GPU.

    They are called in their order, so what they draw from one generator does not depend on the device; none may write
    what another one reads or writes. Can be ``Replayed``.
    """

    def __init__(self, functions: Sequence[Callable[[], None]], device: torch.device) -> None:
        self._functions, self._device = functions, device
        cuda = device.type == "cuda"
        self._streams = [torch.cuda.Stream(device) for _ in functions] if cuda else []  # type: ignore[no-untyped-call]

    def __call__(self) -> None:
        if not self._streams:
            for function in self._functions:
                function()
            return
        here = torch.cuda.current_stream(self._device)
        for function, stream in zip(self._functions, self._streams, strict=True):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                function()
        for stream in self._streams:
            here.wait_stream(stream)
