"""The two tables of the agent answer everything that the wire knows."""

from typing import get_args

import pytest

from gcs.guest import dispatch
from gcs.guest.handlers import settings
from gcs.wire.extensions import EXTENSIONS
from gcs.wire.messages import BRIDGE, NegotiateProtocol
from gcs.wire.resource import (
    RESOURCES,
    ContainerConstraints,
    PodCgroupMemoryLimit,
    RequestType,
    ResourceSettings,
    VpciDevice,
)
from gcs.wire.schema import Reply, Row


def test_every_request_has_its_handler() -> None:
    """All of the bridge, but the one that changes the connection; and nothing else."""
    known = {row.request for row in (*BRIDGE.rows, *EXTENSIONS.rows)}
    assert set(dispatch.HANDLERS) == known - {NegotiateProtocol}


@pytest.mark.parametrize(
    "row", [*BRIDGE.rows, *EXTENSIONS.rows], ids=lambda row: row.request.__name__
)
def test_the_reply_of_a_row_is_the_request_s_parameter(row: Row) -> None:
    """What the type checker takes for the reply is what is decoded."""
    bases: object = vars(row.request)["__orig_bases__"]
    assert isinstance(bases, tuple)
    (base,) = bases
    assert get_args(base) == (row.reply,)
    assert issubclass(row.reply, Reply)


def test_no_two_requests_share_a_number() -> None:
    """The catalogue is a table both ways."""
    assert len(BRIDGE.by_number) == len(BRIDGE.by_request) == len(BRIDGE.rows)


def test_every_resource_can_be_changed() -> None:
    """What was added can be removed, but what is waited for; nothing unknown has a handler."""
    handled = (*settings.HANDLERS, *settings.CONTAINER_HANDLERS)
    assert {kind for kind, _ in handled} == set(RESOURCES.values())
    others: dict[type[ResourceSettings], RequestType] = {
        ContainerConstraints: RequestType.UPDATE,
        PodCgroupMemoryLimit: RequestType.UPDATE,
        VpciDevice: RequestType.ADD,
    }
    for resource in RESOURCES.values():
        assert (resource, others.get(resource, RequestType.REMOVE)) in handled
    assert {change for _, change in handled} <= set(RequestType)
