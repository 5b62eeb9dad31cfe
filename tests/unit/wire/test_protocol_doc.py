"""PROTOCOL.md and the code say the same, table by table and both ways."""

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

import msgspec
import pytest

import gcs
from gcs.errors import Hresult
from gcs.guest import flags, runc
from gcs.guest.agent import State
from gcs.guest.handlers import settings
from gcs.guest.spec import annotations, kinds
from gcs.wire import control, extensions, messages
from gcs.wire.control import CONTROL
from gcs.wire.extensions import EXTENSIONS
from gcs.wire.frame import Kind, MessageType
from gcs.wire.messages import BRIDGE, ExitType
from gcs.wire.properties import Properties, PropertyType
from gcs.wire.resource import RESOURCES
from gcs.wire.schema import (
    NESTED,
    Catalogue,
    Int32,
    Message,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
)

PACKAGE = Path(gcs.__file__).parent
DOCUMENT = (PACKAGE / "wire/PROTOCOL.md").read_text()

Table = tuple[tuple[str, ...], ...]


@dataclass
class Section:
    """What stands below one heading, up to the next."""

    lines: list[str] = field(default_factory=list)

    def table(self, *header: str) -> Table:
        """Return the rows of the table that has this header, without back-quotes."""
        for table in self.tables():
            if table[0] == header:
                return table[2:]
        return ()

    def tables(self) -> Iterator[Table]:
        rows: list[tuple[str, ...]] = []
        for line in [*self.lines, ""]:
            if line.startswith("|"):
                rows.append(tuple(cell.strip() for cell in line.strip("|").split("|")))
            elif rows:
                yield tuple(rows)
                rows = []


def sections() -> dict[str, Section]:
    """Cut the document at its headings."""
    found = {"": Section()}
    name = ""
    for line in DOCUMENT.splitlines():
        if line.startswith("#"):
            name = line.lstrip("# ")
            assert name not in found, f"two headings {name!r}"
            found[name] = Section()
        else:
            found[name].lines.append(line)
    return found


SECTIONS = sections()


def bare(cell: str) -> str:
    return cell.strip("`")


# -- the code's side ---------------------------------------------------------------------


def records(base: type[Message] = Message) -> Iterator[type[Message]]:
    """Yield every record type of gcs.wire."""
    for record in base.__subclasses__():
        if record.__module__.startswith("gcs.wire"):
            yield record
        yield from records(record)


def own_fields(record: type[Message]) -> list[msgspec.structs.FieldInfo]:
    """Return the fields that a record has beyond those of what it is derived from."""
    base = next(parent for parent in record.__mro__[1:] if hasattr(parent, "__struct_fields__"))
    return [item for item in msgspec.structs.fields(record) if item.name not in names_of(base)]


def names_of(base: type) -> tuple[str, ...]:
    fields = getattr(base, "__struct_fields__", ())
    assert isinstance(fields, tuple)
    return fields


INTEGERS = {"u8": UInt8, "u16": UInt16, "u32": UInt32, "u64": UInt64, "i32": Int32}


def spelled(annotation: object) -> str:
    """Return the document's word for a type."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    for word, integer in INTEGERS.items():
        if annotation == integer:
            return word
    if origin is Annotated:
        assert NESTED in arguments
        return f"document {spelled(arguments[0])}"
    if origin in (Union, UnionType):
        assert arguments[1] is type(None)
        return f"{spelled(arguments[0])}?"
    if origin is tuple:
        return f"[{spelled(arguments[0])}]"
    if origin is dict:
        return "map" if arguments[1] is object else f"{{{spelled(arguments[1])}}}"
    return spelled_plain(annotation)


def spelled_plain(annotation: object) -> str:
    words: dict[object, str] = {str: "string", bool: "bool", object: "any"}
    if annotation in words:
        return words[annotation]
    assert isinstance(annotation, type)
    return "string" if issubclass(annotation, StrEnum) else annotation.__name__


def default(item: msgspec.structs.FieldInfo) -> str:
    """Return the document's spelling of a default."""
    value: object = item.default
    if item.default_factory is not msgspec.NODEFAULT:
        value = item.default_factory()
    if value is msgspec.NODEFAULT:
        return "–"
    return "{}" if isinstance(value, Message) else msgspec.json.encode(value).decode()


