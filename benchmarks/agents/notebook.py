"""An agent-like program in Python: every answer is a digest of all that it holds.

It keeps a conversation of JSON turns, and what agents derive from one: an index of words, a cache
of results, vectors, closures. A line on stdin is a turn, and is answered by a line on stdout:
how many turns there were, and the digest. The same seed and the same lines give the same answers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable
from string import ascii_lowercase

# What a turn takes in memory, with its share of everything derived from it.
TURN_BYTES = 11_000
VOCABULARY = 4000
CACHED = 512
HOOKS = 256
DIMENSIONS = 64


class Notebook:
    """A conversation and what is derived from it. The oldest turn goes when a new one comes."""

    def __init__(self, seed: int, mib: int) -> None:
        self.random = random.Random(seed)
        self.words = [self.word() for _ in range(VOCABULARY)]
        self.count = 0
        self.turns: deque[dict[str, object]] = deque()
        self.texts: deque[str] = deque()
        self.vectors: deque[array[float]] = deque()
        self.index: dict[str, deque[int]] = {}
        self.cache: OrderedDict[str, bytes] = OrderedDict()
        self.hooks: deque[Callable[[int], int]] = deque(maxlen=HOOKS)
        for _ in range(max(1, (mib << 20) // TURN_BYTES)):
            self.add("filling")

    def word(self) -> str:
        return "".join(self.random.choices(ascii_lowercase, k=self.random.randint(3, 9)))

    def add(self, line: str) -> None:
        """Appends a turn, and all that follows from it."""
        self.count += 1
        said = [line, *self.random.choices(self.words, k=300)]
        parts = [" ".join(said[at : at + 75]) for at in range(0, 301, 75)]
        turn = {
            "id": self.count,
            "role": "user" if self.count % 2 else "assistant",
            "content": [{"type": "text", "text": part} for part in parts],
            "usage": {"input_tokens": self.random.getrandbits(14), "cost": self.random.random()},
            "tools": [{"name": name, "line": len(name) * self.count} for name in said[:3]],
        }
        text = json.dumps(turn)
        self.texts.append(text)
        self.turns.append(json.loads(text))
        self.vectors.append(array("d", [self.random.random() for _ in range(DIMENSIONS)]))
        for word in said[:20]:
            self.index.setdefault(word, deque(maxlen=1000)).append(self.count)
        self.remember(said[1], text)
        start, turn_id = self.random.getrandbits(32), self.count
        self.hooks.append(lambda number: (number ^ start) * turn_id)

    def remember(self, word: str, text: str) -> None:
        """Keeps a result, and forgets the one not used for longest."""
        self.cache[word] = hashlib.shake_128(text.encode()).digest(2000)
        self.cache.move_to_end(word)
        if len(self.cache) > CACHED:
            self.cache.popitem(last=False)

    def turn(self, line: str) -> str:
        self.add(line)
        for table in (self.turns, self.texts, self.vectors):
            table.popleft()
        return f"{self.count} {self.digest()}"

    def digest(self) -> str:
        """Of everything, found by walking there."""
        whole = hashlib.blake2b(digest_size=16)
        for turn, text, vector in zip(self.turns, self.texts, self.vectors, strict=True):
            whole.update(text.encode())
            whole.update(vector.tobytes())
            whole.update(json.dumps(turn).encode())
        for word, turns in self.index.items():
            whole.update(word.encode())
            whole.update(array("q", turns).tobytes())
        for word, result in self.cache.items():
            whole.update(word.encode())
            whole.update(result)
        total = sum(hook(self.count) for hook in self.hooks)
        whole.update(f"{total} {self.random.getstate()}".encode())
        whole.update(" ".join(self.words).encode())
        return whole.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mib", type=int, default=80)
    options = parser.parse_args()
    notebook = Notebook(options.seed, options.mib)
    # Not `for line in sys.stdin`, which reads ahead.
    while line := sys.stdin.readline():
        print(notebook.turn(line.rstrip("\n")), flush=True)


if __name__ == "__main__":
    main()
