"""`bookd audit`: proves that the books of a suite balance, or says what is wrong, whether the suite runs or not.

It reads the databases and changes nothing. Each is read as it is at one moment, but the moments differ a little, and a
suite that runs is always in motion. So what seems wrong is looked at again: only what is found unchanged in every look
is told. What has changed or gone meanwhile was in motion.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Final

import click
from attrs import frozen
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from bookd.command.accounts import CHECKS, figures
from bookd.command.home import CommandError, Home
from bookd.command.look import Finding, Gravity, Look
from bookd.command.showing import clean
from bookd.storage.engine import open_engine, reading

# How often to look at what seems wrong, and the seconds in between.
LOOKS: Final = 4
PAUSE: Final = 0.7
# Findings that a person is shown of one check.
SHOWN: Final = 20


class CouldNotLook(CommandError):
    """The databases cannot be read, so nothing is known."""

    exit_code = 2


@frozen
class Report:
    """What the audit has found. `looked` names the databases, `skipped` the checks that need another one."""

    looked: tuple[str, ...]
    skipped: tuple[str, ...]
    findings: tuple[Finding, ...]
    in_motion: int
    figures: Mapping[str, Any]

    @property
    def balanced(self) -> bool:
        """Whether nothing is wrong. What is late is not wrong."""
        return not any(each.gravity is Gravity.WRONG for each in self.findings)

    def body(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {
            "balanced": self.balanced,
            "databases": list(self.looked),
            "skipped": list(self.skipped),
            "in_motion": self.in_motion,
            "figures": dict(self.figures),
            "findings": [
                {"check": each.check, "gravity": each.gravity.value, "subject": each.subject, "text": each.text}
                for each in self.findings
            ],
        }


def audit_engines(
    engines: Mapping[str, Engine],
    *,
    late: float,
    sleep: Callable[[float], Any] = time.sleep,
    now: Callable[[], int] = lambda: time.time_ns() // 1000,
) -> Report:
    """Look at databases, by the names of their daemons, until what is wrong is told from what is in motion. What waits
    for longer than `late` seconds is late."""
    findings, there = _look(engines, late, now())
    first = [each for each in findings if each.gravity is Gravity.WRONG]
    wrong = first
    for _ in range(LOOKS - 1):
        if not wrong:
            break
        sleep(PAUSE)
        findings, there = _look(engines, late, now())
        wrong = [each for each in findings if each in wrong]
    late_ones = [each for each in findings if each.gravity is Gravity.LATE]
    skipped = tuple(check.name for check in CHECKS if not set(check.needs) <= engines.keys())
    return Report(tuple(engines), skipped, (*wrong, *late_ones), len(first) - len(wrong), there)


def _look(engines: Mapping[str, Engine], late: float, now: int) -> tuple[list[Finding], dict[str, Any]]:
    with ExitStack() as stack:
        connections = {}
        for name, engine in engines.items():
            connections[name] = stack.enter_context(reading(engine).connect())
            stack.enter_context(connections[name].begin())
        look = Look(connections, now, round(late * 1e6))
        found = [finding for check in CHECKS if set(check.needs) <= engines.keys() for finding in check.find(look)]
        return found, figures(look)


def audit_home(home: Home, late: float) -> Report:
    """The report on the databases that the configuration of `home` names. Raises `CouldNotLook`."""
    try:
        settings = home.load()
    except CommandError as error:
        raise CouldNotLook(error.message) from error
    tables = {name: getattr(settings, name) for name in ("inventory", "orders", "users", "mom")}
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for name, table in tables.items():
            if table is None:
                continue
            database = table.database
            if "://" not in database:
                database = home.path / database
                if not database.is_file():
                    raise CouldNotLook(f"{database} is not there; has the suite ever been started?")
            try:
                engines[name] = open_engine(database)
            except (ValueError, OSError) as error:
                raise CouldNotLook(f"the database of {name} cannot be opened: {error}") from error
            stack.callback(engines[name].dispose)
        if not engines:
            raise CouldNotLook(f"{home.config_file} names no database")
        try:
            return audit_engines(engines, late=late)
        except SQLAlchemyError as error:
            raise CouldNotLook(f"a database cannot be read: {getattr(error, 'orig', None) or error}") from error


def show(console: Console, report: Report) -> None:
    """Tell a person."""
    counts = Counter((each.check, each.gravity) for each in report.findings)
    table = Table("check", "what must be true", "result", box=None, pad_edge=False)
    for check in CHECKS:
        wrong, late = (counts[check.name, gravity] for gravity in (Gravity.WRONG, Gravity.LATE))
        result = "[green]yes[/]"
        if check.name in report.skipped:
            result = "not looked at"
        elif wrong:
            result = f"[bold red]{wrong} wrong[/]"
        elif late:
            result = f"[yellow]{late} late[/]"
        table.add_row(check.name, check.promise, result)
    console.print(table)
    console.print()
    for name, number in report.figures.items():
        told = (
            number if not isinstance(number, Mapping) else ", ".join(f"{each} {how:,}" for each, how in number.items())
        )
        console.print(f"{name}: {told or 'none'}", markup=False, highlight=False)
    for check in CHECKS:
        mine = [each for each in report.findings if each.check == check.name]
        if mine:
            console.print()
        for each in mine[:SHOWN]:
            line = f"{each.gravity.value:<5} {check.name}: {clean(each.subject)} {clean(each.text)}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        if len(mine) > SHOWN:
            console.print(f"      … and {len(mine) - SHOWN} more; --json has all", markup=False, highlight=False)
    console.print()
    console.print("[green]The books balance.[/]" if report.balanced else "[bold red]The books do not balance.[/]")


@click.command()
@click.option(
    "--late",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="What waits for longer is told as late.",
)
@click.option("--strict", is_flag=True, help="End with status 1 for what is late, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@click.pass_context
def audit(context: click.Context, late: float, strict: bool, as_json: bool) -> None:
    """Prove that the books balance: stock, reservations, orders, messages and events.

    Reads the databases of the home, and changes nothing; the suite may run. Ends with status 0 when all is balanced, 1 when
    something is wrong, 2 when it could not look.
    """
    report = audit_home(context.obj, late)
    if as_json:
        click.echo(json.dumps(report.body(), indent=2))
    else:
        show(Console(), report)
    context.exit(int(not report.balanced or (strict and bool(report.findings))))
