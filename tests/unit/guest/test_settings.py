"""What ModifySettings can't do is refused in the host's own words."""

from pathlib import Path

import pytest
import trio

from gcs.errors import GcsError
from gcs.guest.agent import Agent
from gcs.guest.handlers import settings
from gcs.guest.reaper import Children
from gcs.guest.runc import Runc
from gcs.guest.transport import UnixTransport
from gcs.wire.messages import ModifySettings
from gcs.wire.resource import ModificationRequest, ScsiDevice
from gcs.wire.schema import NULL_CONTAINER_ID


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (ModificationRequest(), "Add"),
        (ModificationRequest(request_type="Update"), "Update"),
        (ModificationRequest(request_type="Swap"), "Swap"),
    ],
)
async def test_a_change_that_is_not_possible_is_named(
    nursery: trio.Nursery, change: ModificationRequest, name: str
) -> None:
    """One that names no type of request is an Add."""
    children = Children()
    agent = Agent(UnixTransport(Path("/nowhere")), children, Runc(children), nursery)
    wanted = ModificationRequest(
        resource_type="SCSIDevice", settings=ScsiDevice(), request_type=change.request_type
    )
    request = ModifySettings(container_id=NULL_CONTAINER_ID, request=wanted)
    with pytest.raises(GcsError, match=f"^SCSIDevice: '{name}' is not possible$"):
        await settings.modify(agent, request)
