"""Whether the certificates and keys of a home can be used at all: looked at before anything is started."""

from bookd import pki
from bookd.bridge import pem
from bookd.command.home import DAEMONS, CommandError, Home
from bookd.config import Identity


def require_usable(home: Home) -> None:
    """Raise `CommandError` that tells, a line each, what is wrong with the files that the daemons are configured to use."""
    settings = home.load()
    found: list[Identity] = []
    for name in DAEMONS:
        table = getattr(settings, name)
        if table is not None:
            identities = (getattr(table, "grpc", table).identity, getattr(table, "https", None))
            found += [each for each in identities if each is not None]
    faults: list[str] = []
    for identity in found:
        certificate, key, ca = (home.path / each for each in (identity.certificate, identity.private_key, identity.ca))
        try:
            pem.read(ca, pki.certificates)
            pem.read_pair(certificate, key)
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise CommandError("\n".join(dict.fromkeys(faults)))
