"""A request to the suite's REST API and what comes back: an answer, a refusal with its fields, or nothing at all."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from attrs import field, frozen
from twisted.web.http_headers import Headers

from bookd.errors import Code

# What the type of a problem begins with; the reason follows.
PROBLEM = "urn:bookd:problem:"
# Seconds between attempts, whatever a server asks for.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.2, 15.0


@frozen
class Answer:
    """What the gateway answered: 2xx, or an error that `Refusal` carries."""

    status: int
    headers: Headers
    body: Any  # decoded JSON; None when there was no body

    @property
    def operation(self) -> str | None:
        """Name of the operation that a kept write has become ("operations/…"), or None."""
        return (
            str(self.body["name"])
            if self.status == 202 and isinstance(self.body, dict) and "name" in self.body
            else None
        )

    def retry_after(self, default: float) -> float:
        """How many seconds to wait before the next attempt."""
        said = (self.headers.getRawHeaders("retry-after") or [""])[0]
        seconds = float(said) if said.isascii() and said.isdigit() and len(said) < 9 else default
        return min(max(seconds, SHORTEST_PAUSE), LONGEST_PAUSE)


class Refusal(Exception):
    """The gateway said no. `problem` is its problem+json, or what could be made of an answer that is none."""

    def __init__(self, status: int, problem: Mapping[str, Any], answer: Answer | None = None) -> None:
        super().__init__(problem.get("detail") or problem.get("title") or f"HTTP status {status}")
        self.status = status
        self.problem = problem
        self.answer = answer

    @property
    def code(self) -> str:
        """Name of the canonical code (`ALREADY_EXISTS`), or empty."""
        return str(self.problem.get("code", ""))

    @property
    def reason(self) -> str:
        """The stable reason for programs (`ISBN_TAKEN`), or empty."""
        kind = str(self.problem.get("type", ""))
        return kind.removeprefix(PROBLEM) if kind.startswith(PROBLEM) else ""


class Unreachable(Exception):
    """No answer, or none that can be read. The message says why, for a person."""


@frozen
class Call:
    """One request."""

    verb: str
    path: str  # quoted
    body: Any = None
    query: Mapping[str, str] = field(factory=dict)
    public: bool = False  # needs no token, so none is sent


def path(template: str, **values: str) -> str:
    """`template` with each value quoted as one path segment."""
    return template.format(**{name: quote(value, safe="") for name, value in values.items()})


def judge(status: int, headers: Headers, data: bytes) -> Answer:
    """The answer, or the `Refusal` or `Unreachable` that it amounts to."""
    try:
        body = json.loads(data) if data.strip() else None
    except (ValueError, RecursionError):
        body = data[:200].decode(errors="replace")
        if 200 <= status < 300:
            raise Unreachable(f"the answer is not JSON but {body!r}") from None
    answer = Answer(status, headers, body)
    if 200 <= status < 300:
        return answer
    problem = body if isinstance(body, dict) else {"title": f"HTTP status {status}", "detail": body or ""}
    raise Refusal(status, problem, answer)


def outcome(operation: Mapping[str, Any]) -> Any:
    """The response of an operation that is done. Raises `Refusal`, shaped like any other, when the call was refused."""
    error = operation.get("error")
    if isinstance(error, dict) and error.get("code"):
        raise Refusal(0, _problem(error))
    response = operation.get("response")
    return {name: value for name, value in response.items() if name != "@type"} if isinstance(response, dict) else None


def _problem(status: Mapping[str, Any]) -> dict[str, Any]:
    """A google.rpc.Status in JSON as a problem."""
    number = status["code"]
    code = Code(number).name if isinstance(number, int) and number in set(Code) else str(number)
    problem = {"title": "the kept call was refused", "detail": status.get("message", ""), "code": code}
    for detail in status.get("details") or []:
        kind = str(detail.get("@type", "")).rpartition(".")[2]
        if kind == "ErrorInfo" and detail.get("reason"):
            problem["type"] = PROBLEM + str(detail["reason"])
        elif kind == "BadRequest":
            problem["violations"] = detail.get("field_violations") or []
    return problem
