"""Rebuild ``fetal.txt``, the vocabulary of the small text towers, from ``words.txt``.

Run ``python -m models.text.vocabulary.build`` after editing the word list. Token ids are line numbers, so
checkpoints trained with another file no longer fit.
"""

from __future__ import annotations

import string
from pathlib import Path

from models.text.tokenizer import FETAL_VOCABULARY, SPECIAL_TOKENS

WORDS = Path(__file__).with_name("words.txt")
WORD_ENDINGS = "s es ed er est ing ly al ic ous ion tion sion ment ness ity ive able ible ar ary or us um is"


def vocabulary() -> list[str]:
    """Return every token in the order of its id.

    Special tokens come first (padding is 0), then the number tokens of gestational ages, spacings and circumferences
    (``0``-``99``, ``00``-``09``, tenths as ``.4`` and later digits as ``##2``), punctuation, letters at the start of
    and inside a word, common word endings, and the words of ``words.txt``.
    """
    lines = WORDS.read_text(encoding="utf-8").splitlines()
    written = [word for line in lines if not line.startswith("#") for word in line.split()]
    words = sorted({word for word in written if word.isalpha()})
    numbers = [str(number) for number in range(100)] + [f"{number:02d}" for number in range(10)]
    numbers += [f".{digit}" for digit in range(10)] + [f"##{digit}" for digit in range(10)]
    letters = list(string.ascii_lowercase)
    pieces = [f"##{piece}" for piece in [*letters, *WORD_ENDINGS.split()]]
    return list(dict.fromkeys([*SPECIAL_TOKENS, *numbers, *string.punctuation, *letters, *pieces, *words]))


if __name__ == "__main__":
    tokens = vocabulary()
    FETAL_VOCABULARY.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    print(f"{FETAL_VOCABULARY}: {len(tokens)} tokens")
