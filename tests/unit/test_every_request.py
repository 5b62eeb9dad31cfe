"""The VM test of every request has a scene for each (tests/vm/test_every_request.py)."""

from collections import Counter
from itertools import chain

from gcs.wire.messages import Start
from gcs.wire.resource import (
    ContainerConstraints,
    ModificationRequest,
    RequestType,
    ResourceType,
)
from gcs.wire.schema import NULL_CONTAINER_ID
from tests.support import every_request
from tests.vm.play import changed
from tests.vm.test_every_request import SCENES


def test_each_request_change_and_property_has_its_scene() -> None:
    """A new one needs a scene, and what is no more has none; each is one scene's."""
    played = Counter(chain.from_iterable(SCENES.values()))
    known = every_request.requests() | every_request.changes() | every_request.properties()
    assert set(played) == known
    assert [place for place, count in played.items() if count > 1] == []


def test_what_was_asked_is_noted_by_target_change_and_member() -> None:
    """Members that have their defaults were not asked for."""
    settings = ContainerConstraints(linux={"memory": {}})
    request = changed("c", RequestType.UPDATE, settings)
    assert every_request.asked(request) == {
        *("ModifySettings of a container", "Update ContainerConstraints of a container"),
        *("Request.container_id", "ModifySettings.request", "ContainerConstraints.linux"),
        *(f"ModificationRequest.{name}" for name in ModificationRequest.__struct_fields__),
    }
    assert every_request.asked(Start(container_id=NULL_CONTAINER_ID)) == {
        *("Start", "Request.container_id"),
    }


def test_members_are_those_of_all_records_however_deep() -> None:
    """Of requests, of what is within them, and of resources."""
    assert {
        *("Request.otsc", "SchemaVersion.major", "MappingInfo.device_size_in_bytes"),
        *("IPConfig.prefix_length", "VsockStdioRelaySettings.std_err", "Layer.path"),
    } <= every_request.members()


def test_changes_that_are_not_made_are_all_the_others() -> None:
    """Of the VM and of a container."""
    unmade = list(every_request.unmade_changes())
    both = 2 * len(ResourceType) * len(RequestType)
    assert len(unmade) + len(every_request.changes()) == both
    assert (ResourceType.SCSI_DEVICE, RequestType.UPDATE, True) in unmade
