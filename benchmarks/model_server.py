"""A mock model on loopback that speaks the Anthropic Messages API, as far as agents use it.

Other clients are answered in their own dialects (`dialects`), without tools.

It answers as `script` says: without state, from the conversation in each request. Anything that is
not about a task (titles, quota checks) gets a short harmless answer. Connections are kept open for
as long as the client wants: a server that closes an idle one would wake a frozen agent.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import dialects, script

_BODY_BYTES_MAX = 64 << 20
_DELTA_CHARACTERS = 24
_TOKEN_CHARACTERS = 4
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 413: "Content Too Large"}

Event = dict[str, Any]


@dataclass(frozen=True)
class Pace:
    """How fast the model is."""

    first_ms: float = 20.0
    """From a request to the first event of its answer."""
    stream_ms: float = 100.0
    """From the first event of an answer to the last."""


@dataclass(frozen=True)
class Request:
    """One request of HTTP/1.1, read in full."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def keep_alive(self) -> bool:
        """Whether the client wants the connection to stay."""
        return self.headers.get("connection", "").lower() != "close"


class ProtocolError(Exception):
    """What arrived is not HTTP as this server knows it."""


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection; None when the client has closed it."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise ProtocolError("closed in the middle of a head") from error
        return None
    except asyncio.LimitOverrunError as error:
        raise ProtocolError("the head is too long") from error
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    try:
        method, target, _ = first.split(" ")
        headers = {
            name.strip().lower(): value.strip() for name, value in (x.split(":", 1) for x in lines)
        }
    except ValueError as error:
        raise ProtocolError(f"no request: {first[:80]!r}") from error
    return Request(method, target.partition("?")[0], headers, await _body(reader, headers))


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    try:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return b"".join([chunk async for chunk in _chunks(reader)])
        size = int(headers.get("content-length", "0"))
        if not 0 <= size <= _BODY_BYTES_MAX:
            raise ProtocolError(f"a body of {size} bytes")
        return await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ValueError) as error:
        raise ProtocolError(f"the body is not whole: {error}") from error


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    left = _BODY_BYTES_MAX
    while size := int((await reader.readline()).split(b";")[0], 16):
        left -= size
        if left < 0:
            raise ProtocolError("the body is too long")
        yield await reader.readexactly(size)
        await reader.readline()
    while (await reader.readline()).strip():
        pass  # Trailers say nothing to us.


def message_of(body: dict[str, Any], seed: int) -> Event:
    """The model's whole message to a request."""
    tools = frozenset(str(tool.get("name")) for tool in body.get("tools") or ())
    exchanges = script.exchanges_of(body.get("messages", ()))
    blocks: list[script.Block] = [{"type": "text", "text": '{"title": "A benchmark"}'}]
    if exchanges and tools:
        blocks = script.next_blocks(exchanges, seed, tools)
    calls = any(block["type"] == "tool_use" for block in blocks)
    return {
        "id": f"msg_{script.hexdigest(seed, body.get('messages'))[:24]}",
        "type": "message",
        "role": "assistant",
        "model": body.get("model", "mock"),
        "content": blocks,
        "stop_reason": "tool_use" if calls else "end_turn",
        "stop_sequence": None,
        "usage": usage_of(blocks),
    }


def usage_of(blocks: list[script.Block]) -> dict[str, int]:
    """Token counts: those of the input are kept small, so that no client starts to compact."""
    return {
        "input_tokens": 100,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 1000,
        "output_tokens": len(json.dumps(blocks)) // _TOKEN_CHARACTERS,
    }


def events_of(message: Event) -> Iterator[Event]:
    """A message as the events of a stream."""
    start = message | {"content": [], "stop_reason": None}
    start["usage"] = message["usage"] | {"output_tokens": 1}
    yield {"type": "message_start", "message": start}
    for index, block in enumerate(message["content"]):
        if block["type"] == "text":
            empty, text, kind, field = block | {"text": ""}, block["text"], "text_delta", "text"
        else:
            empty, text = block | {"input": {}}, json.dumps(block["input"])
            kind, field = "input_json_delta", "partial_json"
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for at in range(0, len(text), _DELTA_CHARACTERS):
            delta = {"type": kind, field: text[at : at + _DELTA_CHARACTERS]}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    usage = {"output_tokens": message["usage"]["output_tokens"]}
    yield {"type": "message_delta", "delta": delta, "usage": usage}
    yield {"type": "message_stop"}


