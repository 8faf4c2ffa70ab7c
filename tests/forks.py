"""Children of the scripts that kill: forked, and waited for."""

import os


def forked(function):
    """Run ``function`` in a fork; returns its process id."""
    child = os.fork()
    if child:
        return child
    try:
        function()
        os._exit(0)
    except BaseException as error:  # noqa: BLE001  the parent asks for the exit status
        os.write(2, f"{error!r}\n".encode())
        os._exit(1)


def ended(child):
    """Wait for a child; returns whether it was killed."""
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0, status
    return os.WIFSIGNALED(status)
