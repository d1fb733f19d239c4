"""What the mock model says: a function of the conversation that a client sends, and of a seed.

A user's line is a task in double brackets. The model looks at that task's file with the tools that
the plan names, then answers. An answer holds a digest of everything before it (the tasks, the facts
that tools brought, the answers) and a running number that it continues from the answer before. Both
come out of the history that the client keeps, so whoever knows what the client was told can
recompute every answer, and one right answer proves that the client kept all of it.
"""

import hashlib
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TASK = re.compile(r"\[\[task (\d+) of (\S+) in (\S+): (.*?)\]\]", re.DOTALL)
FACT = re.compile(r"fact-[0-9a-f]{16}")
NUMBER = re.compile(r"running number (\d+)")
_FILE_LINES = 60
_TEXT = (
    "agent arena block branch buffer cache channel claim codec commit core cursor daemon digest "
    "engine event fiber file fleet frame garbage handle heap index journal kernel lease limit "
    "list lock memory message mutex node offset page parent parser path pin pipe policy pool "
    "process queue reader record region registry ring router schema segment signal slot socket "
    "stack stream table task thread tier timer token trace tree tuple verb view wake worker"
)
_WORDS = _TEXT.split()

Block = dict[str, Any]


@dataclass
class Exchange:
    """One task, and what followed it."""

    task: str
    """All that stands in the brackets."""
    facts: list[str] = field(default_factory=list)
    """What tools brought, in order."""
    said: list[str] = field(default_factory=list)
    """What the model said, the answer last."""
    steps: int = 0
    """How many messages with tool calls there were."""


def hexdigest(*parts: object) -> str:
    """A hash of parts, which cannot run into each other."""
    return hashlib.sha256("\0".join(map(repr, parts)).encode()).hexdigest()


def words(count: int, *seed: object) -> str:
    """`count` words that follow from the seed."""
    choose = random.Random(hexdigest(*seed))
    return " ".join(choose.choice(_WORDS) for _ in range(count))


def task_line(number: int, agent: str, folder: Path) -> str:
    """What the user of `agent` types as its task `number`, counted from 1."""
    return f"[[task {number} of {agent} in {folder}: {words(40, 'task', agent, number)}]]"


def file_of(folder: Path | str, number: int) -> Path:
    """The file that a task is about."""
    return Path(folder) / f"chapter-{number:04}.txt"


def fact_of(agent: str, number: int) -> str:
    """What is to be found in a task's file."""
    return f"fact-{hexdigest('fact', agent, number)[:16]}"


def write_files(folder: Path, agent: str, count: int) -> None:
    """Write the files of tasks 1 to `count`, about 4 KB each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        lines = [words(10, "file", agent, number, line) for line in range(_FILE_LINES)]
        lines[_FILE_LINES // 2] = f"the {fact_of(agent, number)} of task {number}"
        file_of(folder, number).write_text("\n".join(lines) + "\n")


def plan(number: int) -> list[list[str]]:
    """The tools of each message before the answer to task `number`."""
    return [[["Read"]], [["Bash"]], [["Grep"]], [], [["Read"], ["Bash"]]][(number - 1) % 5]


def exchanges_of(messages: Iterable[Block]) -> list[Exchange]:
    """What a client's messages hold of tasks, facts and answers. Reminders are left out.

    Some clients put messages of the role "system" in between; these are no one's words either.
    """
    found: list[Exchange] = []
    for message in messages:
        blocks = _blocks(message.get("content", ""))
        if message.get("role") == "user":
            for block in blocks:
                _take_from_user(found, block)
        elif message.get("role") == "assistant" and found:
            found[-1].said += [text for block in blocks if (text := _text(block).strip())]
            found[-1].steps += any(block.get("type") == "tool_use" for block in blocks)
    return found


def _take_from_user(found: list[Exchange], block: Block) -> None:
    if block.get("type") == "tool_result":
        if found:
            text = "\n".join(map(_text, _blocks(block.get("content", ""))))
            found[-1].facts += dict.fromkeys(FACT.findall(text))
        return
    found += [Exchange(match[0]) for match in TASK.finditer(_text(block))]


def _blocks(content: str | list[Block]) -> list[Block]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _text(block: Block) -> str:
    return str(block.get("text", "")) if block.get("type") == "text" else ""


def next_blocks(exchanges: list[Exchange], seed: int, tools: frozenset[str]) -> list[Block]:
    """What the model says next: tool calls, with a sentence before them, or the answer.

    Clients that have no tool called Bash get the answer at once.
    """
    now = exchanges[-1]
    match = TASK.fullmatch(now.task)
    assert match is not None, "a task is what the pattern found"
    number, folder = int(match[1]), match[3]
    steps = plan(number) if "Bash" in tools else []
    if now.steps >= len(steps):
        return [{"type": "text", "text": answer(exchanges, seed)}]
    identity = hexdigest(seed, now.task, now.steps)
    blocks: list[Block] = [{"type": "text", "text": sentence(number, now.steps)}]
    for place, name in enumerate(steps[now.steps]):
        call = _call(name, file_of(folder, number), tools)
        blocks.append({"type": "tool_use", "id": f"toolu_{identity[:20]}{place:02}", **call})
    return blocks


def sentence(number: int, step: int) -> str:
    """What the model says before it calls tools."""
    return f"Step {step + 1} of task {number}: {words(12, 'sentence', number, step)}."


def _call(name: str, path: Path, tools: frozenset[str]) -> Block:
    """A tool call that brings the fact in `path`; by Bash where the client has no such tool."""
    if name == "Read" and name in tools:
        return {"name": name, "input": {"file_path": str(path)}}
    if name == "Grep" and name in tools:
        return {
            "name": name,
            "input": {"pattern": "fact-", "path": str(path), "output_mode": "content"},
        }
    commands = {"Read": f"cat {path}", "Grep": f"grep -n fact- {path}"}
    command = commands.get(name, f"sort {path} | head -n 12; sed -n 25,35p {path} | cat -n")
    return {"name": "Bash", "input": {"command": command, "description": "Look into the file"}}


def answer(exchanges: list[Exchange], seed: int) -> str:
    """The answer to the last exchange's task, which follows from all exchanges."""
    history = [(each.task, each.facts, each.said) for each in exchanges]
    digest = hexdigest(seed, history)
    before = NUMBER.search(" ".join(exchanges[-2].said[-1:])) if len(exchanges) > 1 else None
    number = (int(before[1]) if before else 0) + int(digest[:4], 16)
    prose = words(100, "answer", digest)
    return f"Task {len(exchanges)} done, running number {number}, digest {digest}: {prose}."


class Oracle:
    """Knows each answer of one agent beforehand, from what it was told and no one's history."""

    def __init__(self, agent: str, folder: Path, seed: int, *, tools: bool = True) -> None:
        self.agent = agent
        self.folder = folder
        self.seed = seed
        self.tools = tools
        self.exchanges: list[Exchange] = []

    def next(self) -> tuple[str, str]:
        """The next task's line, and the answer that is right."""
        number = len(self.exchanges) + 1
        line = task_line(number, self.agent, self.folder)
        steps = plan(number) if self.tools else []
        facts = [fact_of(self.agent, number) for step in steps for _ in step]
        said = [sentence(number, step) for step in range(len(steps))]
        self.exchanges.append(Exchange(line, facts, said, len(steps)))
        right = answer(self.exchanges, self.seed)
        said.append(right)
        return line, right
