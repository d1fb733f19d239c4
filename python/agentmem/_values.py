"""Messages given as values: JSON that gives an equal value back, or a clear refusal."""

import json
from typing import Any

from agentmem.errors import InvalidArgument


def encode(value: Any) -> bytes:
    """The JSON text of `value`.

    Raises:
        InvalidArgument: The value would come back different, such as a dict with keys that are
            not strings, a tuple, NaN or an infinity.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        same = json.loads(text) == value
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"a message of type {type(value).__name__}: {error}") from None
    if not same:
        raise InvalidArgument(
            f"a message of type {type(value).__name__} would come back different:"
            " give it as bytes, or use only what JSON has (string keys, lists, no NaN)"
        )
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Lone surrogates have no UTF-8, but an escape.
        return json.dumps(value, separators=(",", ":")).encode()


def decode(text: bytes) -> Any:
    """The value that was encoded."""
    return json.loads(text)
