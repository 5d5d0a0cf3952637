"""Who asks: tokens of many customers and of one of the staff, and what the API says to an administrator.

The tokens are those that the users daemon would give, signed with its key: a thousand log-ins take longer than a round.
"""

import http.client
import json
import ssl
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

from benchmarks.stand import BenchError, log_in
from bookd.command.home import Home
from bookd.users import keys, tokens

# The longest that the gateway takes, less what clocks differ by.
LIFETIME = 3500.0
PAGE = 1000


def token(home: Home, *roles: str) -> str:
    """An access token of somebody new."""
    now = time.time_ns() // 1000
    return tokens.access(
        keys.signing(keys.load(home.path / "keys"), now),
        issuer="bookd",
        audience="bookd",
        subject=str(uuid4()),
        roles=roles,
        session_id=str(uuid4()),
        token_id=str(uuid4()),
        now=now,
        lifetime=LIFETIME,
    )


class Office:
    """The API, as an administrator sees it."""

    def __init__(self, home: Home) -> None:
        self._headers = {"Authorization": f"Bearer {log_in(home)}"}
        trust = ssl.create_default_context(cafile=home.ca)
        self._connection = http.client.HTTPSConnection(
            "localhost", urlsplit(home.url()).port, context=trust, timeout=30
        )

    def get(self, path: str, **parameters: object) -> Any:
        """What is answered. Raises `BenchError`."""
        self._connection.request("GET", f"{path}?{urlencode(parameters)}", headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise BenchError(f"{path}: {answer.status} {body[:300]!r}")
        return json.loads(body)

    def all(self, path: str, name: str, **parameters: object) -> Iterator[Any]:
        """Every item of a list, page by page."""
        page_token = ""
        while True:
            page = self.get(path, page_size=PAGE, page_token=page_token, **parameters)
            yield from page.get(name, [])
            page_token = page.get("next_page_token", "")
            if not page_token:
                return

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def a_body(home: Home, path: str) -> bytes:
    """What a read that anybody may make is answered with."""
    trust = ssl.create_default_context(cafile=home.ca)
    connection = http.client.HTTPSConnection("localhost", urlsplit(home.url()).port, context=trust, timeout=30)
    connection.request("GET", path)
    body = connection.getresponse().read()
    connection.close()
    return body
