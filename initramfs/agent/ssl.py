"""Stand in for the standard library's ssl in the guest, which speaks no TLS.

trio names a few of its exceptions when it is imported, and nothing of it afterwards. The real
one would bring OpenSSL into every VM: 5 MB resident, 1.8 MB in the initrd.
"""


class SSLError(OSError):
    """Never raised here."""


class SSLWantReadError(SSLError):
    """Never raised here."""


class SSLSyscallError(SSLError):
    """Never raised here."""


class SSLEOFError(SSLError):
    """Never raised here."""


class CertificateError(SSLError):
    """Never raised here."""


def __getattr__(name: str) -> object:
    """Refuse every other name of the real module, saying why it is not here."""
    raise AttributeError(f"ssl.{name}: the guest image has no TLS")
