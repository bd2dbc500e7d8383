"""Records as the proofs write them, of nothing that was trained."""

from typing import Any


def trained_with(*, num_images: int = 1000, augment: float = 0.0, dropout: float = 0.1) -> dict:
    network = {"kind": "unet", "channels": 64, "multipliers": [1, 2], "dropout": dropout}
    network |= {"blocks": 2, "attention_resolutions": [16], "augment_dim": 9}
    return {"num_images": num_images, "batch_size": 50, "P_mean": -1.2, "augment": augment, "network": network}


def run_record(row: str, label: str, seed: int, frechet: float, **changes: Any) -> dict:
    def measured(value: float) -> dict[str, float]:
        return {"value": value, "error": 0.01, "low": value - 0.02, "high": value + 0.02}

    names = ("kernel", "precision", "recall", "density", "coverage", "memorised")
    proof = changes.get("proof", "fashion")
    return {
        "proof": proof,
        "row": row,
        "label": label,
        "arm": label,
        "seed": seed,
        "samples": 100,
        "reference": {"pictures": 60},
        "config": trained_with(),
        "pictures": 60,
        "measures": {"frechet": measured(frechet), **{name: measured(0.5) for name in names}},
        "validation": {"sigma": [0.1, 0.3, 1.0], "mean": [0.02 * frechet, 0.1, 0.3], "error": [0.001, 0.01, 0.01]},
        "curve": [
            {"images": 500, "samples": 80, "frechet": measured(2 * frechet)},
            {"images": 1000, "samples": 80, "frechet": measured(frechet)},
        ],
        "sigma_min_mean": 1.5,
        "images_per_s": 1000.0,
        "judged_s": 10.0,
        "date": "2026-01-01",
        "hardware": "a machine",
        "torch": "2",
        "command": "of another day",
        "file": f"{proof}-{row}-{label}-{seed}.json",
        **changes,
    }


def small_records(**changes: Any) -> list[dict]:
    records = [run_record("any", "clean", seed, 10.0 + seed, **changes) for seed in range(3)]
    records += [run_record("blur-1.0", "ambient", seed, 5.0 + seed, **changes) for seed in range(3)]
    return [*records, *(run_record("blur-0.6", label, 0, 4.0, **changes) for label in ("ambient", "plain", "fresh"))]
