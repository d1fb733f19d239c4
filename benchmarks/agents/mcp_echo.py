"""A tiny MCP server on stdio: one tool, `echo`, and a few megabytes of state as real ones have."""

import json
import sys
from typing import Any

STATE = {number: f"entry {number} of a server's state" for number in range(20_000)}
TOOL = {
    "name": "echo",
    "description": "Gives back the text, and how many calls there were before.",
    "inputSchema": {
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
    },
}


class Server:
    """Answers requests one by one."""

    def __init__(self) -> None:
        self.calls = 0

    def result_of(self, method: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
        """The result of a request; None for a method that is not there."""
        if method == "initialize":
            return {
                "protocolVersion": parameters.get("protocolVersion", "2025-06-18"),
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "echo", "version": "1"},
            }
        if method == "ping":
            return {}
        if method == "tools/list":
            return {"tools": [TOOL]}
        if method == "tools/call":
            self.calls += 1
            text = (
                f"{self.calls} {STATE[self.calls % len(STATE)]}: {parameters['arguments']['text']}"
            )
            return {"content": [{"type": "text", "text": text}]}
        return None

    def serve(self) -> None:
        """Until stdin ends."""
        for line in sys.stdin:
            request = json.loads(line)
            if "id" not in request or "method" not in request:
                continue
            answer: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
            result = self.result_of(request["method"], request.get("params") or {})
            if result is None:
                answer["error"] = {"code": -32601, "message": "no such method"}
            else:
                answer["result"] = result
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    Server().serve()
