"""The command line of `gcsctl mounts` and `gcsctl stats`."""

import argparse

__all__ = ["add_mounts", "add_stats"]

_CONTAINER = "a name, or how its id begins"


def add_mounts(mounts: argparse.ArgumentParser) -> None:
    """Add what mounts can be told."""
    mounts.add_argument("--json", action="store_true", help="a JSON object on each line")
    mounts.add_argument("container", metavar="CONTAINER", help=_CONTAINER)


def add_stats(stats: argparse.ArgumentParser) -> None:
    """Add what stats can be told."""
    stats.add_argument("--json", action="store_true", help="one JSON object, with the total")
    stats.add_argument(
        "containers", metavar="CONTAINER", nargs="*", help=f"{_CONTAINER} (default: all)"
    )
