"""What clients asked for and what they were told, and what was done to the suite meanwhile, as lines of JSON.

An operation is one intent under one Idempotency-Key, however often it is sent. Its life is up to four lines:

    invoke ──> accept (202: the suite has it on disk) ──> ok | refused
       └──────────────────────────────────────────────────┘

An operation without an end is unknown: it may be in effect or not, but once at most. All times are seconds of one
monotonic clock that began with the run.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from attrs import define, field


@define(eq=False)
class Operation:
    """One intent. `lane` names what it must keep its order with; `arguments` are what was asked for, as the checker
    needs it; `result` is what the final answer told."""

    number: int
    kind: str
    lane: str
    message_id: str
    arguments: Mapping[str, Any]
    invoked: float
    accepted: float | None = None  # when it was first acknowledged, be it by 202 or by its end
    ended: float | None = None
    outcome: str = "unknown"  # or "ok", "refused"
    result: Mapping[str, Any] = field(factory=dict)
    name: str = ""  # of the operation that a 202 named
    attempts: int = 0

    @property
    def acknowledged(self) -> bool:
        """Whether the client was told that it is, or will be, in effect."""
        return self.outcome == "ok"


class History:
    """Writes the history of a run to `file`. `seconds` is the clock."""

    def __init__(self, file: TextIO, seconds: Callable[[], float]) -> None:
        self.operations: list[Operation] = []
        self.notes: list[Mapping[str, Any]] = []
        self.seconds = seconds
        self._file = file

    def invoke(self, kind: str, lane: str, message_id: str, **arguments: Any) -> Operation:
        """A client begins."""
        operation = Operation(len(self.operations), kind, lane, message_id, arguments, self.seconds())
        self.operations.append(operation)
        self._line(
            operation.invoked, "invoke", operation, kind=kind, lane=lane, message_id=message_id, arguments=arguments
        )
        return operation

    def accept(self, operation: Operation, name: str) -> None:
        """The suite answered 202 and named the operation that it is to end."""
        if operation.name:
            return
        operation.name = name
        operation.accepted = self.seconds()
        self._line(operation.accepted, "accept", operation, name=name)

    def ok(self, operation: Operation, **result: Any) -> None:
        """It is in effect, the client was told."""
        self._end(operation, "ok", result)

    def refused(self, operation: Operation, status: int, reason: str) -> None:
        """The suite said no, for good."""
        self._end(operation, "refused", {"status": status, "reason": reason})

    def note(self, event: str, **what: Any) -> None:
        """Something that was done to the suite, or seen of it."""
        line = {"time": round(self.seconds(), 4), "event": event, **what}
        self.notes.append(line)
        self._write(line)

    def _end(self, operation: Operation, outcome: str, result: Mapping[str, Any]) -> None:
        operation.ended = self.seconds()
        if outcome == "ok" and operation.accepted is None:
            operation.accepted = operation.ended
        operation.outcome = outcome
        operation.result = result
        self._line(operation.ended, outcome, operation, attempts=operation.attempts, result=result)

    def _line(self, time: float, event: str, operation: Operation, **more: Any) -> None:
        self._write({"time": round(time, 4), "event": event, "operation": operation.number, **more})

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")


def load(path: Path) -> tuple[list[Operation], list[Mapping[str, Any]]]:
    """The operations of a history, by number, and the notes. A last line that was cut off is passed over."""
    operations: list[Operation] = []
    notes: list[Mapping[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        match line["event"]:
            case "invoke":
                operations.append(
                    Operation(
                        line["operation"],
                        line["kind"],
                        line["lane"],
                        line["message_id"],
                        line["arguments"],
                        line["time"],
                    )
                )
            case "accept":
                operations[line["operation"]].name = line["name"]
                operations[line["operation"]].accepted = line["time"]
            case "ok" | "refused":
                operation = operations[line["operation"]]
                operation.ended, operation.outcome, operation.result = line["time"], line["event"], line["result"]
                operation.attempts = line["attempts"]
                if operation.outcome == "ok" and operation.accepted is None:
                    operation.accepted = operation.ended
            case _:
                notes.append(line)
    return operations, notes
