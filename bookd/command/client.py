"""`bookd client`: the bookstore at the terminal, as a menu for people and as subcommands for scripts.

Both are made of the same table (`bookd.command.entries`). A request that was accepted for later (202) is shown as just
that: its operation is named, and can be followed until it is done.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from attrs import frozen
from rich.console import Console

from bookd.command.answer import Answer, Refusal, Unreachable
from bookd.command.catalogue import Defaults, money
from bookd.command.entries import ENTRIES, ME, Entry, Field, Kind, Values, items
from bookd.command.home import CommandError, Home
from bookd.command.menu import Menu
from bookd.command.reach import password, place, reach_options, run, told
from bookd.command.rest import Rest
from bookd.command.session import Session, file_for
from bookd.command.showing import show


@frozen
class Where:
    """The suite that the subcommands speak to."""

    home: Home
    url: str | None
    ca: Path | None

    def clients(self) -> Callable[[Any], Rest]:
        """What makes a client of it under a reactor, with the session that was kept. Raises `CommandError` when it is
        not known where the suite is."""
        url, ca = place(self.home, self.url, self.ca)
        return lambda reactor: Rest(reactor, url, ca, Session(file_for(self.home, url)))


async def perform(rest: Rest, entry: Entry, values: Values, key: str | None = None) -> Answer:
    """Do what the entry says. Raises `Refusal`, `Unreachable`, and `CommandError` when nobody is logged in."""
    values = with_me(rest, entry, values)
    if entry.name == "log-in":
        answer = await rest.log_in(values["username"], values["password"])
        body = {name: answer.body[name] for name in ("user_id", "expires_in")}
        return Answer(answer.status, answer.headers, body)
    if entry.name == "log-out":
        return await rest.log_out()
    return await rest.call(entry.call(values), key=key)


def with_me(rest: Rest, entry: Entry, values: Values) -> dict[str, Any]:
    """The values, with the id of whoever is logged in where nobody else was named."""
    found = dict(values)
    for field in entry.fields:
        if field.kind is Kind.USER and found.get(field.name) in (None, "", ME):
            if rest.session.tokens is None:
                raise CommandError("nobody is logged in; log in with: bookd client log-in")
            found[field.name] = rest.session.tokens.user_id
    return found


def understood(field: Field, given: Any) -> Any:
    """What was given for a field, as its entry takes it. Raises `ValueError` for what makes no sense."""
    if field.kind is Kind.ITEMS:
        return items(given if isinstance(given, str) else " ".join(given))
    if field.kind is Kind.NUMBER and isinstance(given, str):
        try:
            return int(given)
        except ValueError:
            raise ValueError(f"{given!r} is no whole number") from None
    if field.kind is Kind.AMOUNT:
        money(given, "", Defaults())
    return given


class Subcommand(click.Command):
    """An entry as a subcommand."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        params: list[click.Parameter] = [parameter(field) for field in entry.fields if field.kind is not Kind.PASSWORD]
        if len(params) < len(entry.fields):
            about = "Read the password from standard input.  [default: the variable BOOKD_PASSWORD, or typed unseen]"
            params.append(click.Option(["--password-stdin"], is_flag=True, help=about))
        if entry.writes:
            params.append(click.Option(["--key"], help="Idempotency-Key: the same key never takes effect twice."))
            params.append(
                click.Option(["--follow"], is_flag=True, help="If accepted for later, wait until it is done.")
            )
        params.append(click.Option(["--json", "as_json"], is_flag=True, help="Print the answer as JSON."))
        # so that adjust-stock takes -3 for a number
        settings = {"ignore_unknown_options": any(f.kind is Kind.NUMBER and f.argument for f in entry.fields)}
        super().__init__(entry.name, settings, callback=self.do, params=params, help=entry.about)

    def do(
        self,
        *,
        as_json: bool,
        key: str | None = None,
        follow: bool = False,
        password_stdin: bool = False,
        **given: Any,
    ) -> None:
        """Make the call and show its answer; an error is shown with its fields, as JSON when that was asked for."""
        where: Where = click.get_current_context().obj
        values = self.values(given)
        clients = where.clients()
        for field in self.entry.fields:
            if field.kind is Kind.PASSWORD:
                values[field.name] = password("Password", confirm=field.confirm, from_stdin=password_stdin)

        async def work(reactor: Any) -> Answer:
            rest = clients(reactor)
            try:
                answer = await perform(rest, self.entry, values, key)
                operation = answer.operation or values.get("operation")
                if not follow or operation is None:
                    return answer
                click.echo(f"{operation}: waiting until it is done", err=True)
                return Answer(200, answer.headers, await rest.follow(operation))
            finally:
                await rest.close()

        try:
            answer = run(work)
        except (Refusal, Unreachable) as error:
            if as_json and isinstance(error, Refusal):
                click.echo(json.dumps(error.problem, ensure_ascii=False), err=True)
                raise SystemExit(1) from error
            raise told(error) from error
        if as_json:
            click.echo(json.dumps({} if answer.body is None else answer.body, ensure_ascii=False))
            return
        if answer.operation is not None:
            click.echo("accepted, and kept until it can be done; bookd client get-operation shows what became of it")
        show(Console(highlight=False), answer.body)

    def values(self, given: Values) -> dict[str, Any]:
        """What was given on the command line, understood."""
        found: dict[str, Any] = {}
        for field in self.entry.fields:
            if given.get(field.name) is not None:
                try:
                    found[field.name] = understood(field, given[field.name])
                except ValueError as error:
                    raise click.BadParameter(str(error), param_hint=field.name) from error
        return found


def parameter(field: Field) -> click.Parameter:
    """The field as click takes it."""
    kind = click.INT if field.kind is Kind.NUMBER else click.STRING
    if field.argument:
        return click.Argument(
            [field.name], type=kind, required=field.required, nargs=-1 if field.kind is Kind.ITEMS else 1
        )
    option = f"--{field.name.replace('_', '-')}"
    return click.Option(
        [option, field.name], type=kind, required=field.required, help=f"{field.about[0].upper()}{field.about[1:]}."
    )


class InOrder(click.Group):
    """Lists its subcommands in the order of the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in order."""
        return list(self.commands)


@click.group(cls=InOrder, invoke_without_command=True)
@reach_options
@click.pass_context
def client(context: click.Context, url: str | None, ca: Path | None) -> None:
    """Use a suite: a menu without a subcommand, one thing at a time with.

    The subcommands take --json for scripts. They end with status 0 when the suite did what was asked or accepted it for
    later, with 1 when it refused or did not answer.
    """
    home: Home = context.find_object(Home) or Home(Path("var").absolute())
    where = context.obj = Where(home, url, ca)
    if context.invoked_subcommand is None:
        clients = where.clients()
        try:
            run(lambda reactor: Menu(reactor, clients(reactor), perform, understood).stay())
        except click.Abort:
            click.echo("")


def subcommands(entries: Sequence[Entry] = ENTRIES) -> list[Subcommand]:
    """The entries as subcommands."""
    return [Subcommand(entry) for entry in entries]


for _subcommand in subcommands():
    client.add_command(_subcommand)
