"""Make the images of Python: the interpreter with its library, the packages, the agent.

It will not decide which modules are in them: what the agent imports does (``modules``).
"""

import marshal
import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from initramfs.recipes import archive, cache, debian, modules, tree, venv
from initramfs.recipes.archive import LIB, USR_LIB, FromDebian
from initramfs.recipes.engine import Engine
from initramfs.recipes.steps import Step
from initramfs.recipes.tree import Entry, Tree

#: The guest's interpreter: Debian 12's, whatever this machine has.
PYTHON = "python3.11"
#: Not one that a version manager put first in PATH: Debian's has more modules built in.
RUN = f"/usr/bin/{PYTHON}"
STDLIB = f"usr/lib/{PYTHON}"
#: Where the agent and its packages live.
OURS = "usr/lib/gcs"
#: What the launcher imports.
AGENT = "gcs.guest.main"
#: Run by the guest's interpreter.
BYTECODE, KEEP = "initramfs/recipes/bytecode.py", "initramfs/recipes/keep.py"
#: Without the columns of each instruction: they are for showing a line of the source, which the
#: guest has not. Lines are kept.
WITHOUT_COLUMNS = ("-X", "no_debug_ranges")
#: What KEEP makes, where the agent looks for it.
KEPT = f"{OURS}/kept.bin"
#: The last one without references, which depend on what else is in memory.
MARSHAL_VERSION = 2
LIBRARY = (f"lib{PYTHON}-minimal", f"lib{PYTHON}-stdlib")
INTERPRETER = FromDebian(
    (
        *(f"{PYTHON}-minimal", *LIBRARY),
        *("libexpat1", "zlib1g", "libffi8"),
    ),
    (
        *(f"usr/bin/{PYTHON}", f"{STDLIB}/", f"{LIB}libexpat.so.*", f"{LIB}libz.so.*"),
        f"{USR_LIB}libffi.so.*",
    ),
)
#: What stands in for modules of which nothing is used.
ABSENT = "absent.py"
#: Modules of others that ours stand in for, by their place in the guest. None of these is asked
#: for by the agent; a module that it imports asks for them.
STAND_INS = {
    f"{OURS}/attr/validators.py": "validators.py",
    f"{OURS}/pyroute2/__init__.py": "pyroute2.py",
    f"{OURS}/pyroute2/config/__init__.py": "pyroute2_config.py",
    f"{STDLIB}/ctypes/util.py": "ctypes_util.py",
    f"{STDLIB}/datetime.py": "datetime.py",
    f"{STDLIB}/inspect.py": "inspect.py",
    f"{STDLIB}/linecache.py": "linecache.py",
    f"{STDLIB}/platform.py": "platform.py",
    f"{STDLIB}/textwrap.py": "textwrap.py",
    f"{STDLIB}/uuid.py": "uuid.py",
}
#: Modules of which nothing is used, by folder and name.
UNUSED = (
    # for whom classes are compared, copied, converted and filtered
    *(f"{OURS}/attr/{name}" for name in ("_cmp", "_funcs", "_version_info", "converters")),
    *(f"{OURS}/attrs/{name}" for name in ("converters", "exceptions", "filters", "setters")),
    *(f"{OURS}/{name}" for name in ("attr/filters", "attrs/validators", "idna/__init__")),
    # other formats, and schemas
    *(f"{OURS}/msgspec/{name}" for name in ("_json_schema", "inspect", "msgpack", "toml")),
    f"{OURS}/msgspec/yaml",
    # operations of sorted dictionaries' keys
    f"{OURS}/sortedcontainers/sortedset",
    # channels, files, listeners, TLS and clocks of tests
    *(f"{OURS}/trio/{name}" for name in ("_channel", "_dtls", "_file_io", "_path", "_ssl")),
    *(f"{OURS}/trio/_core/{name}" for name in ("_mock_clock", "_unbounded_queue")),
    *(f"{OURS}/trio/_highlevel_open_{name}" for name in ("tcp_listeners", "tcp_stream")),
    *(f"{OURS}/trio/_highlevel_{name}" for name in ("serve_listeners", "ssl_helpers")),
    f"{OURS}/trio/_highlevel_open_unix_stream",
    # JSON has numbers that these could be; tags of CBOR are refused before they are read
    f"{STDLIB}/decimal",
    # what pathlib has for other systems, and for URIs
    *(f"{STDLIB}/ntpath", f"{STDLIB}/urllib/parse"),
    # socket and subprocess have them for what trio does in their place
    f"{STDLIB}/selectors",
)
STAND_INS |= {f"{place}.py": ABSENT for place in UNUSED}
#: The launcher's own modules.
LAUNCHERS = ("finder.py", "kept.py")
#: Where each module is, for `initramfs/agent/finder.py`.
PLACES = f"{OURS}/places.bin"
PACKAGES_LOCK = "initramfs/lock/guest.txt"
#: Wheels are picked for the guest's interpreter, not for this machine's.
WHEEL_TARGET = (
    *("--python-version", "3.11", "--implementation", "cp"),
    *("--abi", "cp311", "--abi", "abi3", "--abi", "none"),
    *("--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64"),
)


