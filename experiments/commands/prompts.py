"""Check prompts, or read the official ones from a checkout of FetalCLIP or MobileFetalCLIP.

usage: sonodistill prompts check FILE [--model=CKPT]
           [--table=TABLE [--label=plane] [--images=FOLDER] [--column=OURS=THEIRS] [--outside]]
       sonodistill import-protocol PATH [--out=data/protocol.json]

The check finds classes without prompts, prompts beyond the context, and classes that a model cannot tell apart. FILE is
JSON of class -> sentences, or a whole protocol with planes, subplanes and biometry. Without a model the context is
CLIP's, 77 tokens, and classes are not compared. The exit status is 1 if anything is found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datamodules.corpora.records import table_records
from datamodules.corpora.table import read_table
from datamodules.evaluation.own_benchmarks import PROMPTED
from datamodules.evaluation.protocol import Protocol, read_prompts
from datamodules.evaluation.protocol_import import import_protocol
from experiments.process import Parser, add_table_options, table_reading
from models import DualEncoder, Preprocessing, build_tokenizer, from_checkpoint
from models.zero_shot import class_embeddings

DEFAULT_OUTPUT = Path("data") / "protocol.json"  # a folder that git ignores: the prompts are CC BY-NC
NEAR = 0.98  # cosine of two class vectors
CLIP = Preprocessing(224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def read_classes(path: Path) -> dict[str, Mapping[str, Sequence[str]]]:
    """Return the classes of a prompt file, or those of each benchmark of a protocol."""
    try:
        whole = "biometry" in json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        whole = False
    return {**Protocol.load(path).classes} if whole else {path.stem: read_prompts(path)}


def labels_of(table: pd.DataFrame, column: str, classes: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return which classes need prompts for the labels of a table's column, as a benchmark of it reads them.

    In a whole protocol they are the classes of one benchmark, which leaves "other" out; labels are the project's own.
    """
    whole = len(classes) > 1
    records = table_records(table, keep=() if whole else (column,))
    found = {str(record.others.get(column) or getattr(record, column, None) or "") for record in records}
    found -= {"", "other"} if whole else {""}
    place = PROMPTED.get(column, column) if whole else next(iter(classes))
    if place not in classes:
        raise ValueError(
            f"--label={column}: the protocol has no prompts of {place}; it has {', '.join(classes)}"
        )
    return {place: sorted(found)}


def too_long(prompts: Mapping[str, Sequence[str]], preprocessing: Preprocessing) -> list[str]:
    """Return the prompts that a model's tokenizer cuts off, each with its class and number of tokens."""
    tokenize = build_tokenizer(replace(preprocessing, context_length=8 * preprocessing.context_length))
    padding = int(tokenize(["a"])[0, -1])
    found = []
    for name, texts in prompts.items():
        for text, tokens in zip(texts, tokenize(list(texts)), strict=True):
            count = int((tokens != padding).nonzero().max()) + 1
            if count > preprocessing.context_length:
                found.append(f"{name}: {text[:60]!r}... has {count} tokens of {preprocessing.context_length}")
    return found


def near(prompts: Mapping[str, Sequence[str]], model: DualEncoder) -> list[str]:
    """Return the pairs of classes whose vectors have a cosine above `NEAR`."""
    vectors = class_embeddings(model, prompts)
    cosines = (vectors @ vectors.T).tolist()
    pairs = combinations(enumerate(prompts), 2)
    return [
        f"{one} and {other}: {cosines[i][j]:.3f}" for (i, one), (j, other) in pairs if cosines[i][j] > NEAR
    ]


def main(argv: list[str]) -> int:
    """Run one of the two commands; the first argument is its name."""
    return import_official(argv[1:]) if argv[0] == "import-protocol" else check(argv[1:])


def import_official(argv: list[str]) -> int:
    """Write the protocol file and print how to use it."""
    parser = Parser(prog="sonodistill import-protocol", description="Read the official prompts.")
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


def check(argv: list[str]) -> int:
    """Print what was found, and return 1 if there is anything."""
    parser = Parser(prog="sonodistill prompts", description=__doc__.partition("\n")[0])
    one = parser.add_subparsers(required=True, metavar="check").add_parser(
        "check", help="check a prompt file"
    )
    one.add_argument("file", type=Path)
    one.add_argument("--model", help="checkpoint whose text tower reads the prompts")
    one.add_argument("--table", type=Path, help="labelled images: each label needs prompts")
    one.add_argument("--label", default="plane", help="column of the labels (default plane)")
    add_table_options(one)
    arguments = parser.parse_args(argv)
    if arguments.table is None and any(table_reading(arguments).values()):
        one.error("--images, --column and --outside need --table=TABLE")
    model = None if arguments.model is None else from_checkpoint(arguments.model).eval()
    classes = read_classes(arguments.file)
    labels: dict[str, list[str]] = {}
    if arguments.table is not None:
        table = read_table(arguments.table, **table_reading(arguments))
        if arguments.label not in table:
            raise ValueError(
                f"{arguments.table}: no column {arguments.label}; it has {', '.join(table.columns)}"
            )
        labels = labels_of(table, arguments.label, classes)
    shown, found = Table("prompts", "check", "found", title=escape(str(arguments.file))), False
    for name, prompts in classes.items():
        findings = {
            "labels without prompts": [label for label in labels.get(name, ()) if label not in prompts],
            "prompts beyond the context": too_long(prompts, CLIP if model is None else model.preprocessing),
            f"classes with cosine > {NEAR}": [] if model is None else near(prompts, model),
        }
        found |= any(findings.values())
        for check_name, cases in findings.items():
            shown.add_row(
                escape(f"{name} ({len(prompts)} classes)"), check_name, escape("; ".join(cases)) or "none"
            )
    Console().print(shown)
    return int(found)
