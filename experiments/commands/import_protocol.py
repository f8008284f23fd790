"""Read the official zero-shot prompts from a checkout of FetalCLIP or MobileFetalCLIP.

usage: sonodistill import-protocol PATH [--out=data/protocol.json]
"""

from __future__ import annotations

from pathlib import Path

from datamodules.evaluation.protocol_import import import_protocol
from experiments.process import Parser

DEFAULT_OUTPUT = Path("data") / "protocol.json"  # a folder that git ignores: the prompts are CC BY-NC


def main(argv: list[str]) -> int:
    """Write the protocol file and print how to use it."""
    parser = Parser(prog="sonodistill import-protocol", description=__doc__)
    parser.add_argument(
        "path", type=Path, help="checkout of BioMedIA-MBZUAI/FetalCLIP or numanai/MobileFetalCLIP"
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_OUTPUT, help="protocol file to write")
    arguments = parser.parse_args(argv)
    protocol = import_protocol(arguments.path, arguments.out)
    prompts = sum(len(texts) for texts in (*protocol.planes.values(), *protocol.subplanes.values()))
    print(
        f"{arguments.out}: {len(protocol.planes)} planes and {len(protocol.subplanes)} brain sub-planes "
        f"({prompts} prompts), {len(protocol.biometry)} age templates, digest {protocol.digest}\n"
        f"use it with PROTOCOL={arguments.out}"
    )
    return 0
