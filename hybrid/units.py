"""How figures are printed for people: three digits, a unit, and between them a space that does not break."""


def percent(share: float) -> str:
    """Print a share, with a space that does not break.

    >>> percent(0.9123).replace("\u00a0", " ")
    '91.2 %'
    """
    return f"{100 * share:.1f}\u00a0%"


def signed_points(difference: float) -> str:
    """Print a difference of shares. Example: 0.013 as ``+1.3 points``."""
    return f"{100 * difference:+.1f} points".replace("-", "\u2212")


def signed(number: int) -> str:
    """Print a whole number with a proper minus sign. Example: -14 as ``−14``."""
    return f"{number}".replace("-", "\u2212")


def quantity(value: float, unit: str) -> str:
    """Print three digits and a unit, whole numbers from 100 on. Example: 71.26 ms as ``71.3 ms``."""
    decimals = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:,.{decimals}f}\u00a0{unit}"


def kib(size_bytes: int) -> str:
    """Print bytes in KiB, whole ones from 1000 on. Example: 1536 as ``1.5 KiB``."""
    return f"{size_bytes / 1024:,.{0 if abs(size_bytes) >= 1000 * 1024 else 1}f}\u00a0KiB"


def count(number: float) -> str:
    """Print a large count in three digits. Example: 2710000 as ``2.71 M``."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return quantity(number / limit, suffix)
    return f"{number:,.0f}"
