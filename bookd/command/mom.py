"""`bookd mom`: queues, kept messages and dead letters for the operator at a terminal, and for scripts.

It does what the rpcs of the MOM for administrators do, through the REST API, as the first administrator of the home or as
the user who is named. The session is opened for the command and ended with it.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click
from attrs import frozen
from rich.console import Console

from bookd.command import several
from bookd.command.answer import Call, Refusal, Unreachable, path
from bookd.command.home import CommandError, Home
from bookd.command.mom_tables import show_letter, show_letters, show_operations, show_queue, show_queues
from bookd.command.reach import password, place, reach_options, run, told
from bookd.command.rest import Rest
from bookd.command.session import Session

Result = TypeVar("Result")

# The largest page that a list is asked for.
PAGE = 1000
STATES = ("queued", "succeeded", "failed", "dead", "cancelled")


@frozen
class Where:
    """The suite that the subcommands speak to, and as whom."""

    home: Home
    url: str | None
    ca: Path | None
    username: str | None
    password_stdin: bool

    def ask(self, work: Callable[[Rest], Awaitable[Result]], *, as_json: bool) -> Result:
        """Do the work as an administrator. What goes wrong ends the command: refusals as JSON when that was asked for."""
        url, ca = place(self.home, self.url, self.ca)
        if self.username is None:
            credentials: Mapping[str, str] = self.home.administrator()
        else:
            secret = password("Password", from_stdin=self.password_stdin)
            credentials = {"username": self.username, "password": secret}

        async def attend(reactor: Any) -> Result:
            rest = Rest(reactor, url, ca, Session(), credentials=credentials)
            try:
                return await work(rest)
            finally:
                with suppress(Refusal, Unreachable):  # it ends by itself then, later
                    await rest.log_out()
                await rest.close()

        try:
            return run(attend)
        except (Refusal, Unreachable) as error:
            if as_json and isinstance(error, Refusal):
                click.echo(json.dumps(error.problem, ensure_ascii=False), err=True)
                raise SystemExit(1) from error
            raise told(error) from error


class MessageId(click.ParamType):
    """The id of a message, bare or in the name of its operation or dead letter."""

    name = "message id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The bare id."""
        kind, _, bare = str(value).rpartition("/")
        try:
            if kind not in ("", "operations", "deadletters"):
                raise ValueError(kind)
            return str(UUID(bare))
        except ValueError:
            self.fail(f"{value!r} is no id of a message", param, ctx)


JSON = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
QUEUE = click.argument("queue")
LIMIT = click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="Most to show, newest first."
)


async def pages(rest: Rest, where: str, field: str, query: Mapping[str, str], limit: int) -> dict[str, Any]:
    """The first `limit` of a list that comes in pages, under `field`, with `total_size`."""
    found: list[Any] = []
    token = ""
    while True:
        asked = {**query, "page_size": str(min(limit - len(found), PAGE))} | ({"page_token": token} if token else {})
        body = (await rest.call(Call("GET", where, query=asked))).body
        found += body.get(field) or []
        token = body.get("next_page_token") or ""
        if not token or len(found) >= limit:
            return {field: found[:limit], "total_size": int(body.get("total_size") or 0)}


async def queue_named(rest: Rest, word: str) -> str:
    """The full name of the queue that is called so, or of the only one that has the word in its name ("orders"). Raises
    `CommandError`."""
    names = [str(each["destination"]) for each in (await rest.call(Call("GET", "/v1/queues"))).body.get("queues") or []]
    if word in names:
        return word
    found = [each for each in names if word in each.split(".")]
    if len(found) != 1:
        raise CommandError(
            f"{word!r} names {len(found) or 'no'} queue{'s' * bool(found)}; there are {', '.join(names)}"
        )
    return found[0]


def tell(body: Any, way: Callable[[Console], None], *, as_json: bool) -> None:
    """Print an answer for a program, or for a person."""
    if as_json:
        click.echo(json.dumps(body, ensure_ascii=False))
    else:
        console = Console(highlight=False)
        # a table is for reading: where nobody looks, nothing is cut to the width of a terminal
        way(console if console.is_terminal else Console(highlight=False, width=max(console.width, 200)))


def now() -> datetime:
    """The time by this machine's clock."""
    return datetime.now(UTC)


@click.group()
@reach_options
@click.option("--username", help="Who asks: an administrator.  [default: the home's first administrator]")
@click.option("--password-stdin", is_flag=True, help="Read the password of --username from standard input.")
@click.pass_context
def mom(context: click.Context, url: str | None, ca: Path | None, username: str | None, password_stdin: bool) -> None:
    """Look at what the MOM keeps: queues, operations, dead letters; and act on it.

    The subcommands take --json for scripts. They end with status 0 when the suite did what was asked, with 1 when it
    refused or did not answer, with 2 when the command line makes no sense.
    """
    home: Home = context.find_object(Home) or Home(Path("var").absolute())
    context.obj = Where(home, url, ca, username, password_stdin)


