"""How measured quantities are written for people: shares, times, counts."""

import math


def share(value: float) -> str:
    """Write a share as a percentage with two significant digits, tiny ones as a power of ten.

    Examples
    --------
    >>> share(1.0), share(0.1234), share(0.00034), share(2e-14), share(0.0)
    ('100 %', '12 %', '0.034 %', '2e-12 %', '0 %')
    """
    if not math.isfinite(value):
        return "-"
    percent = 100.0 * value
    if percent == 0:
        return "0 %"
    if abs(percent) < 1e-3:
        return f"{percent:.0e} %".replace("e-0", "e-")
    digits = max(0, 1 - math.floor(math.log10(abs(percent))))
    return f"{percent:.{digits}f} %"


def seconds(value: float) -> str:
    """Write a time with two significant digits in the unit that suits it.

    Examples
    --------
    >>> seconds(0.0042), seconds(0.25), seconds(1.34), seconds(75)
    ('4.2 ms', '250 ms', '1.3 s', '75 s')
    """
    if not math.isfinite(value):
        return "-"
    if value < 0.9995:
        thousandths = 1000.0 * value
        return f"{thousandths:.1f} ms" if thousandths < 9.95 else f"{thousandths:.0f} ms"
    return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"


def count(value: int) -> str:
    """Write a count with thin groups of thousands.

    Examples
    --------
    >>> count(100000)
    '100,000'
    """
    return f"{value:,}"


def power(value: float) -> str:
    """Write a small quantity with two significant digits and its power of ten; zero is zero.

    Examples
    --------
    >>> power(0.00012), power(0.0)
    ('1.2e-04', '0')
    """
    return f"{value:.1e}" if value else "0"
