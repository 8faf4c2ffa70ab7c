"""Work that is cut off in the middle, in the process itself: for what needs no kill to be shown."""

from recunlearn.engine import durable


class CutOffError(Exception):
    """Stands for the end of the process."""


def is_cut_off(work, steps, monkeypatch):
    """Do work that ends after ``steps`` durable steps; tells whether it was cut off there, or had fewer."""
    left = iter(range(steps))

    def reach(step):
        if next(left, None) is None:
            raise CutOffError(step)

    with monkeypatch.context() as patched:
        patched.setattr(durable, "reached", reach)
        try:
            work()
        except CutOffError:
            return True
    return False
