"""Which replies and ends a host may be told, told apart by the ids that it counts."""

from gcs.guest.hosts import Asked, Hosts, LateReply, waited_for
from gcs.wire.codec import Encoding
from gcs.wire.connection import Pending
from gcs.wire.frame import MessageType
from gcs.wire.messages import Create, DumpStacks, WaitForProcess
from gcs.wire.schema import Reply, Request

_FOREVER = 0xFFFFFFFF
#: The type of no message here is looked at.
_PENDING = Pending(MessageType.from_word(0x10100601), Encoding.JSON, "")
#: An id that no host comes to by counting.
_FAR = 100


def wait(pid: int, timeout_in_ms: int = _FOREVER) -> WaitForProcess:
    """Return a wait in container c."""
    return WaitForProcess(container_id="c", process_id=pid, timeout_in_ms=timeout_in_ms)


def late(hosts: Hosts, message_id: int, request: Request[Reply]) -> LateReply:
    """Have a host ask what is answered when it is gone."""
    hosts.learn(message_id, request)
    return LateReply(Asked(hosts.host, message_id), _PENDING, Reply(), waited_for(request))


def ids(replies: list[LateReply]) -> list[int]:
    """Return what the replies answer."""
    return [reply.asked.message_id for reply in replies]


def test_the_same_host_gets_all_its_replies() -> None:
    """Whatever it asked, in the order of the answers."""
    hosts = Hosts()
    hosts.negotiated(0)
    replies = [late(hosts, 1, DumpStacks()), late(hosts, 2, wait(7)), late(hosts, 3, wait(7))]
    for reply in reversed(replies):
        hosts.keep(reply)
    hosts.negotiated(4)
    assert ids(hosts.take_awaited()) == [3, 2, 1]
    assert hosts.take_awaited() == []


def test_another_host_gets_none_before_it_asks() -> None:
    """Its ids are its own, whatever their number."""
    hosts = Hosts()
    hosts.negotiated(0)
    hosts.keep(late(hosts, 1, DumpStacks()))
    hosts.keep(late(hosts, 2, wait(7)))
    hosts.negotiated(0)
    hosts.learn(1, wait(7, 50), expected_id=1)
    hosts.learn(2, DumpStacks(), expected_id=2)
    assert hosts.take_awaited() == []


def test_a_host_that_took_over_gets_the_first_wait_of_what_it_asks_for() -> None:
    """Neither a wait with a limit, nor a second one, nor that for another process."""
    hosts = Hosts()
    hosts.negotiated(0)
    for message_id, request in enumerate((wait(7, 50), wait(7), wait(7), wait(8), wait(9))):
        hosts.keep(late(hosts, message_id + 1, request))
    hosts.negotiated(0)
    hosts.learn(_FAR, wait(7, 50), expected_id=1)
    assert ids(hosts.take_awaited()) == [2]
    hosts.learn(_FAR + 1, wait(9, 50), expected_id=2)
    assert ids(hosts.take_awaited()) == [5]


def test_a_wait_that_was_taken_over_is_owed_to_each_host_in_turn() -> None:
    """It is still the first one when the VM moves again, and when a host comes back."""
    hosts = Hosts()
    hosts.negotiated(0)
    owed = late(hosts, 1, wait(7))
    for n in range(1, 4):
        hosts.negotiated(0)
        hosts.learn(n * _FAR, wait(7, 50), expected_id=1)
    hosts.keep(owed)
    hosts.negotiated(3 * _FAR + 1)
    assert hosts.take_awaited() == [owed]
    hosts.is_sent(owed)
    hosts.negotiated(0)
    assert hosts.take_awaited() == []


def test_ids_that_were_lost_make_no_other_host() -> None:
    """A host whose requests got lost with its connection has taken nothing over."""
    hosts = Hosts()
    hosts.negotiated(0)
    hosts.keep(late(hosts, 1, wait(7)))
    hosts.negotiated(0)
    hosts.negotiated(_FAR)
    hosts.learn(_FAR + 1, wait(7))
    assert hosts.take_awaited() == []


def test_a_host_hears_of_what_it_has_created_or_waited_for() -> None:
    """It keeps its knowledge over its connections, and the next host has none of it."""
    hosts = Hosts()
    hosts.negotiated(0)
    assert not hosts.may_hear_of("c")
    hosts.learn(1, Create(container_id="new"))
    hosts.is_sent(late(hosts, 2, wait(7)))
    hosts.negotiated(3)
    assert hosts.may_hear_of("new")
    assert hosts.may_hear_of("c")
    hosts.negotiated(0)
    assert not hosts.may_hear_of("new")
    assert not hosts.may_hear_of("c")


def test_a_host_that_was_there_before_the_agent_knows_all() -> None:
    """Its containers may be older than the agent."""
    hosts = Hosts()
    hosts.negotiated(_FAR)
    assert hosts.may_hear_of("c")


def test_what_is_kept_is_bounded() -> None:
    """A host that never comes back costs no more than a thousand replies."""
    hosts = Hosts()
    hosts.negotiated(0)
    for message_id in range(1, 3000):
        hosts.keep(late(hosts, message_id, wait(message_id)))
    assert len(hosts.take_awaited()) == 1024
