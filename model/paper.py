"""The three schedules of "dynamic dropout" (Yan & Shao 2024, arXiv 2411.03236).

The paper does not give its constants, so these are ours: the schedules start at nanoGPT's usual rate and fall to 0.
"""

import math
from typing import Any

PAPER: dict[str, dict[str, Any]] = {
    "linear": {"kind": "linear", "initial_rate": 0.2, "final_rate": 0.0},
    "exponential": {"kind": "exponential", "initial_rate": 0.2, "final_rate": 0.0, "decay": math.log(10)},
    "val_loss": {
        "kind": "val_loss",
        "initial_rate": 0.2,
        "final_rate": 0.0,
        "factor": 0.5,
        "patience": 1,
        "min_delta": 0.0,
    },
}
