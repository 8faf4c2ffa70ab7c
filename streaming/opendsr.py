"""OpenDSR 2.0 erasure requests: every identity that is a user id of this platform becomes a request.

Identities of other types (e-mail addresses, advertising ids) say nothing to a recommender and are passed
over. A hashed identity cannot be matched with a user id: the request is refused, for it would be carried out
in part. The second and later identities of a request get ids of their own, ``ID/1``, ``ID/2``, ...
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec

from .document import Document, Format, FormatOptions
from .source import Record
from .strict_json import UnreadableEvent, decode_object


class _Identity(msgspec.Struct):
    identity_type: str
    identity_value: str
    identity_format: str


class _SubjectRequest(msgspec.Struct):
    regulation: str
    subject_request_id: UUID
    subject_request_type: str
    submitted_time: Annotated[datetime, msgspec.Meta(tz=True)]
    subject_identities: list[_Identity]


_FIELDS = (*_Identity.__struct_fields__, *_SubjectRequest.__struct_fields__)


def opendsr_documents(record: Record, options: FormatOptions) -> Sequence[Document]:
    """Read one OpenDSR request: a document for each identity of an accepted type."""
    content = decode_object(record.value)
    try:
        request = msgspec.convert(content, _SubjectRequest)
    except msgspec.ValidationError as error:
        raise UnreadableEvent(_what_is_wrong(str(error))) from None
    if request.subject_request_id.version != 4:
        raise UnreadableEvent("field subject_request_id is missing or not what OpenDSR says")
    if request.subject_request_type != "erasure":
        return [{"subject_request_type": request.subject_request_type}]
    accepted = [one for one in request.subject_identities if one.identity_type in options.identity_types]
    if not accepted:
        raise UnreadableEvent("no identity of an accepted type")
    if any(one.identity_format != "raw" for one in accepted):
        raise UnreadableEvent("a hashed identity: only raw ones can be matched")
    return [
        {
            **content,
            "subject_request_id": f"{request.subject_request_id}{f'/{place}' if place else ''}",
            "identity": {"identity_value": identity.identity_value},
        }
        for place, identity in enumerate(accepted)
    ]


def _what_is_wrong(message: str) -> str:
    field = next(
        (name for name in _FIELDS if f".{name}`" in message or f"field `{name}`" in message),
        "subject_identities",
    )
    return f"field {field} is missing or not what OpenDSR says"


OPENDSR = Format(
    opendsr_documents,
    fields={
        "id": (("subject_request_id",),),
        "type": (("subject_request_type",),),
        "user_id": (("identity", "identity_value"),),
        "time": (("submitted_time",),),
    },
    types={"erasure": "account.deleted"},
)
