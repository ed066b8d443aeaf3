"""Whether a worker's GPU still answers it after an error, and the memory that it gives back."""

import gc
import logging
import os

import torch

log = logging.getLogger(__name__)


def device_works() -> bool:
    """Whether CUDA still works in this process; True where it was never used.

    After some errors (an illegal address, a failed assertion in a kernel) every further call of CUDA fails. Triton and
    cuBLAS raise a plain RuntimeError for them, so the error's type does not tell.
    """
    if not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        log.warning("CUDA no longer works in worker %d: another one goes on (%s)", os.getpid(), str(error)[:200])
        return False
    return True


def free_memory() -> None:
    """Gives back what a trial took, which the next trial of this worker and its neighbours on the GPU want."""
    gc.collect()
    try:
        torch.cuda.empty_cache()
    except RuntimeError as error:  # the device is broken: the error that the trial ends with says so
        log.warning("the memory of the GPU could not be freed: %s", str(error)[:200])
