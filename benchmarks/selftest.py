"""Write train/selftest.json: what the self-test of ``ambient doctor`` expects. Run: ``python benchmarks/selftest.py``.

To be run again, on a CPU, after a change that is meant to change what annotator or trainer compute. The tolerances are
some hundred times the differences between instruction sets (``ATEN_CPU_CAPABILITY=default`` and ``avx2``), and small
against what an error would do; the loss leaves room for TF32.
"""

import json
import platform
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from ambient import __version__
from ambient.train import selftest

RELATIVE = {"words": 0.0, "normals": 1e-5, "sharpness": 1e-3, "p_clean": 1e-2, "sigma_min": 2e-2, "loss": 2e-2}


def main() -> None:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        values = selftest.measure(Path(folder), torch.device("cpu"))
    elapsed = time.perf_counter() - start
    stored = {
        "provenance": {
            "command": "python benchmarks/selftest.py",
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, one thread",
            "versions": {"ambient-omni": __version__, "torch": str(torch.__version__), "numpy": np.__version__},
        },
        "values": values,
        "tolerance": {name: abs(value) * RELATIVE[name] for name, value in values.items()},
    }
    path = Path(selftest.__file__).with_name("selftest.json")
    path.write_text(json.dumps(stored, indent=2) + "\n")
    print(f"{path}: {values} in {elapsed:.1f} s")


if __name__ == "__main__":
    main()
