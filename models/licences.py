"""Terms of the published weights, told when they are loaded.

A student inherits the question of its teacher's and its starting point's terms, so they are shown early.
"""

from __future__ import annotations

WEIGHT_LICENCES = {
    "MobileCLIP2-S0": "Apple Machine Learning Research Model licence (apple-amlr): research use only",
    "FetalCLIP": "none stated by its authors: take it as CC BY-NC 4.0, as its prompts are, and ask them",
    "MobileFetalCLIP": "CC BY-NC 4.0: no commercial use",
}
"""Terms by architecture or release, as their publishers state them."""
FETALCLIP_PROMPTS = "CC BY-NC 4.0: no commercial use"
"""Terms of the prompts that `make import-protocol` reads from a checkout of FetalCLIP."""


def licence_of(name: str) -> str:
    """Return the terms of a model's published weights, or a reminder to check them."""
    return WEIGHT_LICENCES.get(name, "not known here: check the terms of where the file came from")
