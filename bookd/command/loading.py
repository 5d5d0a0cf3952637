"""`bookd import`: loads a catalogue of books from a CSV file through the public REST API.

The whole file is checked before the first book is sent, so a file that is no catalogue changes nothing. Every book's id
follows from what it is (see `bookd.command.catalogue`), so a second run finds all books there already and creates none,
and a run that was broken off is finished by the next. Many requests are in flight at a time; a suite that is busy or away
is asked again under the same Idempotency-Key, and a book that was accepted for later is followed until it is there.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import click
from attrs import Factory, define
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from twisted.internet.defer import Deferred, DeferredList, FirstError, ensureDeferred

from bookd.command.answer import Call, Refusal, Unreachable
from bookd.command.catalogue import REPEATED_ISBN, Defaults, Refused, Repeated, Row, read
from bookd.command.home import CommandError, Home
from bookd.command.reach import password, place, plainly, reach_options, run, told, violations
from bookd.command.rest import Rest
from bookd.command.session import Session
from bookd.contract.isbn import How

# ISBNs that stand in the book as they stood in the file, or that were not there.
UNTOUCHED = (How.ABSENT.value, How.AS_WRITTEN.value)
# Those that were there and are not any more; the book is loaded without.
LOST = (How.BEYOND_REPAIR.value, REPEATED_ISBN)
# Refused rows that a person gets to see; the report has all.
SHOWN = 20
Line = Row | Refused | Repeated


@define
class Report:
    """What became of a file. Lines count from 1, the one with the names of the columns."""

    rows: int = 0
    created: int = 0
    there: int = 0  # found in the suite already
    kept: list[dict[str, Any]] = Factory(list)  # {line, operation}: accepted, but not done when patience ended
    repaired: list[dict[str, Any]] = Factory(list)  # {line, isbn, how}
    without_isbn: list[dict[str, Any]] = Factory(list)  # {line, why}: loaded without the ISBN that the file has
    repeated: list[dict[str, Any]] = Factory(list)  # {line, earlier}: the same book once more
    refused: list[dict[str, Any]] = Factory(list)  # {line, reason}
    retried: int = 0
    seconds: float = 0.0

    def read(self, row: Row) -> None:
        """Note what reading the row did to its ISBN."""
        if row.repair in LOST:
            self.without_isbn.append({"line": row.number, "why": row.repair})
        elif row.repair not in UNTOUCHED:
            self.repaired.append({"line": row.number, "isbn": row.isbn, "how": row.repair})

    def body(self) -> dict[str, Any]:
        """The report as JSON, each list in the order of the file."""
        lists = ("kept", "repaired", "without_isbn", "repeated", "refused")
        return {
            "rows": self.rows,
            "created": self.created,
            "there": self.there,
            **{name: sorted(getattr(self, name), key=lambda each: int(each["line"])) for name in lists},
            "retried": self.retried,
            "seconds": round(self.seconds, 3),
        }

    def summary(self) -> str:
        """The report for a person."""
        lines = [
            f"{self.rows:,} rows in {self.seconds:.1f} s: {self.created:,} books created, {self.there:,} there already"
        ]
        for how, count in Counter(each["how"] for each in self.repaired).most_common():
            lines.append(f"{count:,} ISBNs repaired {how}")
        for why, count in Counter(each["why"] for each in self.without_isbn).most_common():
            lines.append(f"{count:,} books loaded without their ISBN, which is {why}")
        lines += self._listed(self.repeated, "rows repeat an earlier book", "line {line} is line {earlier} again")
        lines += self._listed(self.kept, "books accepted, to be created later", "line {line}: {operation}")
        lines += self._listed(self.refused, "rows refused", "line {line}: {reason}")
        if self.retried:
            lines.append(f"{self.retried:,} requests were tried again")
        return "\n".join(lines)

    def _listed(self, which: list[dict[str, Any]], title: str, each: str) -> list[str]:
        if not which:
            return []
        shown = [f"  {each.format(**one)}" for one in sorted(which, key=lambda one: int(one["line"]))[:SHOWN]]
        more = [f"  and {len(which) - SHOWN:,} more; --report FILE has them all"] if len(which) > SHOWN else []
        return [f"{len(which):,} {title}", *shown, *more]


class Loading:
    """Sends the books of a file, `in_flight` at a time, and keeps the report."""

    def __init__(self, rest: Rest, lines: Iterator[Line], in_flight: int, patience: float, report: Report) -> None:
        self.report = report
        self._rest = rest
        self._lines = lines
        self._in_flight = in_flight
        self._patience = patience

    async def everything(self, advance: Callable[[], None] = lambda: None) -> None:
        """Load all books. Raises `CommandError` when the suite stays away, or lets this user add no books."""
        workers = [ensureDeferred(self._work(advance)) for _ in range(self._in_flight)]
        everyone: Deferred[Any] = DeferredList(workers, fireOnOneErrback=True, consumeErrors=True)
        try:
            await everyone
        except FirstError as error:
            for worker in workers:
                worker.cancel()
            error.subFailure.raiseException()

    async def _work(self, advance: Callable[[], None]) -> None:
        for line in self._lines:
            self.report.rows += 1
            if isinstance(line, Row):
                self.report.read(line)
                await self._send(line)
            elif isinstance(line, Repeated):
                self.report.repeated.append({"line": line.number, "earlier": line.earlier})
            else:
                self.report.refused.append({"line": line.number, "reason": line.reason})
            advance()

    async def _send(self, row: Row) -> None:
        try:
            answer = await self._rest.call(Call("POST", "/v1/books", row.body(), {"book_id": row.book_id}))
            if answer.operation is not None and not await self._followed(row, answer.operation):
                return
        except Refusal as refusal:
            self._refused(row, refusal)
        else:
            self.report.created += 1

    async def _followed(self, row: Row, operation: str) -> bool:
        try:
            await self._rest.follow(operation, self._patience)
        except Unreachable:
            self.report.kept.append({"line": row.number, "operation": operation})
            return False
        return True

    def _refused(self, row: Row, refusal: Refusal) -> None:
        if refusal.code == "ALREADY_EXISTS":
            self.report.there += 1
        elif refusal.status in (401, 403, 429, 502, 503, 504):
            raise refusal
        else:
            fields = "; ".join(f"{field}: {description}" for field, description in violations(refusal))
            self.report.refused.append({"line": row.number, "reason": fields or plainly(refusal)})


def amount(context: click.Context, parameter: click.Parameter, text: str | None) -> Decimal | None:
    """The value of --price. Refuses what is no amount of money."""
    if text is None:
        return None
    try:
        found = Decimal(text)
    except InvalidOperation:
        raise click.BadParameter(f"{text!r} is no amount like 15.99") from None
    if not found.is_finite() or not 0 <= found <= 10**12 or found != round(found, 9):
        raise click.BadParameter(f"{text} is no amount of money")
    return found


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--stock", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Copies, unless a row says."
)
@click.option("--price", callback=amount, metavar="AMOUNT", help="Price of a copy, unless a row says.")
@click.option("--currency", default="USD", show_default=True, help="Its currency (ISO 4217), unless a row says.")
@click.option("--encoding", default="utf-8-sig", show_default=True, help="How the file's text is encoded.")
@click.option("--in-flight", type=click.IntRange(1, 512), default=32, show_default=True, help="Requests at a time.")
@click.option(
    "--patience",
    type=click.FloatRange(0),
    default=120.0,
    show_default=True,
    help="Seconds for which a suite that is busy or away is asked again.",
)
@click.option("--username", help="Who imports; staff or admin.  [default: the home's first administrator]")
@click.option("--password-stdin", is_flag=True, help="Read the password of --username from standard input.")
@reach_options
@click.option(
    "--report", "report_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the report there, as JSON."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_obj
def import_file(
    home: Home,
    file: Path,
    stock: int,
    price: Decimal | None,
    currency: str,
    encoding: str,
    in_flight: int,
    patience: float,
    username: str | None,
    password_stdin: bool,
    url: str | None,
    ca: Path | None,
    report_file: Path | None,
    as_json: bool,
) -> None:
    """Load books from a CSV file.

    The first row names the columns: title and authors, and if the file has them isbn13, isbn, stock, price and currency.
    Books that the suite has already are left as they are. Ends with status 3 when rows were refused.
    """
    defaults = Defaults(stock, price, currency)
    rows = count(file, defaults, encoding)
    address, authority = place(home, url, ca)
    if username is None:
        credentials = home.administrator()
    else:
        credentials = {"username": username, "password": password("Password", from_stdin=password_stdin)}
    report = Report()

    async def work(reactor: Any) -> None:
        rest = Rest(
            reactor,
            address,
            authority,
            Session(),
            patience=patience,
            connections=in_flight,
            credentials=credentials,
        )
        with bar() as progress:
            task = progress.add_task("books", total=rows)
            loading = Loading(rest, read(file, defaults, encoding), in_flight, patience, report)
            try:
                await loading.everything(lambda: progress.advance(task))
            finally:
                report.retried = rest.retried
                await rest.close()

    started = time.monotonic()
    try:
        run(work)
    except (Refusal, Unreachable) as error:
        raise CommandError(f"{told(error).message}\n{so_far(report)}") from error
    except click.Abort:
        raise CommandError(f"broken off\n{so_far(report)}") from None
    finally:
        report.seconds = time.monotonic() - started
    if report_file is not None:
        write(report_file, report)
    click.echo(json.dumps(report.body(), ensure_ascii=False) if as_json else report.summary())
    if report.refused:
        raise SystemExit(3)


def count(file: Path, defaults: Defaults, encoding: str) -> int:
    """How many rows the file has, after a look at all of them. Raises `CommandError` when it is no catalogue."""
    if file.exists() and not file.is_file():
        raise CommandError(f"{file} is no file")
    try:
        return sum(1 for _ in read(file, defaults, encoding))
    except MemoryError as error:
        raise CommandError(f"{file} has a row that does not fit into the memory") from error


def bar() -> Progress:
    """A progress bar on standard error, silent where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def so_far(report: Report) -> str:
    """What a run that was broken off has done."""
    return f"{report.created:,} books were created and {report.there:,} found there before; run the same command again to go on"


def write(path: Path, report: Report) -> None:
    """Write the report. Raises `CommandError` when that cannot be done."""
    try:
        path.write_text(json.dumps(report.body(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from error
