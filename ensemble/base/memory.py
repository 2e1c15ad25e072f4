"""What the C library does with freed memory, which decides how fast a network trains on a CPU."""

import ctypes
from contextlib import suppress

# of glibc's <malloc.h>
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, as long as it lives.

    PyTorch has no cache for tensors on a CPU, and glibc gives large blocks back at once: each step
    then has the kernel clear all its activations' pages anew. Kept, SqueezeNet 1.1 at 128 px trains
    1.29 times as many images a second (`make bench BENCH="--part choices"`). The most that was ever
    needed stays taken instead.
    Does nothing where the C library is another one.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)  # large blocks come from the heap, too
        mallopt(_TRIM_THRESHOLD, -1)  # which never shrinks
        mallopt(_TOP_PAD, 64 << 20)  # and grows by no less than 64 MiB
