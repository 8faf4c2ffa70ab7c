"""Wire formats to requests: the registry, and the reader that the configuration describes.

A new format is one file that makes a :class:`~.document.Format`, and one row in :data:`FORMATS`.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

import msgspec

from ..engine.requests import Request
from .cloudevents import CLOUDEVENTS, is_cloudevent
from .debezium import DEBEZIUM, TOMBSTONES
from .document import IGNORED, ROOTS, Document, Format, FormatOptions, Path, look_up, unix_time
from .events import FIELDS, TYPES, request_of
from .opendsr import OPENDSR
from .source import Record
from .strict_json import UnreadableEvent, decode_object

SIMPLE_JSON = Format(
    lambda record, options: [decode_object(record.value)],
    fields={field: ((field,),) for field in FIELDS},
    types={name: name for name in TYPES},
)

FORMATS: Mapping[str, Format] = {
    "json": SIMPLE_JSON,
    "cloudevents": CLOUDEVENTS,
    "opendsr": OPENDSR,
    "debezium": DEBEZIUM,
    "tombstone": TOMBSTONES,
}
"""Name of a wire format -> what it is."""

AUTO = "auto"
"""Not a format: CloudEvents where a record's headers say so, else simple JSON."""

Read: TypeAlias = Callable[[Record], Sequence[Request]]
"""Record -> what it asks for: nothing, if it is no deletion. Raises UnreadableEvent."""

_UNITS = {"unix_s": 1, "unix_ms": 1000}


class FormatError(ValueError):
    """The configuration of the wire format is wrong; the message names the setting and what it may be."""


class Reader:
    """Reads records as the configuration says: a function from a record to requests.

    Parameters
    ----------
    options : checked here, so that a wrong setting is found before the first record.

    Raises
    ------
    FormatError
        A setting is unknown or wrong.

    Examples
    --------
    >>> read = Reader(FormatOptions("json", mapping={"user_id": "account.id"}, type="account.deleted"))
    >>> read(Record("users-0", 0, b'{"id": "e-1", "account": {"id": 42}}'))
    [AccountDeletion(request_id='e-1', user_id='42', requested_at=None)]
    """

    def __init__(self, options: FormatOptions | None = None) -> None:
        self._options = options = options or FormatOptions()
        if options.name != AUTO and options.name not in FORMATS:
            raise FormatError(f"there is no format {options.name!r}; there are {AUTO}, {', '.join(FORMATS)}")
        adapted = bool(options.mapping or options.types or options.type)
        if options.name == AUTO and adapted:
            raise FormatError("mapping, types and type adapt one format: name it ([format] name = ...)")
        _check_types(options)
        mapping = {field: (_path(field, path),) for field, path in options.mapping.items()}
        chosen = {AUTO: ("json", "cloudevents")}.get(options.name, (options.name,))
        self._formats = {
            name: Format(
                FORMATS[name].documents,
                {**FORMATS[name].fields, **mapping},
                {**FORMATS[name].types, **options.types},
            )
            for name in chosen
        }
        self._getters = {
            name: {field: _getter(paths) for field, paths in format_.fields.items()}
            for name, format_ in self._formats.items()
        }
        self._unit = _UNITS.get(options.time)
        self._is_plain = options.name in (AUTO, "json") and not adapted and self._unit is None

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> "Reader":
        """Make a reader of the table ``[format]`` as TOML gives it.

        Raises
        ------
        FormatError
            As for the class.
        """
        try:
            options = msgspec.convert(dict(table), FormatOptions)
        except msgspec.ValidationError as error:
            raise FormatError(f"[format] is wrong: {error}") from None
        return cls(options)

    def __call__(self, record: Record) -> Sequence[Request]:
        """Return what a record asks for; nothing, if it is no deletion.

        Raises
        ------
        UnreadableEvent
            It is not a record of the format; the reason comes from a fixed list.
        """
        if self._is_plain and not record.headers:
            return [request_of(_without_nulls(decode_object(record.value)))]
        name = self._options.name
        if name == AUTO:
            name = "cloudevents" if record.headers and is_cloudevent(record) else "json"
        format_ = self._formats[name]
        requests = [
            self._request(name, document, record) for document in format_.documents(record, self._options)
        ]
        return [request for request in requests if request is not None]

    def _request(self, name: str, document: Document, record: Record) -> Request | None:
        getters = self._getters[name]
        kind = self._kind(self._formats[name], getters["type"](document, record))
        if kind == IGNORED:
            return None
        fields: dict[str, Any] = {}
        for field, get in getters.items():
            value = kind if field == "type" else get(document, record)
            if value is not None:
                fields[field] = value
        if self._unit is not None and "time" in fields and not isinstance(fields["time"], datetime):
            fields["time"] = unix_time(fields["time"], self._unit)
        return request_of(fields)

    def _kind(self, format_: Format, kind: Any) -> str | None:
        if kind is None:
            return self._options.type
        if not isinstance(kind, str) or kind not in format_.types:
            raise UnreadableEvent("unknown type")
        return format_.types[kind]


_Getter: TypeAlias = Callable[[Document, Record], Any]


def _getter(paths: Sequence[Path]) -> _Getter:
    """Make a function that looks a field up; of most it is one name in the document itself."""
    if len(paths) == 1 and len(paths[0]) == 1 and paths[0][0] not in ROOTS:
        (name,) = paths[0]
        return lambda document, record: document.get(name)
    return lambda document, record: _first(paths, document, record)


def _without_nulls(document: Document) -> Document:
    if None in document.values():
        return {field: value for field, value in document.items() if value is not None}
    return document


def _first(paths: Sequence[Path], document: Document, record: Record) -> Any:
    """Return what is at the first of the paths that leads to something."""
    for path in paths:
        value = look_up(path, document, record)
        if value is not None:
            return value
    return None


def _check_types(options: FormatOptions) -> None:
    allowed = (*TYPES, IGNORED)
    wanted = {**options.types, "": options.type or IGNORED}
    for wire, kind in wanted.items():
        if kind not in allowed:
            where = f"[format.types] {wire!r}" if wire else "[format] type"
            raise FormatError(f"{where} is {kind!r}; it may be {', '.join(allowed)}")


def _path(field: str, path: str | list[str]) -> Path:
    if field not in FIELDS:
        raise FormatError(f"[format.mapping] has a field {field!r}; the fields are {', '.join(FIELDS)}")
    names = tuple(path.split(".") if isinstance(path, str) else path)
    if not names or not all(names):
        raise FormatError(f"[format.mapping] {field} = {path!r} is not a path; write names with dots between")
    if names[0].startswith("@") and names[0] not in ROOTS:
        raise FormatError(f"[format.mapping] {field} = {path!r}; after @ there may be {', '.join(ROOTS)}")
    return names