def interpreter(engine: Engine) -> Path:
    """Return the archive of the interpreter, and of what is imported of its library."""
    used = _used(engine)

    def finish(step: Step, scratch: Path, picked: Tree) -> Tree:
        own = picked.keys() & used - STAND_INS.keys()
        kept = {path: picked[path] for path in own}
        rest = {p: e for p, e in picked.items() if not p.startswith(f"{STDLIB}/")}
        return rest | _compiled(engine, step, scratch, kept)

    inputs = {"used": " ".join(sorted(used))} | _how(engine)
    return archive.from_debian(engine, "python", INTERPRETER, finish, inputs)


def packages(engine: Engine) -> Path:
    """Return the archive of what is imported of the packages in the lock file."""
    used = _used(engine)
    downloaded = wheels(engine)

    def contents(step: Step, scratch: Path) -> Tree:
        files = _packages_of(downloaded)
        kept = {path: entry for path, entry in files.items() if path in used}
        return _compiled(engine, step, scratch, kept)

    inputs = {"wheels": downloaded.name, "used": " ".join(sorted(used))} | _how(engine)
    return archive.make(engine, "packages", inputs, contents)


def agent(engine: Engine) -> Path:
    """Return the archive of the agent, its launcher, and what stands in for others' modules."""
    used, downloaded = _used(engine), wheels(engine)
    own = agent_modules(engine.repo) | _launcher_modules(engine.repo)
    own |= {p: e for p, e in _stand_ins(engine.repo).items() if p in used}
    library = debian.Pool(engine).resolve(LIBRARY)
    launcher = (engine.repo / "initramfs/agent/gcs").read_bytes()

    def contents(step: Step, scratch: Path) -> Tree:
        known = _packages_of(downloaded)
        for package in library:
            known |= tree.from_deb(step, debian.Pool(engine).path(package), scratch)
        every = {p: e for p, e in known.items() if p in used} | own
        made = {
            KEPT: _kept(engine, step, scratch, every),
            PLACES: tree.regular(marshal.dumps(places(every), MARSHAL_VERSION)),
            "bin/gcs": tree.regular(launcher, 0o755),
        }
        return _compiled(engine, step, scratch, own) | made

    inputs: dict[str, str | bytes] = {path: entry.data for path, entry in own.items()}
    inputs |= {"launcher": launcher, "used": " ".join(sorted(used)), "wheels": downloaded.name}
    inputs |= {package.name: package.sha256 for package in library}
    return archive.make(engine, "agent", inputs | _how(engine), contents)


def agent_modules(repo: Path) -> Tree:
    """Return the modules of ours that the agent imports, by their place in the guest."""
    package = repo / "gcs"
    ours = {
        f"{OURS}/gcs/{path.relative_to(package)}": tree.regular(path.read_bytes())
        for path in sorted(package.rglob("*.py"))
    }
    known, texts = modules.names_in(OURS, ours), {at: entry.data for at, entry in ours.items()}
    used = modules.closure([AGENT], known, texts, late=True)
    return {known[name]: ours[known[name]] for name in sorted(used)}


def _launcher_modules(repo: Path) -> Tree:
    folder = repo / "initramfs" / "agent"
    return {f"{OURS}/{name}": tree.regular((folder / name).read_bytes()) for name in LAUNCHERS}


def places(files: Iterable[str]) -> dict[str, str]:
    """Return the place in the guest of each module among the files, by name."""
    found = modules.names_in(STDLIB, files) | modules.names_in(OURS, files)
    return {
        name: f"/{path}c" if path.endswith(".py") else f"/{path}"
        for name, path in sorted(found.items())
    }