@mom.command()
@click.argument("queue", required=False)
@JSON
@click.pass_obj
def queues(where: Where, queue: str | None, as_json: bool) -> None:
    """Show what waits for each service, for how long, how fast it comes and goes, and what died.

    QUEUE is the full name of a service, or a word of it: orders.
    """

    async def work(rest: Rest) -> Any:
        if queue is None:
            return (await rest.call(Call("GET", "/v1/queues"))).body
        return (await rest.call(Call("GET", path("/v1/queues/{name}", name=await queue_named(rest, queue))))).body

    body = where.ask(work, as_json=as_json)
    if queue is None:
        tell(body, lambda console: show_queues(console, body.get("queues") or [], now()), as_json=as_json)
    else:
        tell(body, lambda console: show_queue(console, body, now()), as_json=as_json)


def turn(where: Where, queue: str, verb: str, *, as_json: bool) -> None:
    """Pause or resume a queue, and show it."""

    async def work(rest: Rest) -> Any:
        name = await queue_named(rest, queue)
        return (await rest.call(Call("POST", path(f"/v1/queues/{{name}}:{verb}", name=name), {}))).body

    body = where.ask(work, as_json=as_json)
    tell(body, lambda console: show_queue(console, body, now()), as_json=as_json)


@mom.command()
@QUEUE
@JSON
@click.pass_obj
def pause(where: Where, queue: str, as_json: bool) -> None:
    """Stop deliveries to a service, over restarts too, until they are resumed."""
    turn(where, queue, "pause", as_json=as_json)


@mom.command()
@QUEUE
@JSON
@click.pass_obj
def resume(where: Where, queue: str, as_json: bool) -> None:
    """Take deliveries to a service up again."""
    turn(where, queue, "resume", as_json=as_json)


@mom.command()
@click.option("--state", type=click.Choice(STATES), help="Only operations in this state.")
@LIMIT
@JSON
@click.pass_obj
def operations(where: Where, state: str | None, limit: int, as_json: bool) -> None:
    """List the operations of kept messages."""
    query = {"state": f"MESSAGE_STATE_{state.upper()}"} if state else {}
    body = where.ask(lambda rest: pages(rest, "/v1/operations", "operations", query, limit), as_json=as_json)
    shown = body["operations"], body["total_size"]
    tell(body, lambda console: show_operations(console, *shown, now()), as_json=as_json)


@mom.group()
def dead() -> None:
    """List, show, retry and discard dead letters."""


@dead.command(name="list")
@click.option("--queue", help="Only those of this queue.")
@LIMIT
@JSON
@click.pass_obj
def list_letters(where: Where, queue: str | None, limit: int, as_json: bool) -> None:
    """List dead letters."""

    async def work(rest: Rest) -> dict[str, Any]:
        query = {"destination": await queue_named(rest, queue)} if queue else {}
        return await pages(rest, "/v1/deadletters", "dead_letters", query, limit)

    body = where.ask(work, as_json=as_json)
    shown = body["dead_letters"], body["total_size"]
    tell(body, lambda console: show_letters(console, *shown, now()), as_json=as_json)


@dead.command()
@click.argument("message_id", type=MessageId())
@JSON
@click.pass_obj
def show(where: Where, message_id: str, as_json: bool) -> None:
    """Show a dead letter, with its request."""

    async def work(rest: Rest) -> Any:
        return (await rest.call(Call("GET", f"/v1/deadletters/{message_id}"))).body

    body = where.ask(work, as_json=as_json)
    tell(body, lambda console: show_letter(console, body, now()), as_json=as_json)


@dead.command()
@click.argument("message_ids", type=MessageId(), nargs=-1, metavar="[MESSAGE_ID]...")
@click.option("--all", "everything", is_flag=True, help="All dead letters that are not too old.")
@click.option("--queue", help="With --all: only those of this queue.")
@JSON
@click.pass_obj
def retry(where: Where, message_ids: tuple[str, ...], everything: bool, queue: str | None, as_json: bool) -> None:
    """Put dead letters back into their lanes, in front of what was kept after them."""
    if everything == bool(message_ids) or (queue and not everything):
        raise click.UsageError("name message ids, or say --all, perhaps with --queue")

    if not everything:
        calls = {each: Call("POST", f"/v1/deadletters/{each}:retry", {}) for each in message_ids}
        outcome = where.ask(lambda rest: several.one_by_one(rest, calls), as_json=as_json)
        answer = {"retried": len(outcome.done), "operations": list(outcome.done.values())}
        several.tell(outcome, "put back", answer, as_json=as_json)
        return

    async def work(rest: Rest) -> Any:
        query = {"destination": await queue_named(rest, queue)} if queue else {}
        return (await rest.call(Call("POST", "/v1/deadletters:retry", query))).body

    retried = int(where.ask(work, as_json=as_json).get("retried") or 0)
    tell({"retried": retried}, lambda console: console.print(f"put back: {retried:,}"), as_json=as_json)


@dead.command()
@click.argument("message_ids", type=MessageId(), nargs=-1, required=True, metavar="MESSAGE_ID...")
@click.option("--yes", is_flag=True, help="Do not ask whether that is meant.")
@JSON
@click.pass_obj
def discard(where: Where, message_ids: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Forget dead letters for good. What they held up goes on without them."""
    if not yes:
        click.confirm(f"Forget {len(message_ids):,} dead letters, their requests and all?", abort=True, err=True)

    calls = {each: Call("DELETE", f"/v1/deadletters/{each}") for each in message_ids}
    outcome = where.ask(lambda rest: several.one_by_one(rest, calls), as_json=as_json)
    several.tell(outcome, "discarded", {"discarded": len(outcome.done)}, as_json=as_json)
