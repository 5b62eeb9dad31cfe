"""Where the time of a boot goes: firmware, kernel, unpacking, init, interpreter, imports, dial.

The agent is started with a few lines around it that note when each import begins and when it
dials, on the guest's boot clock; the kernel's own log has what was before. The moment in which
the connection is seen on the host ties that clock to the host's. If asked for, they also note
when each module's code is executed, which is with its import or, for many, when it is used.

Source: the audit events "import" and "socket.connect" of Python; dmesg(1).
"""

import ast
import re
import time
from collections import defaultdict
from dataclasses import dataclass, replace

from gcs.host.bridge import accept_bridge, open_bridge
from gcs.host.images import open_image
from gcs.host.qemu import VmConfig
from gcs.host.vm import open_vm
from gcs.host.vsock import BRIDGE_PORT, Ports
from tests.bench import guest
from tests.bench.guest import IMAGE, Guest

__all__ = ["PHASES", "Import", "Profile", "profile"]

#: In the order in which they follow each other; unpacking goes on beside the kernel's start.
PHASES = ("QEMU", "firmware", "kernel", "unpack", "init", "interpreter", "imports", "dial")
_EVENTS, _MODULES = "/run/bench-events", "/run/bench-modules"
#: One line, for it stands on the kernel's command line: no double quotes, no line ends. 577 is
#: O_WRONLY | O_CREAT | O_TRUNC, clock 7 the one since boot. The three modules are built in.
_AROUND = (
    "import posix as p,sys,time;t=lambda:time.clock_gettime(7);e=[('',t())];r=[];"
    "w=lambda n,v:p.write(p.open(n,577),repr(v).encode());"
    f"d=lambda:e and (e.append(('dial',t())),w('{_EVENTS}',e),w('{_MODULES}',r),e.clear());"
    "sys.addaudithook(lambda n,a:e.append((a[0],t())) if n=='import' and e else "
    "d() if n=='socket.connect' else 0);"
)
#: More of it, to time modules: it takes the place of the finder's function that executes one.
_TIMED = (
    "sys.path[:]=['/usr/lib/gcs','/usr/lib/python3.11'];import finder as f;g=f._execute;k=[];"
    "f._execute=lambda m:(k.append(0),q:=t(),g(m),k.pop(),r.append((m.__name__,len(k),q,t())));"
)
_START = "exec(compile(p.read(p.open('/bin/gcs',0),99999),'/bin/gcs','exec'))"
_INTERPRETER = ("/usr/bin/python3.11", "-ISB")
_FLAGS = ("-v4", "-log-format", "json", "-loglevel", "error")
_MARK = "bench-mark"
#: What the kernel says on the way, with the names given here.
_KERNEL = {
    "unpacking": re.compile(r"Trying to unpack rootfs image|Unpacking initramfs"),
    "unpacked": re.compile(r"Freeing initrd memory"),
    "init": re.compile(r"Run \S+ as init process"),
    "mark": re.compile(_MARK),
}


@dataclass(frozen=True, slots=True)
class Import:
    """One module's execution, in the order in which they ended."""

    name: str
    depth: int
    #: seconds from the start of the phase
    start: float
    #: seconds of the module itself, and with all that it executes
    own: float
    whole: float


@dataclass(frozen=True, slots=True)
class Profile:
    """One boot."""

    #: seconds of each phase
    phases: dict[str, float]
    #: empty unless they were asked for, since that costs time
    imports: tuple[Import, ...]
    seconds: float


def _config(form: str, *, with_imports: bool) -> VmConfig:
    around = f"{_AROUND}{_TIMED if with_imports else ''}{_START}"
    command = (*_INTERPRETER, "-c", f'"{around}"', *_FLAGS)
    return replace(guest.config(form), init_args=command, kernel_args=("printk.time=1",))


async def profile(form: str, with_imports: bool) -> Profile:
    """Boot once in a form and return where the time went."""
    image = await open_image(IMAGE)
    with guest.folder() as place:
        began = time.perf_counter()
        opening = open_vm(
            _config(form, with_imports=with_imports), place, vsock_program=guest.vsock_program()
        )
        async with opening as vm:
            with await vm.vsock.listen(BRIDGE_PORT) as listener:
                started = time.perf_counter() - began
                await vm.start()
                stream = await accept_bridge(listener)
                seconds = time.perf_counter() - began
            async with open_bridge(stream) as client:
                one = Guest(vm, client, Ports(), image)
                return await _read(one, started, seconds)


async def _read(one: Guest, started: float, seconds: float) -> Profile:
    events = _events(await one.output("cat", _EVENTS))
    began = float(await one.output("sh", "-c", "cut -d' ' -f22 /proc/$PPID/stat")) / 100
    script = f"echo {_MARK} >/dev/kmsg; cut -d' ' -f1 /proc/uptime; dmesg"
    uptime, _, messages = (await one.output("sh", "-c", script)).partition("\n")
    kernel = _kernel_times(messages)
    # printk's clock starts a little later than the one since boot.
    offset = float(uptime) - kernel["mark"]
    init = kernel["init"] + offset
    # A root image is not unpacked.
    unpack = kernel["unpacked"] - kernel["unpacking"] if "unpacked" in kernel else 0.0
    first, dial = events[0][1], events[-1][1]
    imported = _last_import(events)
    modules = _modules(await one.output("cat", _MODULES), first)
    phases = {
        "QEMU": started,
        "firmware": seconds - dial - started,
        "kernel": init - unpack,
        "unpack": unpack,
        "init": began - init,
        "interpreter": first - began,
        "imports": imported - first,
        "dial": dial - imported,
    }
    return Profile(phases, modules, seconds)


def _events(text: str) -> list[tuple[str, float]]:
    found: object = ast.literal_eval(text)
    assert isinstance(found, list)
    assert len(found) > 2, found
    return found


def _last_import(events: list[tuple[str, float]]) -> float:
    """Return when the last import began before the dial that belongs to the start."""
    return events[-2][1]


def _kernel_times(messages: str) -> dict[str, float]:
    found = {}
    for line in messages.splitlines():
        stamp = re.match(r"\[ *(\d+\.\d+)\] (.*)", line)
        for name, text in _KERNEL.items():
            if stamp and text.search(stamp[2]):
                found[name] = float(stamp[1])
    missing = {"init", "mark"} - found.keys()
    assert not missing, f"the kernel's log has no {missing}:\n{messages}"
    return found


def _modules(text: str, first: float) -> tuple[Import, ...]:
    """Return what was executed; one that ended comes behind those that it has executed."""
    found: object = ast.literal_eval(text)
    assert isinstance(found, list)
    modules = list[Import]()
    inner = defaultdict[int, float](float)
    for name, depth, began, ended in found:
        whole = ended - began
        modules.append(
            Import(name, depth, began - first, whole - inner.pop(depth + 1, 0), whole)
        )
        inner[depth] += whole
    return tuple(modules)
