"""Programs that import once what takes seconds to import, then start runs as they are told, and kill them in time."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator

_LOOP = """
import ctypes, json, os, select, signal, socket, sys

def start(order, rank):
    child = os.fork()
    if child == 0:
        if order["size"] > 1:
            os.environ.update(RANK=str(rank), WORLD_SIZE=str(order["size"]), MASTER_ADDR="localhost", MASTER_PORT=port)
        run(**order["options"])
        os._exit(0)
    return child

PR_SET_CHILD_SUBREAPER = 36  # so that what killed runs leave behind becomes a child of this process
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1) == 0
for line in sys.stdin:
    order = json.loads(line)
    with socket.create_server(("localhost", 0)) as free:
        port = str(free.getsockname()[1])
    team = [start(order, rank) for rank in range(order["size"])]
    print(json.dumps(team), flush=True)
    watched = os.pidfd_open(team[order["victim"]])
    if not select.select([watched], [], [], order["after_s"])[0]:
        os.kill(team[order["victim"]], signal.SIGKILL)
        for other in team:
            os.kill(other, signal.SIGTERM)  # as torchrun does
    os.close(watched)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in team]), flush=True)
signal.alarm(20)
try:
    while True:
        os.waitpid(-1, 0)
except ChildProcessError:
    pass
"""


@contextlib.contextmanager
def zygote(script: str, *arguments: object) -> Iterator[subprocess.Popen]:
    """script: defines ``run(**options)``. At the end no process may be left of any run, killed or not."""
    command = [sys.executable, "-c", script + _LOOP, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            yield process
        finally:
            process.stdin.close()
    assert process.returncode == 0, "a process of a run that has ended lives on"


def start(
    process: subprocess.Popen, *, size: int = 1, victim: int = 0, after_s: float | None = None, **options: object
) -> list[int]:
    """Start a run of so many processes, of which one is killed after so many seconds. Returns their numbers."""
    order = {"size": size, "victim": victim, "after_s": after_s, "options": options}
    process.stdin.write(json.dumps(order) + "\n")
    return json.loads(process.stdout.readline())


def ended(process: subprocess.Popen) -> list[int]:
    """Wait for the run: the exit code of each of its processes, negative where a signal ended it."""
    return json.loads(process.stdout.readline())