def agent_imports(repo: Path) -> set[str]:
    """Return what the agent and its launcher import, without what is the agent's own."""
    own = agent_modules(repo)
    found = modules.imported(
        (repo / "initramfs/agent/gcs").read_bytes(), "__main__", is_package=False, late=True
    )
    for name, path in modules.names_in(OURS, own).items():
        is_package = path.endswith("/__init__.py")
        found |= modules.imported(own[path].data, name, is_package=is_package, late=True)
    return {name for name in found if name.partition(".")[0] != "gcs"}


def _used(engine: Engine) -> set[str]:
    """Return the paths of the modules that the agent can import, its own apart.

    The list is a step of its own: the images stay as they are while it does.
    """
    downloaded, imports = wheels(engine), agent_imports(engine.repo)
    stand_ins = _stand_ins(engine.repo)
    library = debian.Pool(engine).resolve(LIBRARY)
    inputs = {path: entry.data for path, entry in stand_ins.items()}
    inputs |= {package.name: package.sha256.encode() for package in library}
    inputs |= {
        "wheels": downloaded.name.encode(),
        "imports": " ".join(sorted(imports)).encode(),
    }
    inputs["modules"] = Path(modules.__file__).read_bytes()

    def build(step: Step, folder: Path) -> None:
        files = _packages_of(downloaded)
        for package in library:
            deb = debian.Pool(engine).path(package)
            files |= tree.from_deb(step, deb, folder)
        files |= stand_ins
        known = modules.names_in(STDLIB, files) | modules.names_in(OURS, files)
        texts = {path: entry.data for path, entry in files.items() if path.endswith(".py")}
        names = modules.closure({*imports, *modules.AT_START}, known, texts)
        (folder / "paths").write_text("\n".join(sorted(known[name] for name in names)))

    made = engine.make("modules", cache.key_of(inputs), build)
    return set((made / "paths").read_text().splitlines())


def wheels(engine: Engine) -> Path:
    """Return the folder of the packages in the lock file, as they were downloaded."""
    return venv.download(engine, "guest-wheels", PACKAGES_LOCK, WHEEL_TARGET)


def _packages_of(folder: Path) -> Tree:
    files: Tree = {}
    for wheel in sorted(folder.glob("*.whl")):
        of = f"pypi/{wheel.name.partition('-')[0]}"
        with zipfile.ZipFile(wheel) as contents:
            files |= {
                f"{OURS}/{name}": replace(tree.regular(contents.read(name)), package=of)
                for name in contents.namelist()
                if name.endswith((".py", ".so")) and f"{OURS}/{name}" not in STAND_INS
            }
    return files


def _stand_ins(repo: Path) -> Tree:
    folder = repo / "initramfs" / "agent"
    return {
        place: tree.regular((folder / name).read_bytes()) for place, name in STAND_INS.items()
    }


def _how(engine: Engine) -> dict[str, str | bytes]:
    files = {name: (engine.repo / name).read_bytes() for name in (BYTECODE, KEEP)}
    return {**files, "options": " ".join(WITHOUT_COLUMNS)}


def _kept(engine: Engine, step: Step, scratch: Path, files: Tree) -> Entry:
    """Return the code of the methods that the agent has compiled as it starts."""
    root, out = scratch / "keep", scratch / "kept.bin"
    _write(root, files)
    # Sets of names have the same order each time.
    words: list[str | Path] = [RUN, "-sSB", *WITHOUT_COLUMNS, engine.repo / KEEP, root, out]
    words += places(files)
    step.run(words, env={"PYTHONHASHSEED": "0"})
    shutil.rmtree(root)
    return tree.regular(out.read_bytes())


def _write(root: Path, files: Tree) -> None:
    for path, entry in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(entry.data)


def _compiled(engine: Engine, step: Step, scratch: Path, files: Tree) -> Tree:
    """Return the same modules as .pyc in place of .py, libraries without their symbols."""
    root = scratch / "compile"
    _write(root, files)
    for path in files:
        if path.endswith(".so"):
            step.run(["strip", "--strip-unneeded", root / path])
    step.run([RUN, "-I", *WITHOUT_COLUMNS, engine.repo / BYTECODE, root])
    compiled: Tree = {}
    for path, entry in files.items():
        made = f"{path}c" if path.endswith(".py") else path
        compiled[made] = replace(
            tree.regular((root / made).read_bytes()), package=entry.package
        )
    shutil.rmtree(root)
    return compiled