class ModelServer:
    """The server; `port` is known once it is started."""

    def __init__(self, seed: int = 1, pace: Pace | None = None) -> None:
        self.seed = seed
        self.pace = pace or Pace()
        self.port = 0
        self.counts: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> None:
        """Listen on loopback, at any free port unless one is given."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", port, limit=1 << 20, backlog=512
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close all connections and stop listening."""
        assert self._server is not None, "started before"
        self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection has a task"
        self._connections.add(task)
        try:
            await self._requests(reader, writer)
        except ProtocolError as error:
            self.counts["protocol errors"] += 1
            await _send_json(writer, 400, _error("invalid_request_error", str(error)))
        except (ConnectionError, asyncio.CancelledError):
            self.counts["cut connections"] += 1
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (request := await read_request(reader)) is not None:
            self.counts[f"{request.method} {request.path}"] += 1
            if request.headers.get("expect", "").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await self._answer(request, writer)
            if not request.keep_alive:
                return

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        where = (request.method, request.path)
        if where == ("GET", "/counts"):
            await _send_json(writer, 200, dict(self.counts))
        elif request.method != "POST":
            await _send_json(writer, 200, {}, with_body=request.method != "HEAD")
        else:
            try:
                body = json.loads(request.body or b"{}")
            except ValueError:
                await _send_json(writer, 400, _error("invalid_request_error", "no JSON"))
                return
            await self._answer_post(request.path, body, writer)

    async def _answer_post(
        self, path: str, body: dict[str, Any], writer: asyncio.StreamWriter
    ) -> None:
        if path == "/pace":
            self.pace = replace(self.pace, **body)
            await _send_json(writer, 200, {})
        elif path == "/v1/messages/count_tokens":
            tokens = len(json.dumps(body)) // _TOKEN_CHARACTERS
            await _send_json(writer, 200, {"input_tokens": tokens})
        elif dialect := dialects.of(path):
            message = message_of(dialect.request_of(body), self.seed)
            await self._stream(list(dialect.events_of(message)), writer)
        elif path != "/v1/messages":
            await _send_json(writer, 200, {})
        elif body.get("stream"):
            await self._stream(list(events_of(message_of(body, self.seed))), writer)
        else:
            await asyncio.sleep((self.pace.first_ms + self.pace.stream_ms) / 1000)
            await _send_json(writer, 200, message_of(body, self.seed))

    async def _stream(self, events: list[Event], writer: asyncio.StreamWriter) -> None:
        """Send a message's events as a stream, spread evenly over the pace's time."""
        pace = self.pace
        await asyncio.sleep(pace.first_ms / 1000)
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            b"cache-control: no-cache\r\nrequest-id: %s\r\ntransfer-encoding: chunked\r\n\r\n"
            % script.hexdigest(events)[:24].encode()
        )
        began_s = time.monotonic()
        for number, event in enumerate(events):
            due_s = began_s + pace.stream_ms / 1000 * number / max(1, len(events) - 1)
            if (wait_s := due_s - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            name = f"event: {event['type']}\n" if "type" in event else ""
            line = f"{name}data: {json.dumps(event)}\n\n".encode()
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _error(kind: str, text: str) -> Event:
    return {"type": "error", "error": {"type": kind, "message": text}}


async def _send_json(
    writer: asyncio.StreamWriter, status: int, value: object, *, with_body: bool = True
) -> None:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body * with_body)
    with contextlib.suppress(ConnectionError):
        await writer.drain()


async def _main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.model_server", description=__doc__)
    options.add_argument("--port", type=int, default=0, help="any free one unless given")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--first-ms", type=float, default=Pace.first_ms)
    options.add_argument("--stream-ms", type=float, default=Pace.stream_ms)
    given = options.parse_args()
    server = ModelServer(given.seed, Pace(given.first_ms, given.stream_ms))
    await server.start(given.port)
    print(json.dumps({"port": server.port}), flush=True)
    # Whoever started it holds the other end of stdin: it ends with them.
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()


if __name__ == "__main__":
    asyncio.run(_main())
