"""Put the tables of studies into their page: `python docs/studies/write.py OUTPUT/results.json ...`.

A study's tables stand between two comments that name it; what is between them is made from the results and
never by hand.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recunlearn.eval.battery.markdown import study_tables

PAGE = Path(__file__).parent.parent / "explanation" / "studies.md"
BEGIN, END = "<!-- tables of: {} -->\n", "<!-- end of tables -->"


def with_tables(page: str, results: Mapping[str, Any]) -> str:
    """Return the page with a study's tables in their place, their headings one level down.

    Raises
    ------
    ValueError
        The page has no place for this study.
    """
    begin = BEGIN.format(results["study"]["name"])
    before, found, rest = page.partition(begin)
    _, ends, after = rest.partition(END)
    if not (found and ends):
        raise ValueError(f"the page has no place for this study; write: {begin}{END}")
    tables = re.sub(r"^##", "###", study_tables(results), flags=re.MULTILINE)
    return f"{before}{begin}\n{tables}\n{END}{after}"


def main(paths: list[str]) -> int:
    """Write the tables of each results.json into the page."""
    for path in paths:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
