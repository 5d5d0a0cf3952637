"""How the subcommands that speak to a suite reach it: its address, its authority, and a run of the reactor."""

import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import react

from bookd.command.answer import Refusal, Unreachable
from bookd.command.home import CommandError, Home

Result = TypeVar("Result")
Command = TypeVar("Command", bound=Callable[..., Any])

# Where a password may be left for scripts: the list of processes does not show it.
PASSWORD_VARIABLE = "BOOKD_PASSWORD"  # noqa: S105 - the name of a variable


def reach_options(command: Command) -> Command:
    """The options --url and --ca."""
    command = click.option(
        "--ca",
        type=click.Path(path_type=Path, dir_okay=False),
        help="PEM file of the authority to trust.  [default: the home's pki/ca.pem; without a home, the machine's]",
    )(command)
    return click.option("--url", metavar="URL", help="Address of the suite.  [default: that of the home]")(command)


def place(home: Home, url: str | None, ca: Path | None) -> tuple[str, Path | None]:
    """The suite's address, and the file of the authority to trust; None leaves that to the machine."""
    return url or home.url(), ca or (home.ca if home.ca.exists() else None)


def password(prompt: str, *, confirm: bool = False, from_stdin: bool = False) -> str:
    """A password: a line of standard input when asked for, else from the environment, else typed unseen."""
    if from_stdin:
        line = sys.stdin.readline()
        if not line:
            raise CommandError("there is no password on standard input")
        return line.rstrip("\r\n")
    left = os.environ.get(PASSWORD_VARIABLE)
    if left is not None:
        return left
    if not sys.stdin.isatty():
        raise CommandError(
            f"no terminal to ask for a password; use --password-stdin or the variable {PASSWORD_VARIABLE}"
        )
    typed: str = click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)
    return typed


def run(work: Callable[[Any], Awaitable[Result]]) -> Result:
    """Run the reactor until `work(reactor)` is done; its result, or its exception. Ctrl-C raises `click.Abort`."""
    results: list[Result] = []
    errors: list[BaseException] = []

    async def attend(reactor: Any) -> None:
        try:
            results.append(await work(reactor))
        except Exception as error:
            errors.append(error)

    def start(reactor: Any) -> Deferred[None]:
        return ensureDeferred(attend(reactor))

    try:
        react(start)
    except SystemExit:
        if errors:
            raise errors[0] from None
        if not results:
            raise click.Abort from None
    return results[0]


def plainly(refusal: Refusal) -> str:
    """A refusal for a person: its status and title, what it says, and each field at fault on a line of its own."""
    problem = refusal.problem
    title = str(problem.get("title") or "refused")
    first = f"{refusal.status} {title}" if refusal.status else title
    lines = [f"{first}: {problem['detail']}" if problem.get("detail") else first]
    if refusal.reason:
        lines[0] += f" ({refusal.reason})"
    faults = [f"{field}: {description}" for field, description in violations(refusal)]
    if faults != [problem.get("detail")]:
        lines += [f"  {fault}" for fault in faults]
    if refusal.answer is not None and refusal.answer.headers.hasHeader("retry-after"):
        lines[0] += f"; try again in {refusal.answer.retry_after(1.0):.0f} s"
    return "\n".join(lines)


def violations(refusal: Refusal) -> list[tuple[str, str]]:
    """The fields at fault, each with what is wrong with it."""
    found = refusal.problem.get("violations")
    if not isinstance(found, list):
        return []
    return [(str(each.get("field", "")), str(each.get("description", ""))) for each in found if isinstance(each, dict)]


def told(error: Refusal | Unreachable) -> CommandError:
    """The error as the command ends with it."""
    return CommandError(plainly(error) if isinstance(error, Refusal) else str(error))
