"""Stand in for trio's DTLS in the guest, which speaks none.

trio names these when it is imported; the real ones take a thirtieth of the agent's imports.
"""


class DTLSChannel:
    """Never made here."""


class DTLSChannelStatistics:
    """Never made here."""


class DTLSEndpoint:
    """Never made here."""
