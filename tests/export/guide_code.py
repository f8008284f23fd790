"""Print the code of docs/deploy.md in one language: ``python3 tests/export/guide_code.py swift``; plain Python."""

import re
import sys
from pathlib import Path

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"


def guide_code(language, mark=None, guide=GUIDE):
    """Return a guide's blocks in a language; of those, with `mark`, the ones under ``<!-- mark -->``."""
    head = "" if mark is None else rf"<!-- {re.escape(mark)} -->\n"
    return re.findall(rf"{head}```{language}\n(.*?)```", guide.read_text(encoding="utf-8"), flags=re.DOTALL)


def main(language):
    """Print the blocks of a language; 1 when there is none."""
    found = guide_code(language)
    print("\n".join(found))
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
