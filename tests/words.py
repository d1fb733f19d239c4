"""Text for tests: words of a Zipf vocabulary, always the same for the same seed."""

import json
import math
import random
from functools import lru_cache
from itertools import accumulate
from typing import Any

_WORDS = 4000
_LETTERS = "etaoinshrdlucmfwypvbgk"
_MESSAGE_BYTES_MEDIAN = 1000
_MESSAGE_BYTES_MAX = 60_000


@lru_cache(maxsize=1)
def _vocabulary() -> tuple[list[str], list[float]]:
    """The words, the most frequent first, and their cumulative weights."""
    source = random.Random("vocabulary")
    words = ["".join(source.choices(_LETTERS, k=source.randint(2, 9))) for _ in range(_WORDS)]
    return words, list(accumulate(1 / rank for rank in range(1, _WORDS + 1)))


@lru_cache(maxsize=256)
def prose(seed: int, length: int) -> bytes:
    """Exactly `length` bytes of text that compresses about as prose does."""
    words, weights = _vocabulary()
    # The shortest word and its blank take three bytes, so there is always enough to cut from.
    chosen = random.Random(seed).choices(words, cum_weights=weights, k=length // 3 + 1)
    return f"{seed} {' '.join(chosen)}".encode()[:length]


def noise(seed: int, length: int) -> bytes:
    """Exactly `length` bytes that do not compress."""
    return random.Random(seed).randbytes(length)


def message(seed: int) -> dict[str, Any]:
    """A message as agents keep them: mostly about 1 KB, rarely tens of KB."""
    spread = random.Random(seed).lognormvariate(math.log(_MESSAGE_BYTES_MEDIAN), 1.3)
    length = min(int(spread) + 1, _MESSAGE_BYTES_MAX)
    role = ("user", "assistant", "tool")[seed % 3]
    return {"role": role, "content": prose(seed, length).decode(), "n": seed}


def transcript(seed: int, count: int) -> bytes:
    """A conversation of `count` messages in JSON lines."""
    first = seed * 1_000_000
    return b"".join(json.dumps(message(first + n)).encode() + b"\n" for n in range(count))
