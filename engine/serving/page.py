"""The operator's page at ``/``, and the routes that only it needs.

The page itself is one file without data: it asks the routes, with the token that is typed in if one is set.
"""

import base64
import hashlib
import re
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
from fastapi import Body, FastAPI, Response

from ..overview import overview
from ..receipts import DOES_NOT_PROVE, PROVES, make_bundle, state_public_key, verify_bundle
from ..signing import ReceiptError
from ..state import StatePaths
from .answers import json_answer
from .schema import refusals

_FILE = Path(__file__).with_name("page.html")


def add_page(app: FastAPI, paths: StatePaths) -> None:
    """Add the page and its routes."""
    content = _FILE.read_bytes()
    headers = {
        "content-security-policy": _policy(content.decode()),
        "cache-control": "no-cache",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(content, media_type="text/html; charset=utf-8", headers=headers)

    @app.get("/v1/overview", responses=refusals())
    def lately() -> Response:
        """Sum up requests by state with ages, latencies, certificates over versions, the last receipts."""
        return json_answer(overview(paths))

    @app.get("/v1/receipts/{index}", responses=refusals(404, 422))
    def receipt(index: int) -> Response:
        """One receipt with all that a third party needs to check it."""
        try:
            return Response(make_bundle(paths, index), 200, {"cache-control": "no-store"}, "application/json")
        except ReceiptError as error:
            return json_answer({"detail": str(error)}, 404)

    @app.post("/v1/receipts:verify", responses=refusals(408, 413, 422))
    def verify(bundle: Annotated[dict[str, Any], Body(examples=[{"leaf": "..."}])]) -> Response:
        """Check a receipt, as ``GET /v1/receipts/{index}`` gives it, against this state's public key."""
        return json_answer(_verdict(paths, bundle))


def _verdict(paths: StatePaths, bundle: dict[str, Any]) -> dict[str, Any]:
    try:
        said = verify_bundle(msgspec.json.encode(bundle), state_public_key(paths))
    except ReceiptError as error:
        return {"ok": False, "reason": str(error)}
    return {"ok": True, "statement": said, "proves": PROVES, "does_not_prove": DOES_NOT_PROVE}


def _policy(page: str) -> str:
    """Allow the page its own script and style, by their digests, and to ask this server; nothing else."""
    digest = partial(_digest_of, page)
    return (
        f"default-src 'none'; script-src {digest('script')}; style-src {digest('style')}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _digest_of(page: str, tag: str) -> str:
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
