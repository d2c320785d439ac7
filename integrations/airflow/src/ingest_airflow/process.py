"""The program as a process: started, listened to, ended.

No secret is ever an argument: arguments can be read by every user of the machine. Secrets travel in the environment of the
process alone.
"""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

#: A process that was told to stop commits what is whole and ends within ten seconds.
GRACE_SECONDS = 15
#: The last lines of stderr, kept for the message of an error.
KEPT_LINES = 20
#: A line of events that is longer is none of ours.
MAX_LINE = 4 << 20


@dataclass
class Ended:
    """How a process ended."""

    code: int
    summary: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


class Process:
    """One run of the program, in a process group of its own."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], cwd: str | None = None):
        self.child = subprocess.Popen(
            arguments,
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self.errors: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)

    def lines(self) -> Iterator[str]:
        """Lines of stdout until the process ends."""
        assert self.child.stdout is not None
        while line := self.child.stdout.readline(MAX_LINE):
            yield line

    def listen(self, say: Callable[[str], None]) -> threading.Thread:
        """Hands lines of stderr on, in a thread: a full pipe would stop the process."""

        def read() -> None:
            assert self.child.stderr is not None
            while line := self.child.stderr.readline(MAX_LINE):
                if line := line.rstrip():
                    self.errors.append(line)
                    say(line)

        thread = threading.Thread(target=read, name="ingest-stderr", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """Asks the process to stop, and kills it when it does not: commits are whole at any time."""
        if self.child.poll() is not None:
            return
        self._signal(signal.SIGTERM)
        try:
            self.child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.child.wait()

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.child.pid, number)
        except ProcessLookupError:
            pass


def run(process: Process, on_event: Callable[[dict[str, Any]], None], say: Callable[[str], None]) -> Ended:
    """Runs a process that prints events to its end. Whatever ends this call ends the process too."""
    summary: dict[str, Any] = {}
    reader = process.listen(say)
    try:
        for line in process.lines():
            try:
                event = json.loads(line)
            except ValueError:
                say(line.rstrip())
                continue
            if isinstance(event, dict):
                on_event(event)
                if event.get("type") == "run_finished":
                    summary = event
        code = process.child.wait()
    finally:
        process.stop()
    reader.join(GRACE_SECONDS)
    return Ended(code, summary, list(process.errors))


def output(process: Process, say: Callable[[str], None]) -> tuple[int, str, list[str]]:
    """Runs a process that prints one answer, and gives its code, the answer, and the last lines of stderr."""
    reader = process.listen(say)
    try:
        text = "".join(process.lines())
        code = process.child.wait()
    finally:
        process.stop()
    reader.join(GRACE_SECONDS)
    return code, text, list(process.errors)


def progress(event: dict[str, Any]) -> str | None:
    """An event as a line of a task's log; ``None`` for those that say nothing new."""
    stream = event.get("stream")
    match event.get("type"):
        case "run_started":
            return f"run {event['run_id']}: {event['source']} ({event['connector']}) into {event['lake']}"
        case "stream_started":
            rows = event.get("rows")
            about = f", about {rows:,} rows" if rows else ""
            return f"{stream}: {event['mode']}, {event['write']}; {event['slices']} slices{about}"
        case "progress":
            return f"{stream}: {event['rows_read']:,} rows read, slice {event['slices_done']} of {event['slices']}"
        case "commit":
            return f"{stream}: version {event['version']}: {event['rows']:,} rows in {event['files']} files"
        case "warning":
            return f"warning: {stream + ': ' if stream else ''}{event['message']}"
        case "heartbeat":
            return f"still alive; nothing new for {event['idle_seconds']} s"
        case "stream_finished":
            staged = event.get("rows_staged", 0)
            how = f"{staged:,} staged" if staged else f"{event['rows_written']:,} written"
            return f"{stream}: {event['rows_read']:,} rows read, {how}, in {event['duration_ms']} ms"
        case "run_finished":
            return f"{event['outcome']} ({event['exit_code']}) in {event['duration_ms']} ms"
    return None