# -- members -----------------------------------------------------------------------------


@pytest.mark.parametrize("record", list(dict.fromkeys(records())))
def test_each_record_has_its_table(record: type[Message]) -> None:
    """Members, types and defaults of the document are those of the record."""
    section = SECTIONS.get(record.__name__, Section())
    rows = section.table("Member", "Type", "Default", "Meaning")
    assert [(bare(name), kind, value) for name, kind, value, _ in rows] == [
        (item.encode_name, spelled(item.type), default(item)) for item in own_fields(record)
    ]


def test_each_table_of_members_is_a_record_s() -> None:
    """The document has no members that the code does not have."""
    header = ("Member", "Type", "Default", "Meaning")
    documented = {name for name, section in SECTIONS.items() if section.table(*header)}
    assert documented == {record.__name__ for record in records() if own_fields(record)}


def test_each_name_in_the_text_is_one_of_the_code() -> None:
    """A member that is spoken of exists."""
    known = {item.encode_name for r in records() for item in msgspec.structs.fields(r)}
    spoken = set(re.findall(r"`([A-Z][a-z]+[A-Za-z]*)`", DOCUMENT))
    assert spoken - known == {"ResultInfo", "OciSpecification"} - known


# -- messages ----------------------------------------------------------------------------


def word(catalogue: Catalogue, kind: Kind, number: int) -> str:
    return f"{MessageType(kind, catalogue.category, number).word:#010x}"


@pytest.mark.parametrize(
    ("heading", "catalogue", "numbers"),
    [
        ("Messages", BRIDGE, messages.Rpc),
        ("The service category", CONTROL, control.Verb),
        ("Extensions", EXTENSIONS, extensions.Extension),
    ],
)
def test_the_messages_are_those_of_the_catalogue(
    heading: str, catalogue: Catalogue, numbers: type[IntEnum]
) -> None:
    """Numbers, names and type words agree, and each message has a section of its own."""
    rows = SECTIONS[heading].table("#", "Name", "Request", "Reply")
    assert list(rows) == [
        (
            str(row.number),
            row.request.__name__,
            word(catalogue, Kind.REQUEST, row.number),
            word(catalogue, Kind.REPLY, row.number),
        )
        for row in sorted(catalogue.rows, key=lambda row: row.number)
    ]
    assert {int(row[0]) for row in rows} == {int(number) for number in numbers}
    assert {row[1] for row in rows} <= SECTIONS.keys()


def test_each_type_word_is_one_of_the_code() -> None:
    """Every number that looks like a type word is a message's."""
    words = {
        word(catalogue, kind, row.number)
        for catalogue in (BRIDGE, CONTROL, EXTENSIONS)
        for kind in (Kind.REQUEST, Kind.REPLY)
        for row in catalogue.rows
    }
    notifications = {
        word(catalogue, Kind.NOTIFICATION, number)
        for catalogue in (BRIDGE, CONTROL, EXTENSIONS)
        for number in catalogue.notifications
    }
    assert set(re.findall(r"0x[123][0-9a-f]{7}\b", DOCUMENT)) == words | notifications


def test_the_resources_are_those_of_the_handlers() -> None:
    """Resource types, their records and what can be done with them agree."""
    rows = SECTIONS["ModificationRequest"].table("Resource", "Record", "Requests")
    assert {row[0]: row[1] for row in rows} == {
        str(name): record.__name__ for name, record in RESOURCES.items()
    }
    stated = {(RESOURCES[row[0]], kind) for row in rows for kind in row[2].split(", ")}
    handled = (*settings.HANDLERS, *settings.CONTAINER_HANDLERS)
    assert stated == {(record, str(kind)) for record, kind in handled}


def test_the_properties_are_those_of_the_code() -> None:
    """Each name that can be asked for has its row."""
    rows = SECTIONS["PropertyQuery"].table("Property", "Of", "Member of Properties")
    assert [row[0] for row in rows] == list(PropertyType)
    members = {item.encode_name for item in msgspec.structs.fields(Properties)}
    assert {bare(row[2]) for row in rows} == members


# -- codes, limits, states ---------------------------------------------------------------


