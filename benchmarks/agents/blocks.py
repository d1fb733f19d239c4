"""Memory in blocks of 64 KiB: `blocks.py MIB SEED`. A line in, a line out.

`dirty N` writes to N blocks, others each time; `check` answers with a digest over all blocks.
Anything else is echoed. The content compresses about as an agent's memory does.
"""

import hashlib
import mmap
import random
import sys

BLOCK = 1 << 16
PIECE = 1 << 8


def main() -> None:
    """Fill, then answer until stdin ends."""
    count, choose = int(sys.argv[1]) * (1 << 20) // BLOCK, random.Random(int(sys.argv[2]))
    memory = mmap.mmap(-1, count * BLOCK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pool = [choose.randbytes(PIECE) for _ in range(40)] + [bytes(PIECE)] * 20
    for block in range(count):
        pieces = choose.choices(pool, k=BLOCK // PIECE)
        # One in seven is found nowhere else: about a sixth is left when all is compressed.
        pieces[::7] = (choose.randbytes(PIECE) for _ in pieces[::7])
        memory[block * BLOCK : (block + 1) * BLOCK] = b"".join(pieces)
    order = list(range(count))
    choose.shuffle(order)
    at = 0
    print("ready", flush=True)
    for line in sys.stdin:
        word, _, number = line.strip().partition(" ")
        if word == "dirty":
            for _ in range(int(number)):
                where = order[at % count] * BLOCK + choose.randrange(BLOCK)
                memory[where] ^= 0xFF
                at += 1
            print(f"ok {at}", flush=True)
        elif word == "check":
            digest = hashlib.blake2b(digest_size=16)
            for block in range(count):
                digest.update(memory[block * BLOCK : block * BLOCK + 128])
            print(f"ok {at} {digest.hexdigest()}", flush=True)
        else:
            print(line.strip(), flush=True)


if __name__ == "__main__":
    main()
