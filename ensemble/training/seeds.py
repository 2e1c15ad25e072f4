"""One study seed, from which every other is derived."""

import hashlib


def derive_seed(seed: int, *purpose: object) -> int:
    """A seed from 0 to 2**63 − 1 that depends on `seed` and `purpose` alone, on every machine."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
