"""The demo's audience misses nothing, however fast a removal is."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from recunlearn.eval.audience import watching


class Stage(BaseHTTPRequestHandler):
    """Serves the version of the moment, and nobody who is gone."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Answer for a user."""
        gone = any(f"/users/{user}/" in self.path for user in self.server.gone)
        body = json.dumps({"version": self.server.version, "items": []}).encode()
        self.send_response(404 if gone else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
def stage():
    """Serve on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stage)
    server.daemon_threads = True
    server.version, server.gone = 1, set()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_audience_sees_before_and_after(stage):
    """A removal that takes no time at all is seen: both versions, and who is gone."""
    with watching(stage.server_port, ["stays"], ["leaves"], ["ease"]) as watch:
        stage.version = 2
        stage.gone.add("leaves")
    assert watch.versions == [1, 2]
    assert list(watch.gone) == ["leaves"]
    assert not watch.stumbles


def test_a_version_that_goes_back_is_a_stumble(stage):
    """An older version after a newer one is noted, once for each answer."""
    stage.version = 2
    with watching(stage.server_port, ["stays"], [], ["ease"]) as watch:
        stage.version = 1
    assert watch.versions == [2]
    assert "version 1 after 2" in watch.stumbles
