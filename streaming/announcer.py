"""The thread that sends what is new: beside the worker, so that a broker that is gone stops no erasure."""

import logging
import threading
from collections.abc import Callable
from contextlib import closing

from ..engine.fence import FenceKey
from ..engine.ledger import Ledger
from ..engine.state import StatePaths
from .outbox import Outbox, Sink

_LOOK_SECONDS = 0.5
_BACKOFF_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
_CLOSE_SECONDS = 60.0
_log = logging.getLogger(__name__)


class Announcer:
    """Sends new versions and receipts until it is closed, again and again while the sink does not take them.

    Parameters
    ----------
    open_sink : makes the sink, on the announcer's thread; called again after an error.
    location : as for :class:`~.outbox.Outbox`.

    Attributes
    ----------
    sent : messages that were sent.
    error : why the last attempt failed; None when all is sent.
    """

    def __init__(self, paths: StatePaths, open_sink: Callable[[], Sink], location: str | None = None) -> None:
        self.sent = 0
        self.error: Exception | None = None
        self._paths, self._open_sink, self._location = paths, open_sink, location
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        self._thread.start()

    def close(self) -> bool:
        """Send what is left, within a minute; tells whether all is sent. The rest waits for the next run."""
        self._stop.set()
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            self.error = self.error or TimeoutError(f"no answer within {_CLOSE_SECONDS:.0f} s")
        return self.error is None

    def _run(self) -> None:
        failures = 0
        while True:
            is_last = self._stop.is_set()
            try:
                self._send_until_told()
            except Exception as error:  # noqa: BLE001  whatever it is, it must not end the worker
                self.error = error
                _log.error("announcements wait: %s: %s", type(error).__name__, error)
            else:
                return
            if is_last:
                return
            self._stop.wait(_BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)])
            failures += 1

    def _send_until_told(self) -> None:
        """Send what there is, and what comes; after being told to stop, once more."""
        with (
            Ledger(self._paths.ledger, FenceKey.load(self._paths)) as ledger,
            closing(self._open_sink()) as sink,
        ):
            outbox = Outbox(self._paths, ledger, sink, self._location)
            is_last = False
            while not is_last:
                is_last = self._stop.is_set()
                self.sent += outbox.send_new()
                self.error = None
                if not is_last:
                    self._stop.wait(_LOOK_SECONDS)
