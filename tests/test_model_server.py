"""The mock model: HTTP and the Messages API as clients use them, and what it answers."""

import asyncio
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import script  # noqa: E402
from benchmarks.model_server import ModelServer, Pace  # noqa: E402

FAST = Pace(first_ms=0, stream_ms=0)
TOOLS = [{"name": name} for name in ("Read", "Bash", "Grep")]


@contextmanager
def served(seed: int = 1, pace: Pace = FAST) -> Iterator[int]:
    """A server on a thread; its port."""
    server, loop = ModelServer(seed, pace), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        yield server.port
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with served() as number:
        yield number


@pytest.fixture
def connection(port: int) -> Iterator[http.client.HTTPConnection]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    yield link
    link.close()


def post(link: http.client.HTTPConnection, path: str, body: object) -> Any:
    link.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    answer = link.getresponse()
    content = answer.read()
    assert answer.status == 200, content
    return json.loads(content)


def events(link: http.client.HTTPConnection, body: dict[str, Any]) -> list[dict[str, Any]]:
    link.request("POST", "/v1/messages?beta=true", json.dumps(body | {"stream": True}))
    answer = link.getresponse()
    assert answer.getheader("content-type", "").startswith("text/event-stream")
    found = []
    for event in answer.read().decode().strip().split("\n\n"):
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def assembled(stream: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client puts together, checking the order of events on the way."""
    assert stream[0]["type"] == "message_start"
    assert [event["type"] for event in stream[-2:]] == ["message_delta", "message_stop"]
    message = stream[0]["message"]
    texts: dict[int, str] = {}
    for event in stream[1:-2]:
        index, kind = event["index"], event["type"]
        if kind == "content_block_start":
            assert index == len(message["content"])
            message["content"].append(event["content_block"])
            texts[index] = ""
        elif kind == "content_block_delta":
            delta = event["delta"]
            texts[index] += (
                delta["text"] if delta["type"] == "text_delta" else delta["partial_json"]
            )
        else:
            assert kind == "content_block_stop"
            block = message["content"][index]
            if block["type"] == "text":
                block["text"] = texts[index]
            else:
                block["input"] = json.loads(texts[index])
    message["stop_reason"] = stream[-2]["delta"]["stop_reason"]
    message["usage"] |= stream[-2]["usage"]
    return message


class Client:
    """An agent as small as can be: it keeps a history and runs what tools it is told to."""

    def __init__(self, link: http.client.HTTPConnection, tools: list[dict[str, str]]) -> None:
        self.link = link
        self.tools = tools
        self.messages: list[dict[str, Any]] = []
        self.used: list[str] = []

    def turn(self, line: str) -> str:
        reminder = {"type": "text", "text": "<system-reminder>not about it</system-reminder>"}
        self.messages.append({"role": "system", "content": "neither"})
        self.messages.append(
            {"role": "user", "content": [reminder, {"type": "text", "text": line}]}
        )
        while True:
            body = {"model": "m", "tools": self.tools, "messages": self.messages}
            message = assembled(events(self.link, body))
            self.messages.append({"role": "assistant", "content": message["content"]})
            if message["stop_reason"] == "end_turn":
                return str(message["content"][-1]["text"])
            calls = [each for each in message["content"] if each["type"] == "tool_use"]
            self.messages.append({"role": "user", "content": list(map(self.result_of, calls))})

    def result_of(self, call: dict[str, Any]) -> dict[str, Any]:
        self.used.append(call["name"])
        if call["name"] == "Bash":
            shell = ["bash", "-c", call["input"]["command"]]
            text = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
        else:
            text = Path(call["input"].get("file_path") or call["input"]["path"]).read_text()
        content = [{"type": "text", "text": text}]
        return {"type": "tool_result", "tool_use_id": call["id"], "content": content}


def test_a_stream_makes_the_message_that_is_sent_whole(
    connection: http.client.HTTPConnection, tmp_path: Path
) -> None:
    content = script.task_line(5, "a", tmp_path)
    body = {"model": "m", "tools": TOOLS, "messages": [{"role": "user", "content": content}]}
    whole = post(connection, "/v1/messages", body)
    assert whole["stop_reason"] == "tool_use"
    assert [block["type"] for block in whole["content"]] == ["text", "tool_use"]
    assert assembled(events(connection, body)) == whole


def test_what_is_not_about_a_task_gets_a_short_answer(
    connection: http.client.HTTPConnection,
) -> None:
    quota = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "quota"}]}
    assert json.loads(post(connection, "/v1/messages", quota)["content"][0]["text"])["title"]
    assert post(connection, "/v1/messages/count_tokens", quota)["input_tokens"] > 0
    assert post(connection, "/api/anything", {}) == {}
    for method in ("GET", "HEAD"):
        connection.request(method, "/")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"{}" if method == "GET" else b"")


def test_bodies_may_come_in_chunks(connection: http.client.HTTPConnection) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode()
    connection.request("POST", "/v1/messages/count_tokens", iter([body[:9], body[9:]]))
    assert json.loads(connection.getresponse().read())["input_tokens"] > 0


@pytest.mark.parametrize("text", ["no request\r\n\r\n", "GET / HTTP/1.1\r\nno colon\r\n\r\n"])
def test_what_is_not_http_is_refused(connection: http.client.HTTPConnection, text: str) -> None:
    connection.connect()
    connection.sock.sendall(text.encode())
    assert connection.sock.recv(1 << 16).startswith(b"HTTP/1.1 400 ")


def test_what_is_not_json_is_refused(connection: http.client.HTTPConnection) -> None:
    connection.request("POST", "/v1/messages", "{")
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["type"]) == (400, "error")


@pytest.mark.parametrize("tools", [TOOLS, [{"name": "Bash"}]])
def test_every_answer_is_known_beforehand(
    connection: http.client.HTTPConnection, tmp_path: Path, tools: list[dict[str, str]]
) -> None:
    script.write_files(tmp_path, "a", 10)
    client, oracle = Client(connection, tools), script.Oracle("a", tmp_path, seed=1)
    for _ in range(10):
        line, right = oracle.next()
        assert client.turn(line) == right
    assert set(client.used) == {tool["name"] for tool in tools}


@pytest.mark.parametrize(
    "old", ["task 1 of", script.fact_of("a", 2), "running number", "Step 1 of"]
)
def test_a_history_that_lost_something_gives_another_answer(
    connection: http.client.HTTPConnection, tmp_path: Path, old: str
) -> None:
    script.write_files(tmp_path, "a", 4)
    client, oracle = Client(connection, TOOLS), script.Oracle("a", tmp_path, seed=1)
    for _ in range(3):
        client.turn(oracle.next()[0])
    line, right = oracle.next()
    text = json.dumps(client.messages)
    assert old in text
    client.messages = json.loads(text.replace(old, old[:-1] + "x", 1))
    assert client.turn(line) != right


def test_the_seed_alone_decides(tmp_path: Path) -> None:
    script.write_files(tmp_path, "a", 3)
    answers = []
    for seed in (1, 1, 2):
        with served(seed) as port:
            link = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            client, oracle = Client(link, TOOLS), script.Oracle("a", tmp_path, seed)
            answers.append([client.turn(oracle.next()[0]) for _ in range(3)])
            link.close()
    assert answers[0] == answers[1]
    assert not set(answers[0]) & set(answers[2])


def test_a_hundred_clients_at_once(port: int, tmp_path: Path) -> None:
    def talk(number: int) -> bool:
        name, folder = f"a{number}", tmp_path / str(number)
        script.write_files(folder, name, 2)
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        client, oracle = Client(link, TOOLS), script.Oracle(name, folder, seed=1)
        lines = [oracle.next() for _ in range(2)]
        right = all(client.turn(line) == answer for line, answer in lines)
        link.close()
        return right

    with ThreadPoolExecutor(100) as pool:
        assert all(pool.map(talk, range(100)))


def test_the_pace_is_kept_and_can_be_changed(connection: http.client.HTTPConnection) -> None:
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    with served(pace=Pace(first_ms=50, stream_ms=100)) as port:
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        assert seconds_of(link, body) >= 0.15
        post(link, "/pace", {"first_ms": 0, "stream_ms": 0})
        assert seconds_of(link, body) < 0.15
        link.close()


def seconds_of(link: http.client.HTTPConnection, body: dict[str, Any]) -> float:
    began_s = time.perf_counter()
    events(link, body)
    return time.perf_counter() - began_s


def test_as_a_program_it_says_its_port_and_ends_with_its_stdin() -> None:
    command = [sys.executable, "-m", "benchmarks.model_server"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        link = http.client.HTTPConnection("127.0.0.1", json.loads(server.stdout.readline())["port"])
        assert post(link, "/v1/messages/count_tokens", {})["input_tokens"] == 0
        link.close()
        server.stdin.close()
        assert server.wait(10) == 0