def test_the_results_are_those_of_the_code() -> None:
    """Names and values of the HRESULTs agree, in both spellings of the value."""
    rows = SECTIONS["Results"].table("Name", "HRESULT", "Signed", "When")
    assert [(row[0].lower(), row[1], row[2]) for row in rows] == [
        (code.name.replace("_", "").lower(), f"0x{code & 0xFFFFFFFF:08X}", str(int(code)))
        for code in Hresult
    ]


def test_the_limits_are_those_of_the_code() -> None:
    """The number in each row is the value of the constant that it names."""
    rows = SECTIONS["Limits"].table("Limit", "Value", "In the code")
    assert rows
    for limit, value, constant in rows:
        module, _, name = bare(constant).rpartition(".")
        found: object = getattr(importlib.import_module(module), name)
        assert found == float(value.split()[0].replace(",", "")), limit


def test_every_size_limit_of_the_wire_is_stated() -> None:
    """A constant of gcs.wire that limits something is in the table."""
    stated = {bare(row[2]) for row in SECTIONS["Limits"].table("Limit", "Value", "In the code")}
    for source in (PACKAGE / "wire").glob("*.py"):
        for name in re.findall(r"^(_?MAX_\w+)\b", source.read_text(), re.MULTILINE):
            assert f"gcs.wire.{source.stem}.{name}" in stated


def test_states_and_exit_types_are_those_of_the_code() -> None:
    """Every state and exit type has its row."""
    states = SECTIONS["Container states"].table("State", "From", "Possible")
    assert [row[0] for row in states] == list(State)
    exits = SECTIONS["ContainerNotification"].table("Exit type", "When")
    assert [row[0] for row in exits] == list(ExitType)


def test_the_errors_of_the_runtime_are_those_of_the_code() -> None:
    """Texts and codes agree, in the order in which they are tried."""
    rows = SECTIONS["Errors of the runtime"].table("Texts", "HRESULT")
    texts_in = re.compile(r"`` (.+?) ``|`([^`]+)`")  # the longer quotes hold short ones
    stated = [tuple(long or short for long, short in texts_in.findall(row[0])) for row in rows]
    assert list(zip(stated, (row[1].lower() for row in rows), strict=True)) == [
        (texts, error.hresult.name.replace("_", "").lower()) for texts, error in runc._ERRORS
    ]


def test_the_flags_are_those_of_the_agent() -> None:
    """Every flag has its row, with its default."""
    rows = SECTIONS["Flags of the agent"].table("Flag", "Default", "Meaning")
    assert {bare(row[0]): bare(row[1]) for row in rows} == {
        f"-{name}": default for name, default in flags.DEFAULTS.items()
    }


def test_kinds_and_annotations_are_those_of_the_code() -> None:
    """Every kind has its column, every annotation its row."""
    (kinds_table,) = SECTIONS["Kinds of containers"].tables()
    assert kinds_table[0][1:] == tuple(kinds.Kind)
    rows = SECTIONS["Annotations"].table("Annotation", "Kinds", "Effect")
    names = (name for name in vars(annotations) if name.isupper() and not name.startswith("_"))
    assert {bare(row[0]) for row in rows} == {
        getattr(annotations, name) for name in names if name != "PATH"
    }


# -- references --------------------------------------------------------------------------


def references() -> list[tuple[str, str]]:
    """Return (file, section) for each section that a docstring names."""
    return [
        (str(source.relative_to(PACKAGE)), section)
        for source in sorted(PACKAGE.rglob("*.py"))
        for section in re.findall(
            r'PROTOCOL\.md,? "([^"]+)"', " ".join(source.read_text().split())
        )
    ]


@pytest.mark.parametrize(("source", "section"), references())
def test_each_reference_leads_to_a_section(source: str, section: str) -> None:
    """A docstring that names a section of the document names one that is there."""
    assert section in SECTIONS, source


def test_the_document_s_own_references_lead_to_sections() -> None:
    """A section that the document names in brackets is there."""
    text = " ".join(DOCUMENT.split())
    named = re.findall(r'(?:\(|see )"([A-Z][^"]+)"', text)
    assert named
    assert set(named) <= SECTIONS.keys()
