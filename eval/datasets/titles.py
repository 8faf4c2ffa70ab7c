"""Titles of films, written as people write them."""

import re
from typing import Final


def clean_title(title: str) -> str:
    """Write a title as people do: the article in front, blanks tidied, no mark for "video" at the end.

    Examples
    --------
    >>> clean_title("Horseman on the Roof, The (Hussard sur le toit, Le) (1995)")
    'The Horseman on the Roof (Le Hussard sur le toit) (1995)'
    >>> clean_title("Enfer, L' (1994)")
    "L'Enfer (1994)"
    """
    tidy = " ".join(title.split()).removesuffix(" (V)")
    moved = re.sub(rf"([^()]+?), ({_ARTICLES})(?= \(|\)|$)", r"\2 \1", tidy)
    return moved.replace("L' ", "L'")


_ARTICLES: Final = "The|An|A|Il|La|Le|Les|L'|Das|Der|Die|Det|O"


def dated_title(title: str, year: str) -> str:
    """Join title and year as the official file has them.

    Examples
    --------
    >>> dated_title("Toy Story", "1995"), dated_title("Sequel III (1995)", "V")
    ('Toy Story (1995)', 'Sequel III (1995)')
    """
    if re.fullmatch(r"\d{4}", year):
        return clean_title(f"{title} ({year})")
    return "unknown" if title == "unkonwn" else clean_title(title)  # their spelling of the one without
