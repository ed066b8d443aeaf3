"""Random bits and masks from torch's default generator of the device, for eager and compiled code.

A threshold or scale is a 0-d tensor in compiled code and off the CPU, and a Python number in eager code on a CPU, which
would wait for tensors. 16 bits decide about an element, in the same order for every family.
"""

import math

import numpy as np
import torch
from torch import Tensor

from model.levels import LEVELS

Number = Tensor | float
_SFC64 = np.random.SFC64(0)


def reads_tensors(x: Tensor) -> bool:
    """Returns whether code that works on `x` takes its numbers from tensors."""
    return torch.compiler.is_compiling() or x.device.type != "cpu"


def draw_kept(shape: tuple[int, ...], threshold: Number, x: Tensor) -> Tensor:
    """Returns bytes or bools on the device of `x`: 0 with probability threshold / LEVELS, else 1."""
    if reads_tensors(x):
        return torch.randint(LEVELS, shape, dtype=torch.int32, device=x.device) >= threshold
    return torch.from_numpy((_cpu_bits(shape) >= threshold).view(np.uint8)).view(shape)


def draw_bits(shape: tuple[int, ...], x: Tensor) -> Tensor:
    """Returns whole numbers in [0, LEVELS), as float32, on the device of `x`."""
    if reads_tensors(x):
        return torch.randint(LEVELS, shape, dtype=torch.int32, device=x.device).float()
    return torch.from_numpy(_cpu_bits(shape).astype(np.float32)).view(shape)


def scaled(kept: Tensor, scale: Number, x: Tensor) -> Tensor:
    """Returns `kept` times `scale`, in float32 or the wider type of `x`: bfloat16 would round the scale."""
    if isinstance(scale, Tensor):
        return kept * scale
    return kept.to(torch.promote_types(x.dtype, torch.float32)).mul_(scale)


def _cpu_bits(shape: tuple[int, ...]) -> np.ndarray:
    """Returns random uint16.

    Eager on a CPU the random bits are what costs, and torch draws them slowly: 1.5 ns for 16 of them, where numpy's
    SFC64 takes 0.3. Its state is three words of torch's generator and a counter, which are all that it needs: making
    a generator for each mask takes as long as a small mask.
    """
    n = math.prod(shape)
    state = torch.empty(4, dtype=torch.int64).random_(-(2**63), None).numpy().view(np.uint64)
    state[3] = 1
    _SFC64.state = {"bit_generator": "SFC64", "state": {"state": state}, "has_uint32": 0, "uinteger": 0}
    words: np.ndarray = _SFC64.random_raw((n + 3) // 4)
    return words.view(np.uint16)[:n]
