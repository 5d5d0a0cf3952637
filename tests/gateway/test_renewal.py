"""A certificate of HTTPS that is renewed under connections that are open."""

import os
from datetime import UTC, datetime
from typing import Any

from bookd.pki import issue
from tests.gateway.serving import GatewayTestCase

ASK = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


class RenewalTests(GatewayTestCase):
    """Renewal of the gateway's certificate."""

    async def test_open_connections_stay(self) -> None:
        """A connection that was open before goes on being served after the renewal; a new one is shown the new one."""
        client = await self.raw(ASK)
        await self.until(lambda: client.received.count(b"200 OK") == 1)
        wire: Any = client.transport
        shown = wire.getPeerCertificate().get_serial_number()
        renewed = issue(self.authority, "gateway", [], datetime.now(UTC))
        for name, content in (("key.pem", renewed.key_pem), ("cert.pem", renewed.certificate_pem)):
            (self.folder / f"{name}.new").write_bytes(content)
            os.replace(self.folder / f"{name}.new", self.folder / name)
        await self.pause(1.1)
        fresh = await self.raw(ASK)
        await self.until(lambda: fresh.received.count(b"200 OK") == 1)
        there: Any = fresh.transport
        self.assertNotEqual(there.getPeerCertificate().get_serial_number(), shown)
        wire.write(ASK)
        await self.until(lambda: client.received.count(b"200 OK") == 2)
