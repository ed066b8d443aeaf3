"""The generators that code draws from unless it says otherwise: torch's, NumPy's and Python's own."""

import random
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seeds them all, on every device."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def state_dict(device: torch.device) -> dict[str, Any]:
    """Returns their states as tensors and plain values; of the devices beside the CPU, only `device` counts."""
    algorithm, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [algorithm, np.asarray(keys).tolist(), *rest],
        "python": random.getstate(),
    }


def load_state_dict(state: dict[str, Any], device: torch.device) -> None:
    """Restores what `state_dict` returned."""
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    np.random.set_state(tuple(state["numpy"]))
    random.setstate(state["python"])
