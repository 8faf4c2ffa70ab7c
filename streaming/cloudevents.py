"""CloudEvents 1.0 over Kafka, structured (JSON) or binary (``ce_`` headers).

Not the CloudEvents SDK: it makes up an id or a version that is missing, and takes data that is not JSON for
text. A deletion without an id would be carried out again at each delivery. (The tests write with the SDK.)

The id of a request is ``SOURCE#ID``: only both together name an event. The user is ``data.user_id``, or the
event's ``subject`` if the data has none.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from .document import Document, Format, FormatOptions
from .events import TYPES
from .source import Record
from .strict_json import UnreadableEvent, decode, decode_object

MEDIA_TYPE = "application/cloudevents"
_PREFIX = "ce_"


class _Attributes(msgspec.Struct):
    specversion: str
    id: str
    source: str
    type: str
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None


def is_cloudevent(record: Record) -> bool:
    """Tell by its headers whether a record is a CloudEvent."""
    return f"{_PREFIX}specversion" in record.headers or _content_type(record).startswith(MEDIA_TYPE)


def cloudevent_documents(record: Record, options: FormatOptions) -> Sequence[Document]:
    """Read one CloudEvent: its attributes, with what it carries under ``data``."""
    content_type = _content_type(record)
    if content_type.startswith(MEDIA_TYPE) or f"{_PREFIX}specversion" not in record.headers:
        return [_structured(record, content_type)]
    return [_binary(record)]


def _structured(record: Record, content_type: str) -> Document:
    if content_type.startswith(MEDIA_TYPE) and content_type != f"{MEDIA_TYPE}+json":
        raise UnreadableEvent("not the JSON format of CloudEvents")
    event = decode_object(record.value)
    attributes = _attributes(event)
    if "data_base64" not in event:
        return _document(event, attributes, event.get("data"))
    if "data" in event or not isinstance(event["data_base64"], str):
        raise UnreadableEvent("a CloudEvent has data once, and in base64 as text")
    try:
        data = base64.b64decode(event["data_base64"], validate=True)
    except (binascii.Error, ValueError):
        raise UnreadableEvent("data_base64 is not base64") from None
    return _document(event, attributes, _json_data(data, attributes.datacontenttype))


def _binary(record: Record) -> Document:
    try:
        event: dict[str, Any] = {
            name[len(_PREFIX) :]: value.decode()
            for name, value in record.headers.items()
            if name.startswith(_PREFIX)
        }
    except UnicodeDecodeError:
        raise UnreadableEvent("a header is not UTF-8") from None
    attributes = _attributes(event)
    return _document(event, attributes, _json_data(record.value, _content_type(record) or None))


def _attributes(event: Mapping[str, Any]) -> _Attributes:
    try:
        attributes = msgspec.convert(event, _Attributes)
    except msgspec.ValidationError:
        raise UnreadableEvent("an attribute of the CloudEvent is missing or not text") from None
    if attributes.specversion != "1.0":
        raise UnreadableEvent("not CloudEvents 1.0")
    if not (attributes.id and attributes.source and attributes.type):
        raise UnreadableEvent("an attribute of the CloudEvent is empty")
    return attributes


def _document(event: Mapping[str, Any], attributes: _Attributes, data: Any) -> Document:
    return {**event, "data": data, "request_id": f"{attributes.source}#{attributes.id}"}


def _json_data(data: bytes | None, content_type: str | None) -> Any:
    if not data:
        return None
    media_type = _media_type(content_type or "application/json")
    if not (media_type.endswith(("/json", "+json"))):
        raise UnreadableEvent("the data of the CloudEvent is not JSON")
    return decode(data)


def _content_type(record: Record) -> str:
    """Return the media type that the headers give, lower case, without parameters; empty if they do not."""
    value = next((v for name, v in record.headers.items() if name.lower() == "content-type"), b"")
    return _media_type(value.decode("latin-1"))


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


CLOUDEVENTS = Format(
    cloudevent_documents,
    fields={
        "id": (("request_id",),),
        "type": (("type",),),
        "user_id": (("data", "user_id"), ("subject",)),
        "item_id": (("data", "item_id"),),
        "time": (("time",),),
    },
    types={name: name for name in TYPES},
)
