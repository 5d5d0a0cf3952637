"""Where a request comes from."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bookd.gateway.origin import Proxies, client_key


class ProxiesTests(SynchronousTestCase):
    """X-Forwarded-For, believed and not."""

    def test_nobody_is_trusted(self) -> None:
        """Without proxies the client is the peer, whatever the header says."""
        self.assertEqual(Proxies().client("192.0.2.1", ["10.0.0.1"]), "192.0.2.1")

    def test_other_peer(self) -> None:
        """A peer that is no proxy is not believed."""
        self.assertEqual(Proxies(["10.0.0.0/8"]).client("192.0.2.1", ["10.0.0.1"]), "192.0.2.1")

    def test_chain(self) -> None:
        """The first address from the right that is no proxy is the client, over several header lines too."""
        proxies = Proxies(["10.0.0.0/8", "::1"])
        for values, client in (
            (["192.0.2.1"], "192.0.2.1"),
            (["1.2.3.4, 192.0.2.1"], "192.0.2.1"),
            (["1.2.3.4, 192.0.2.1, 10.0.0.7"], "192.0.2.1"),
            (["1.2.3.4", "192.0.2.1", "10.0.0.7"], "192.0.2.1"),
            (["10.0.0.8,10.0.0.7"], "10.0.0.8"),
            (["2001:db8::7"], "2001:db8::7"),
            ([], "10.0.0.1"),
        ):
            self.assertEqual(proxies.client("10.0.0.1", values), client, values)
        self.assertEqual(proxies.client("::1", ["192.0.2.1"]), "192.0.2.1")

    def test_nonsense(self) -> None:
        """At what is no address the reading ends: the nearest proxy stands for the client."""
        for value in ("", "unknown", "192.0.2.1:80", "x, 10.0.0.9", ","):
            found = Proxies(["10.0.0.0/8"]).client("10.0.0.1", [value])
            self.assertIn(found, ("10.0.0.1", "10.0.0.9"), value)

    @given(st.lists(st.text(max_size=40), max_size=5))
    def test_any_text(self, values: list[str]) -> None:
        """No header value does harm."""
        Proxies(["10.0.0.0/8"]).client("10.0.0.1", values)

    def test_mapped(self) -> None:
        """An IPv4 address that is written as IPv6 is the IPv4 address."""
        self.assertTrue(Proxies(["10.0.0.0/8"]).trusts("::ffff:10.1.2.3"))
        self.assertEqual(client_key("::ffff:192.0.2.1"), "192.0.2.1")

    def test_bad_configuration(self) -> None:
        """What is neither address nor network is refused, with its text."""
        with self.assertRaises(ValueError) as caught:
            Proxies(["proxy.example"])
        self.assertIn("proxy.example", str(caught.exception))


class ClientKeyTests(SynchronousTestCase):
    """Whom a bucket belongs to."""

    def test_keys(self) -> None:
        """An IPv6 client is its network: it has more addresses than we have buckets."""
        self.assertEqual(client_key("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64")
        self.assertEqual(client_key("2001:db8:1:2::9"), client_key("2001:db8:1:2:ffff::"))
        self.assertEqual(client_key("192.0.2.1"), "192.0.2.1")
        self.assertEqual(client_key("/run/socket"), "/run/socket")
