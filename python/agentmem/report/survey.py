"""How much agents' transcripts hold, what of it is there twice, and what agentmem would keep."""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import agentmem
from agentmem.report.duplicates import Duplicates
from agentmem.report.transcripts import Transcript, find

_MEMORY_MAX = "512M"


@dataclass
class Survey:
    """What has been found so far; all of it once `is_done`.

    Attributes:
        folders: Where it looked.
        files: Files that may be transcripts, measured or not, and `file_bytes`, their bytes.
        measured_files: Of these, the ones that were looked into, and `measured_bytes`.
        conversations: What the files that are transcripts hold: one each, or one for each run where
            a file holds several; and `messages`, what these hold together.
        logical_bytes: The bytes of these files.
        repeated_messages: Messages that an earlier conversation has too, byte for byte, and
            `repeated_message_bytes`.
        repeated_text_bytes: Bytes of large texts that one message holds more than once.
        stored_bytes: What a store keeps for all of it. Too much while it is not done.
        unreadable: Files that could not be read, with the reason.
        is_sample: Whether time was up before all files were measured.
        is_done: Whether these figures are the last.
    """

    folders: list[str]
    files: int = 0
    file_bytes: int = 0
    measured_files: int = 0
    measured_bytes: int = 0
    conversations: int = 0
    messages: int = 0
    logical_bytes: int = 0
    repeated_messages: int = 0
    repeated_message_bytes: int = 0
    repeated_text_bytes: int = 0
    stored_bytes: int = 0
    unreadable: list[str] = field(default_factory=list)
    is_sample: bool = False
    is_done: bool = False
    seconds: float = 0.0

    def as_record(self) -> dict[str, Any]:
        """The figures for programs."""
        return asdict(self)

    @property
    def reduction(self) -> float:
        """How many times less the store keeps."""
        return self.logical_bytes / self.stored_bytes if self.stored_bytes else 1.0


def survey(folders: Sequence[Path], *, seconds_max: float, seed: int = 0) -> Iterator[Survey]:
    """Measure the transcripts below `folders` by storing them, and forget them again.

    Yields the same object again and again, after each file and at the end. Nothing is changed in
    the folders. When `seconds_max` have passed, what was measured by then is the sample: one
    file at least.
    """
    start = time.monotonic()
    transcripts = find(folders)
    found = Survey([str(folder) for folder in folders])
    found.files = len(transcripts)
    found.file_bytes = sum(transcript.file_bytes for transcript in transcripts)
    if not transcripts:
        found.is_done = True
        yield found
        return
    duplicates = Duplicates()
    with agentmem.open(memory_max=_MEMORY_MAX) as mem:
        agent = mem.agent("scan")
        for transcript in _shuffled(transcripts, seed):
            if found.measured_files and time.monotonic() - start > seconds_max:
                found.is_sample = True
                break
            _measure(transcript, agent, duplicates, found)
            found.stored_bytes = mem.stats()["stored_bytes"]
            found.seconds = time.monotonic() - start
            yield found
        # What is still raw, because it could have been used or added to, is compressed as well.
        mem.reclaim()
        found.stored_bytes = mem.stats()["stored_bytes"]
    found.is_done = True
    found.seconds = time.monotonic() - start
    yield found


def _shuffled(transcripts: list[Transcript], seed: int) -> Iterator[Transcript]:
    """In random order of folders, so that the first ones are a fair sample.

    The transcripts of one folder stay together: forks and resumes of a conversation lie side by
    side, and a sample of single files would see hardly any of what they share.
    """
    groups = [list(group) for _, group in groupby(transcripts, key=lambda each: each.path.parent)]
    random.Random(seed).shuffle(groups)
    for group in groups:
        yield from group


def _measure(
    transcript: Transcript, agent: agentmem.Agent, duplicates: Duplicates, found: Survey
) -> None:
    """Store one transcript and add it to the figures."""
    found.measured_files += 1
    found.measured_bytes += transcript.file_bytes
    try:
        data = transcript.path.read_bytes()
    except OSError as error:
        found.unreadable.append(f"{transcript.path}: {error.strerror}")
        return
    conversations = agent.load(data)
    count = sum(map(len, conversations))
    if count < 2 and not transcript.is_log:
        # Any other JSON document: a configuration, a manifest.
        for conversation in conversations:
            agent.release(conversation)
        return
    for conversation in conversations:
        for index in range(len(conversation)):
            duplicates.add(found.conversations, conversation.raw(index))
        # Nothing follows: compress it now, so that the figures so far come close to the last ones.
        agent.advise(conversation, "cold")
        found.conversations += 1
    found.messages += count
    found.logical_bytes += len(data)
    found.repeated_messages = duplicates.messages
    found.repeated_message_bytes = duplicates.message_bytes
    found.repeated_text_bytes = duplicates.text_bytes
