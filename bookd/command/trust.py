"""Which certificates the REST client believes, and what it says when it does not."""

from pathlib import Path

from OpenSSL.SSL import Error as TLSError
from twisted.internet import ssl
from twisted.python.failure import Failure
from twisted.web.client import BrowserLikePolicyForHTTPS

from bookd.command.home import CommandError


def trust(ca: Path | None) -> BrowserLikePolicyForHTTPS:
    """Trusts the authorities in the file, or those of the machine when there is none."""
    if ca is None:
        return BrowserLikePolicyForHTTPS()
    try:
        certificate = ssl.Certificate.loadPEM(ca.read_bytes())
    except OSError as error:
        raise CommandError(f"{ca}: {error.strerror}; name the suite's authority with --ca") from error
    except Exception as error:  # pyOpenSSL raises several kinds
        raise CommandError(f"{ca} holds no certificate") from error
    return BrowserLikePolicyForHTTPS(trustRoot=ssl.trustRootFromCertificates([certificate]))


def tls_reason(error: Exception) -> str:
    """What TLS had against it, if that was what broke the connection."""
    reasons = [failure.value for failure in getattr(error, "reasons", []) if isinstance(failure, Failure)]
    if any(isinstance(reason, TLSError) for reason in [error, *reasons]):
        if "certificate verify failed" in str([getattr(reason, "args", ()) for reason in [error, *reasons]]):
            return ": its certificate is not of the authority that is trusted here; name the right one with --ca"
        return ": it does not speak TLS as it should"
    return f": {reasons[0]}" if reasons else ""
