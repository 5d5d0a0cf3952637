"""The same request for several messages, one after the other: a refusal of one is no reason to leave the others."""

import json
from collections.abc import Mapping
from typing import Any

import click
from attrs import field, frozen

from bookd.command.answer import Call, Refusal, Unreachable
from bookd.command.reach import plainly
from bookd.command.rest import Rest

# What is said to whoever asks, not of what was asked for: the next one would be told the same.
_OF_THE_ASKER = (401, 403)


@frozen
class Outcome:
    """What was answered, by message id, and why others were not done."""

    done: dict[str, Any] = field(factory=dict)
    failed: dict[str, Refusal | Unreachable] = field(factory=dict)


async def one_by_one(rest: Rest, calls: Mapping[str, Call]) -> Outcome:
    """Make all calls. Where going on makes no sense, what is left failed for the same reason; raises that when it is so
    from the first."""
    outcome, left = Outcome(), list(calls)
    for message_id in calls:
        try:
            outcome.done[message_id] = (await rest.call(calls[message_id])).body
        except (Refusal, Unreachable) as error:
            if isinstance(error, Unreachable) or error.status in _OF_THE_ASKER:
                if len(left) == len(calls):
                    raise
                outcome.failed.update(dict.fromkeys(left, error))
                break
            outcome.failed[message_id] = error
        left.remove(message_id)
    return outcome


def tell(outcome: Outcome, what: str, answer: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what became of each, for a program (`answer`, and the problems), or for a person: `what` was done. Ends the
    command with status 1 when one failed."""
    if as_json:
        failed = [{"message_id": key, "problem": _problem(error)} for key, error in outcome.failed.items()]
        click.echo(json.dumps({**answer, **({"failed": failed} if failed else {})}, ensure_ascii=False))
    else:
        if outcome.failed:
            for message_id in outcome.done:
                click.echo(f"{message_id}: {what}")
        for message_id, error in outcome.failed.items():
            click.echo(f"{message_id}: {plainly(error) if isinstance(error, Refusal) else error}", err=True)
        click.echo(f"{what}: {len(outcome.done):,}")
    if outcome.failed:
        raise SystemExit(1)


def _problem(error: Refusal | Unreachable) -> Mapping[str, Any]:
    return error.problem if isinstance(error, Refusal) else {"detail": str(error)}
