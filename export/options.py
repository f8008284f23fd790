"""Options of an export, validated before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import PositiveInt, restricted_number_type

from export.int8.int8_variants import INT8_VARIANTS
from export.latency.backends import BFLOAT16
from export.variants import LITERT, coreml_packages
from models.messages import nearest

PixelSpacing = restricted_number_type("PixelSpacing", float, (">=", 0.01))


def skippable() -> dict[str, frozenset[str]]:
    """Return the variants that each name of ``--skip`` leaves out: groups, and single variants."""
    packages = coreml_packages()
    variants = (BFLOAT16, *INT8_VARIANTS, *LITERT, *packages)
    return {
        "coreml": frozenset(packages),
        "litert": frozenset(LITERT),
        "int8": frozenset(name for name in variants if name.endswith("-int8")),
        **{name: frozenset({name}) for name in variants},
    }


@dataclass(frozen=True)
class Options:
    """Options of an export; ``sonodistill export --help`` explains them.

    Raises:
        ValueError: `skip` contains an unknown variant, or `only_spacings` is set without `spacings`.
    """

    dynamic_batch: bool = False
    text_encoder: bool = False
    with_resize: bool = False
    spacings: list[PixelSpacing] | None = None  # type: ignore[valid-type]
    only_spacings: bool = False
    skip: Sequence[str] = ()
    split: Literal["test", "val", "all"] = "test"
    frames: PositiveInt | None = None
    calibration_frames: PositiveInt = 64  # type: ignore[assignment]
    gates: str | None = None
    keep_slow_int8: bool = False
    int8_from: str | None = None
    age_cache: str | None = None

    def __post_init__(self) -> None:
        known = skippable()
        for name in self.skip:
            if name not in known:
                hint = nearest(name, [*known]) or f"; choose from {', '.join(known)}"
                raise ValueError(f"--skip: unknown variant {name!r}{hint}")
        if self.only_spacings and not self.spacings:
            raise ValueError("--only_spacings: needs --spacings, such as --spacings=[0.21]")

    @property
    def left_out(self) -> frozenset[str]:
        """The variants of `skip`, groups resolved."""
        return frozenset().union(*(skippable()[name] for name in self.skip))

    @property
    def printed_spacings(self) -> list[str]:
        """`spacings` as prompts print them, ``"0.21"``, sorted."""
        return sorted({f"{spacing:.2f}" for spacing in self.spacings or ()})
