"""The model in the dialects of other clients, as small as they take it: text in, text out.

A request becomes one of the Messages API, and what the model says becomes events of the dialect.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_DELTA_CHARACTERS = 24

Event = dict[str, Any]


class Dialect(NamedTuple):
    """How a client speaks with its model."""

    request_of: Callable[[Event], Event]
    """The body of a request in the form of the Messages API."""
    events_of: Callable[[Event], Iterator[Event]]
    """A message of the Messages API as events of a stream."""


def of(path: str) -> Dialect | None:
    """The dialect that is spoken at a path; None for the Messages API and for all else."""
    if path.endswith("/responses"):
        return _RESPONSES
    if path.endswith(("GenerateContent", "generateContent")):
        return _GEMINI
    return None


def _text(message: Event) -> str:
    return "".join(block.get("text", "") for block in message["content"])


def _pieces(message: Event) -> list[str]:
    text = _text(message)
    return [text[at : at + _DELTA_CHARACTERS] for at in range(0, len(text), _DELTA_CHARACTERS)]


def _responses_request(body: Event) -> Event:
    """OpenAI's Responses."""
    items = [item for item in body.get("input", ()) if item.get("type", "message") == "message"]
    messages = [
        {
            "role": item.get("role"),
            "content": [
                {"type": "text", "text": part.get("text", "")} for part in item.get("content", ())
            ],
        }
        for item in items
    ]
    return {"messages": messages, "tools": body.get("tools"), "model": body.get("model")}


def _responses_events(message: Event) -> Iterator[Event]:
    item = {"type": "message", "role": "assistant", "id": message["id"], "content": []}
    whole = item | {"content": [{"type": "output_text", "text": _text(message)}]}
    counts = message["usage"]
    used = {"input_tokens": counts["input_tokens"], "output_tokens": counts["output_tokens"]}
    used["total_tokens"] = sum(used.values())
    response = {"id": f"resp_{message['id']}", "object": "response", "model": message["model"]}
    yield {"type": "response.created", "response": response | {"status": "in_progress"}}
    yield {"type": "response.output_item.added", "output_index": 0, "item": item}
    place = {"item_id": message["id"], "output_index": 0, "content_index": 0}
    for piece in _pieces(message):
        yield {"type": "response.output_text.delta", "delta": piece, **place}
    yield {"type": "response.output_item.done", "output_index": 0, "item": whole}
    done = response | {"status": "completed", "output": [whole], "usage": used}
    yield {"type": "response.completed", "response": done}


def _gemini_request(body: Event) -> Event:
    """Google's generateContent."""
    roles = {"user": "user", "model": "assistant"}
    messages = [
        {
            "role": roles.get(content.get("role", "user")),
            "content": [
                {"type": "text", "text": part.get("text", "")} for part in content.get("parts", ())
            ],
        }
        for content in body.get("contents", ())
    ]
    declared = [
        each for tool in body.get("tools") or () for each in tool.get("functionDeclarations", ())
    ]
    return {"messages": messages, "tools": declared}


def _gemini_events(message: Event) -> Iterator[Event]:
    def candidate(text: str, **more: str) -> Event:
        content = {"role": "model", "parts": [{"text": text}]}
        return {"candidates": [{"index": 0, "content": content, **more}]}

    *pieces, last = _pieces(message)
    yield from map(candidate, pieces)
    counts = message["usage"]
    used = {
        "promptTokenCount": counts["input_tokens"],
        "candidatesTokenCount": counts["output_tokens"],
        "totalTokenCount": counts["input_tokens"] + counts["output_tokens"],
    }
    yield candidate(last, finishReason="STOP") | {"usageMetadata": used}


_RESPONSES = Dialect(_responses_request, _responses_events)
_GEMINI = Dialect(_gemini_request, _gemini_events)
