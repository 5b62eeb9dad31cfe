"""The command line of `gcsctl images`."""

import argparse

from gcs.errors import InvalidArgumentError
from gcs.host.image_records import check_name

__all__ = ["add_images"]


def add_images(images: argparse.ArgumentParser) -> None:
    """Add what can be done with images; the result has it in `action`."""
    actions = images.add_subparsers(metavar="ACTION", dest="action", required=True)
    _add_ls(actions.add_parser("ls", help="list images"))
    _add_import(actions.add_parser("import", help="convert an image's layers, and keep them"))
    check = actions.add_parser("check", help="compare all that is there with its digests")
    check.add_argument("--verbose", action="store_true", help="tell of every file")
    rm = actions.add_parser("rm", help="remove images; their layers go with prune")
    rm.add_argument("images", metavar="IMAGE", nargs="+", type=_name)
    actions.add_parser("prune", help="remove layers that no image has and no VM uses")


def _add_ls(ls: argparse.ArgumentParser) -> None:
    form = ls.add_mutually_exclusive_group()
    form.add_argument("-q", "--quiet", action="store_true", help="names only")
    form.add_argument("--json", action="store_true", help="a JSON object on each line")


def _add_import(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--name", type=_name, help="what to call it (default: its own name, or the file's)"
    )
    action.add_argument(
        "--choose", metavar="NAME", help="which one, if there are several in the path"
    )
    action.add_argument("--verbose", action="store_true", help="tell of every layer")
    action.add_argument(
        "path", metavar="PATH", help="an OCI layout or a docker archive: a folder or a tar"
    )


def _name(text: str) -> str:
    try:
        return check_name(text)
    except InvalidArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
