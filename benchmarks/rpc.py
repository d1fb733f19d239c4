"""Other coding agents, unmodified: they speak JSON-RPC through pipes, a line a message."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from benchmarks import claude_code, script
from benchmarks.npm import Package
from benchmarks.tree import Tree, TreeError, Turn

Message = dict[str, Any]
Hear = Callable[[Message], None]

_CODEX = Package(
    "@openai/codex", "0.171.0", "@openai/codex-linux-*/vendor/*-unknown-linux-musl/bin/codex"
)
_GEMINI = Package("@google/gemini-cli", "0.61.0", ".bin/gemini")
_OPENCODE = Package("opencode-ai", "1.18.33", "opencode-linux-*64/bin/opencode")


class Agent(Tree):
    """One that stays alive for all its turns; its model answers without tools."""

    def __init__(
        self,
        name: str,
        command: Iterable[str | Path],
        *,
        folder: Path,
        prefix: list[str],
        environment: dict[str, str],
        seed: int,
    ) -> None:
        super().__init__(name, list(command), folder=folder, prefix=prefix, environment=environment)
        self.oracle = script.Oracle(name, folder, seed, tools=False)
        self._calls = 0
        self._session = ""

    async def start(self) -> Self:
        """Start it, and a conversation."""
        await super().start()
        self._session = await self.greet()
        return self

    async def greet(self) -> str:
        """Begin a conversation; its id."""
        raise NotImplementedError

    async def say(self, line: str, heard: Callable[[str], None]) -> None:
        """What a user types; `heard` is told each piece of the answer, until that is whole."""
        raise NotImplementedError

    async def turn(self) -> Turn:
        """The next task, and whether the answer is right."""
        line, right = self.oracle.next()
        pieces, first_ms = list[str](), list[float]()
        began_s = time.perf_counter()

        def heard(piece: str) -> None:
            first_ms.append((time.perf_counter() - began_s) * 1000)
            pieces.append(piece)

        await self.say(line, heard)
        total_ms = (time.perf_counter() - began_s) * 1000
        answer = "".join(pieces)
        return Turn(first_ms[0] if first_ms else total_ms, total_ms, answer, answer == right)

    async def call(self, method: str, params: Message, hear: Hear = lambda _: None) -> Any:
        """One request and its result; `hear` is told what else comes meanwhile."""
        self._calls += 1
        request = {"jsonrpc": "2.0", "id": self._calls, "method": method, "params": params}
        await self.send(json.dumps(request))
        while True:
            message = json.loads(await self.receive())
            if message.get("id") != self._calls or "method" in message:
                hear(message)
            elif "error" in message:
                raise TreeError(f"{self.name}: {method}: {message['error']}")
            else:
                return message["result"]


class Acp(Agent):
    """One that speaks the Agent Client Protocol: opencode, Gemini CLI."""

    authentication: str | None = None
    """How it is told to reach its model, where it wants to be told."""

    async def greet(self) -> str:
        """See `Agent`."""
        await self.call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        if self.authentication:
            await self.call("authenticate", {"methodId": self.authentication})
        session = await self.call("session/new", {"cwd": str(self.folder), "mcpServers": []})
        return str(session["sessionId"])

    async def say(self, line: str, heard: Callable[[str], None]) -> None:
        """See `Agent`."""

        def hear(message: Message) -> None:
            update = message.get("params", {}).get("update", {})
            if update.get("sessionUpdate") == "agent_message_chunk":
                heard(update["content"]["text"])

        prompt = [{"type": "text", "text": line}]
        await self.call("session/prompt", {"sessionId": self._session, "prompt": prompt}, hear)


class Gemini(Acp):
    """Gemini CLI: two processes of Node."""

    authentication = "gemini-api-key"


class Codex(Agent):
    """Codex, as editors start it: a static binary."""

    async def greet(self) -> str:
        """See `Agent`."""
        await self.call("initialize", {"clientInfo": {"name": "benchmarks", "version": "1"}})
        await self.send(json.dumps({"method": "initialized"}))
        told = {"cwd": str(self.folder), "sandbox": "read-only", "approvalPolicy": "never"}
        return str((await self.call("thread/start", told))["thread"]["id"])

    async def say(self, line: str, heard: Callable[[str], None]) -> None:
        """See `Agent`."""
        ended = False

        def hear(message: Message) -> None:
            nonlocal ended
            if message.get("method") == "item/agentMessage/delta":
                heard(message["params"]["delta"])
            ended |= message.get("method") == "turn/completed"

        told = [{"type": "text", "text": line}]
        await self.call("turn/start", {"threadId": self._session, "input": told}, hear)
        while not ended:
            hear(json.loads(await self.receive()))


def codex(name: str, folder: Path, port: int, **more: Any) -> Agent:
    """Codex; its model speaks OpenAI's Responses."""
    model = {"name": "mock", "wire_api": "responses", "env_key": "MODEL_KEY"}
    model["base_url"] = f"http://127.0.0.1:{port}/v1"
    settings = {
        "model": "mock",
        "model_provider": "mock",
        "check_for_update_on_startup": False,
        **{f"model_providers.mock.{key}": value for key, value in model.items()},
    }
    options = [f"--config={key}={json.dumps(value)}" for key, value in settings.items()]
    told = claude_code.surroundings(folder) | {"MODEL_KEY": "test"}
    command = [_CODEX.install(), "app-server", *options]
    return Codex(name, command, folder=folder / "work", environment=told, **more)


def gemini(name: str, folder: Path, port: int, **more: Any) -> Agent:
    """Gemini CLI; its model speaks generateContent."""
    told = claude_code.surroundings(folder) | {
        "GEMINI_API_KEY": "test",
        "GOOGLE_GEMINI_BASE_URL": f"http://127.0.0.1:{port}",
    }
    settings = folder / "home" / ".gemini" / "settings.json"
    settings.parent.mkdir()
    off = {"usageStatisticsEnabled": False}
    chosen = {"privacy": off, "general": {"enableAutoUpdate": False}}
    settings.write_text(json.dumps(chosen | {"model": {"name": "gemini-2.5-pro"}}))
    command = [_GEMINI.install(), "--acp"]
    return Gemini(name, command, folder=folder / "work", environment=told, **more)


def opencode(name: str, folder: Path, port: int, **more: Any) -> Agent:
    """opencode; its model speaks Anthropic's Messages."""
    reached = {"baseURL": f"http://127.0.0.1:{port}/v1", "apiKey": "test"}
    provider = {"options": reached, "models": {"mock": {"name": "mock"}}}
    chosen = {"model": "anthropic/mock", "small_model": "anthropic/mock", "autoupdate": False}
    told = claude_code.surroundings(folder) | {
        "OPENCODE_CONFIG_CONTENT": json.dumps(chosen | {"provider": {"anthropic": provider}}),
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
    }
    command = [_OPENCODE.install(), "acp"]
    return Acp(name, command, folder=folder / "work", environment=told, **more)


KINDS: dict[str, Callable[..., Agent]] = {"opencode": opencode, "gemini": gemini, "codex": codex}
