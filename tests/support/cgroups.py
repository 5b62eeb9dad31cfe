"""A made-up cgroup tree: the files that Linux 6.12 has, with numbers to be recognised."""

from pathlib import Path

__all__ = ["MIB", "make_cgroup"]

MIB = 1024 * 1024

_MEMORY_STAT = """\
anon 1001
file 1002
kernel_stack 1003
sock 1004
file_mapped 1005
file_dirty 1006
file_writeback 1007
anon_thp 1008
inactive_anon 1009
active_anon 1010
inactive_file 1011
active_file 1012
unevictable 1013
pgfault 1014
pgmajfault 1015
workingset_refault_anon 1016
"""
_FILES = {
    "memory.stat": _MEMORY_STAT,
    "memory.current": "2001\n",
    "memory.max": f"{64 * MIB}\n",
    "memory.peak": "2002\n",
    "memory.swap.current": "2003\n",
    "memory.swap.max": "max\n",
    "memory.swap.peak": "2004\n",
    "memory.swap.events": "high 0\nmax 0\nfail 0\n",
    "memory.events": "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n",
    "cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnice_usec 0\n"
    "nr_periods 5\nnr_throttled 4\nthrottled_usec 3\n",
    "pids.current": "9\n",
    "pids.max": "max\n",
    "io.stat": "259:0 rbytes=100 wbytes=200 rios=1 wios=2 dbytes=300 dios=3\n8:16\n",
    "hugetlb.2MB.current": "2097152\n",
    "hugetlb.2MB.max": "4194304\n",
    "hugetlb.2MB.events": "max 6\n",
    "cgroup.procs": "",
}


def make_cgroup(folder: Path, **files: str) -> None:
    """Fill a folder; a keyword `memory_stat` replaces memory.stat, an empty text removes it."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = _FILES | {name.replace("_", ".", 1): text for name, text in files.items()}
    for name, text in texts.items():
        if text or name == "cgroup.procs":
            (folder / name).write_text(text)
