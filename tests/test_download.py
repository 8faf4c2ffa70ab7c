"""Downloads go on where they broke off: against a real server that breaks off."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from recunlearn.eval.datasets import DatasetError, download

CONTENT = bytes(range(256)) * 4096
PLAIN = ("http",)


class Flaky(BaseHTTPRequestHandler):
    """Serves CONTENT as the path says: whole, broken off, without ranges, or not at all."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Answer, and note what was asked for."""
        kind, asked = self.path.strip("/"), self.headers.get("Range")
        self.server.asked.append(asked)
        if kind == "missing":
            self.send_error(404)
            return
        if kind == "busy" and len(self.server.asked) == 1:
            self.send_error(503)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and kind != "whole-only" else 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        breaks = kind == "breaks" or (kind == "whole-only" and len(self.server.asked) == 1)
        end = min(start + 300_000, len(CONTENT)) if breaks else len(CONTENT)
        self.wfile.write(CONTENT[start:end] if kind != "dead" else b"")
        if end < len(CONTENT) or kind == "dead":
            self.close_connection = True

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture
def server():
    """Start the server on a free port; its ``asked`` are the ranges asked for."""
    running = ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    running.asked = []
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def fetch(server, kind, path):
    """Download from the server."""
    download.download(f"http://127.0.0.1:{server.server_port}/{kind}", path, schemes=PLAIN)
    return path.read_bytes()


def test_a_connection_that_breaks_is_taken_up_where_it_broke(server, tmp_path):
    """Some breaks later the file is whole, each time asked for from near where it broke."""
    assert fetch(server, "breaks", tmp_path / "x") == CONTENT
    starts = [int(asked[6:-1]) for asked in server.asked[1:]]
    assert len(starts) > 2
    assert all(
        200_000 < later - earlier <= 300_000 for earlier, later in zip([0, *starts], starts, strict=False)
    )


def test_an_earlier_attempt_is_gone_on_with(server, tmp_path):
    """What an earlier process left is not fetched again; of a whole file, nothing is."""
    (tmp_path / "x").write_bytes(CONTENT[:1000])
    assert fetch(server, "plain", tmp_path / "x") == CONTENT
    assert fetch(server, "plain", tmp_path / "x") == CONTENT
    assert server.asked == ["bytes=1000-", f"bytes={len(CONTENT)}-"]


def test_a_server_without_ranges_sends_it_all_again(server, tmp_path):
    """An answer that is the whole file replaces what was there."""
    assert fetch(server, "whole-only", tmp_path / "x") == CONTENT
    assert len(server.asked) == 2


def test_what_is_longer_than_the_file_is_fetched_afresh(server, tmp_path):
    """A left-over that cannot be the beginning of the file is thrown away."""
    (tmp_path / "x").write_bytes(CONTENT + b"more")
    assert fetch(server, "plain", tmp_path / "x") == CONTENT


def test_a_busy_server_is_asked_again(server, tmp_path):
    """Status 503 is asked again after a moment."""
    assert fetch(server, "busy", tmp_path / "x") == CONTENT
    assert len(server.asked) == 2


def test_a_file_that_is_not_there_is_an_error(server, tmp_path):
    """Status 404 is final, and says so."""
    with pytest.raises(DatasetError, match="missing answers 404"):
        fetch(server, "missing", tmp_path / "x")


def test_a_server_that_gives_nothing_is_given_up(server, tmp_path, monkeypatch):
    """Answers without a byte, again and again, end in an error; so does a server that is not there."""
    with pytest.raises(OSError, match="dead cannot be fetched"):
        fetch(server, "dead", tmp_path / "x")
    assert len(server.asked) == 5
    with pytest.raises(OSError, match="cannot be fetched"):
        download.download("http://127.0.0.1:9/x", tmp_path / "y", schemes=PLAIN)
