"""The menu of `bookd client`: choose a number, answer some questions, see what the suite says."""

import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click
from rich.console import Console
from rich.text import Text
from twisted.internet.defer import ensureDeferred

from bookd.command.answer import Answer, Refusal, Unreachable
from bookd.command.entries import ENTRIES, PAGES, Entry, Field, Kind, Values
from bookd.command.home import CommandError
from bookd.command.reach import plainly
from bookd.command.rest import Rest
from bookd.command.showing import clean, show

Perform = Callable[[Rest, Entry, Values], Awaitable[Answer]]
LEAVE = ("0", "q", "quit", "exit")


@contextmanager
def asking() -> Iterator[None]:
    """Let Ctrl-C break off a question, which the reactor would not notice: it waits for the answer too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Menu:
    """Asks and shows until the person leaves. Ctrl-C leaves what is going on, Ctrl-D the menu."""

    def __init__(self, reactor: Any, rest: Rest, perform: Perform, understood: Callable[[Field, Any], Any]) -> None:
        self._reactor = reactor
        self._rest = rest
        self._perform = perform
        self._understood = understood
        self._console = Console(highlight=False)

    async def stay(self) -> None:
        """Stay until the person leaves."""
        try:
            self._list()
            while (entry := self._choose()) is not None:
                await self._attend(entry)
        finally:
            await self._rest.close()

    def _list(self) -> None:
        tokens = self._rest.session.tokens
        who = f"logged in as user {tokens.user_id}" if tokens else "nobody is logged in"
        self._console.print(Text(f"{self._rest.url}: {clean(who)}", style="bold"))
        use = None
        for number, entry in enumerate(ENTRIES, 1):
            if entry.use is not use:
                use = entry.use
                self._console.print(Text(use.value, style="dim"))
            self._console.print(Text(f"{number:>4}  {title(entry)}"))
        self._console.print(Text("   0  Leave"))

    def _choose(self) -> Entry | None:
        names = {entry.name: entry for entry in ENTRIES}
        numbers = {str(number): entry for number, entry in enumerate(ENTRIES, 1)}
        while True:
            try:
                with asking():
                    said = str(
                        click.prompt("\nWhat shall it be (Enter lists all)", default="", show_default=False)
                    ).strip()
            except click.Abort:
                click.echo("")
                return None
            if said.lower() in LEAVE:
                return None
            found = numbers.get(said) or names.get(said)
            if found is not None:
                return found
            if said:
                click.echo(f"there is no {clean(said)!r}; it takes a number from 0 to {len(ENTRIES)}")
            else:
                self._list()

    async def _attend(self, entry: Entry) -> None:
        """Ask, do, show; whatever goes wrong is told, and the menu goes on."""
        try:
            with asking():
                values = self._values(entry)
            answer = await self._interruptible(self._perform(self._rest, entry, values))
            show(self._console, answer.body)
            while (following := self._next_page(answer)) is not None:
                answer = await self._interruptible(
                    self._perform(self._rest, entry, {**values, "page_token": following})
                )
                show(self._console, answer.body)
            if answer.operation is not None:
                await self._follow(answer.operation)
        except Refusal as refusal:
            click.echo(clean(plainly(refusal)), err=True)
        except (Unreachable, CommandError) as error:
            click.echo(clean(error.message if isinstance(error, CommandError) else error), err=True)
        except click.Abort:
            click.echo("\nleft")

    def _next_page(self, answer: Answer) -> str | None:
        """The token of the next page, if there is one and the person wants it."""
        token = answer.body.get("next_page_token") if isinstance(answer.body, dict) else None
        if not token:
            return None
        with asking():
            return str(token) if click.confirm("Next page", default=True) else None

    async def _follow(self, operation: str) -> None:
        click.echo("It was accepted, and is kept until it can be done.")
        with asking():
            wanted = click.confirm("Wait for it (Ctrl-C stops waiting)", default=True)
        if wanted:
            show(self._console, await self._interruptible(self._rest.follow(operation)))

    def _values(self, entry: Entry) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for field in entry.fields:
            # pages are turned one by one here
            given = self._ask(field) if field not in PAGES else None
            if given is not None:
                found[field.name] = given
        return found

    def _ask(self, field: Field) -> Any:
        """The answer to one question; None when there is none and none is needed."""
        text = f"{field.name.replace('_', ' ').capitalize()} ({field.about})"
        while True:
            if field.kind is Kind.PASSWORD:
                return click.prompt("Password", hide_input=True, confirmation_prompt=field.confirm)
            given = str(click.prompt(text, default="", show_default=False)).strip()
            if not given and not field.required:
                return None
            try:
                if given:
                    return self._understood(field, given)
            except ValueError as error:
                click.echo(clean(error))

    async def _interruptible(self, work: Awaitable[Any]) -> Any:
        """Wait for `work`; Ctrl-C gives it up and raises `click.Abort`."""

        async def attend() -> Any:
            return await work

        going_on = ensureDeferred(attend())
        asked = False

        def give_up(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            asked = True
            self._reactor.callFromThread(going_on.cancel)

        before = signal.signal(signal.SIGINT, give_up)
        try:
            return await going_on
        except Exception:
            if asked:
                raise click.Abort from None
            raise
        finally:
            signal.signal(signal.SIGINT, before)


def title(entry: Entry) -> str:
    """What the menu says of an entry."""
    return entry.about.partition(";")[0].rstrip(".")
