"""What Hypothesis puts into stores."""

import hypothesis.strategies as st
from words import noise, prose


def make(sort: str, seed: int, length: int) -> bytes:
    return {"prose": prose, "noise": noise, "zeros": lambda _, n: bytes(n)}[sort](seed, length)


# Few enough that the same content comes up again and again.
CONTENTS = st.builds(
    make,
    st.sampled_from(["prose", "noise", "zeros"]),
    st.integers(0, 2),
    st.sampled_from([9, 0, 1, 300, 1024, 4096, 4097, 70_000, 400_000, 3_000_000]),
)
# What JSON holds exactly, and infinities, which are refused; a key that occurs twice or a
# surrogate cannot come out of these.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
MESSAGES = (
    st.fixed_dictionaries({"role": st.just("user"), "content": VALUES})
    | st.lists(VALUES, max_size=3)
    | st.text(max_size=50)
    | CONTENTS
)
BLANKS = st.sampled_from(["", " ", "\t", "\r"])
LINES = st.lists(
    st.builds(
        lambda lead, seed, trail: f'{lead}{{"role": "user", "n": {seed}}}{trail}\n'.encode(),
        BLANKS,
        st.integers(0, 999),
        BLANKS,
    ),
    min_size=2,
    max_size=6,
).map(b"".join)
