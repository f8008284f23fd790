"""Check a corpus, write shards, ingest an archive, or simulate a corpus.

usage: sonodistill data check DATA ROOT        counts, unreadable files, duplicates and leaks of a corpus on disk
       sonodistill data check table TABLE ...  the same of tables of your own; --sheet=OUT.png draws a contact sheet
       sonodistill data shards [ROOT] OUT      a pre-training corpus from the public sets and --table=TABLE, as shards
       sonodistill data ingest SOURCE OUT      de-identified pictures and a table from DICOM files and cine loops
       sonodistill data phantom                a simulated corpus; --preview=OUT.png draws a contact sheet instead
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from datamodules.base import require_at_least
from datamodules.cores import usable_cores
from datamodules.corpora.cells import canonical, separated, texts
from datamodules.corpora.check import (
    Finding,
    benchmark_copies,
    check_copies,
    check_corpus,
    check_tables,
    finding_of,
    write_sheet,
)
from datamodules.corpora.fada import CONTAINS, is_fada
from datamodules.corpora.public import CORPORA, find_corpora
from datamodules.corpora.table import SPLIT_NAMES, corpus_name, read_table
from datamodules.ingest import archive, scans, source_files
from datamodules.ingest.labels import KEYS, LABELS
from datamodules.phantom.corpus import DEFAULT_ROOT, PhantomSettings, make_corpus
from datamodules.phantom.preview import write_preview
from datamodules.record import TABLE
from datamodules.shards.manifest import MANIFEST, local_manifest
from datamodules.shards.writer import collect, scan_shards, verify_shards, write_shards
from experiments.process import Parser, add_column_option, add_table_options, table_reading
from models.messages import count, first_few, one_line

SHARDS = "shards"
CLIP_CONTEXT = 77
_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


def check(arguments: argparse.Namespace) -> int:
    """Print the table of findings and return 1 if there is an error (with ``--strict``: or a warning), else 0."""
    roots = arguments.root
    if len(roots) > 1 and arguments.data != TABLE:
        raise ValueError(f"data check {arguments.data}: {roots[1]}: only tables are checked together")
    if arguments.data != TABLE:
        _refuse(arguments, "image_folder", "column", "outside", "sheet", "context_length")
    if arguments.data == SHARDS:
        findings = _check_shards(arguments)
    elif arguments.data == TABLE:
        findings, images = check_tables(
            roots, table_reading(arguments), arguments.workers, arguments.context_length or CLIP_CONTEXT
        )
        if arguments.exclude:
            copies = benchmark_copies(images, arguments.exclude, arguments.workers)
            findings.append(check_copies(copies, images["name"]))
        if arguments.sheet is not None:
            print(write_sheet(images, arguments.sheet))
    else:
        findings = check_corpus(arguments.data, roots[0], arguments.workers, arguments.exclude)
    found = Column("found", overflow="fold")  # names of files are shown to their end
    table = Table("check", "", found, title=escape(f"{arguments.data} in {', '.join(map(str, roots))}"))
    for finding in findings:
        level = f"[{_COLOURS[finding.level]}]{finding.level}"
        table.add_row(finding.check, level, escape(finding.detail))  # names of files may look like markup
    Console().print(table)
    for finding in findings if arguments.all else ():
        for case in finding.cases:
            print(f"{finding.check}: {case}")
    levels = {finding.level for finding in findings}
    return int("error" in levels or (arguments.strict and "warning" in levels))


def _refuse(arguments: argparse.Namespace, *names: str) -> None:
    """Refuse options of tables where there is none, rather than ignore them."""
    for name in names:
        if getattr(arguments, name):
            option = "images" if name == "image_folder" else name.replace("_", "-")
            raise ValueError(
                f"--{option}: for tables only (data check table TABLE, data shards --table=TABLE)"
            )


def _check_shards(arguments: argparse.Namespace) -> list[Finding]:
    """Verify the hashes of shards; with ``--exclude``, also of shards without a manifest, find copies."""
    findings, (root,) = [], arguments.root
    if not arguments.exclude or (root / MANIFEST).is_file():
        findings = [Finding("shard", "error", problem) for problem in verify_shards(root)]
        if not findings:
            hashed = all(shard.get("sha256") for shard in local_manifest(root)["shards"])
            text = "complete and unchanged" if hashed else "all there; the manifest has no hashes to compare"
            findings = [Finding("shards", "ok", text)]
    if arguments.exclude:
        images = scan_shards(root)
        copies = benchmark_copies(images, arguments.exclude, arguments.workers)
        findings.append(Finding("images", "ok", f"{images['error'].isna().sum()} read"))
        findings.append(finding_of("unreadable images", "error", images["error"].dropna()))
        findings.append(check_copies(copies, images["name"]))
    return findings


def shards(arguments: argparse.Namespace) -> int:
    """Write the public sets under ``ROOT``, and tables, as shards into ``OUT``."""
    require_at_least("shards", 1, samples_per_shard=arguments.samples_per_shard)
    if arguments.root is None and not arguments.table:
        raise ValueError("data shards: give ROOT, the folder of the public sets, or --table=TABLE, or both")
    if not arguments.table:
        _refuse(arguments, "image_folder", "column", "outside", "skip_missing")
    roots = {} if arguments.root is None else find_corpora(arguments.root)
    tables: dict[str, pd.DataFrame] = {}
    for path in arguments.table:
        name = corpus_name(path)
        if name in (*tables, *CORPORA):
            raise ValueError(f"--table={path}: there is already a corpus {name}; rename the table")
        missing: list[str] | None = [] if arguments.skip_missing else None
        tables[name] = read_table(path, **table_reading(arguments), missing=missing)
        if missing:
            rows = count(len(missing), "row")
            print(f"{path}: {rows} without an image file left out: {first_few(missing)}")
        if is_fada(tables[name]) and not {*CONTAINS} <= {corpus for corpus, _ in arguments.exclude}:
            needed = " ".join(f"--exclude={corpus}:FOLDER" for corpus in CONTAINS)
            raise ValueError(
                f"--table={path}: FADA has images of the benchmarks; leave them out with {needed}"
            )
    found = [f"{CORPORA[name].title} in {path}" for name, path in roots.items()]
    print("found", ", ".join([*found, *map(str, arguments.table)]))
    records, sources = collect(roots, arguments.exclude_test, arguments.exclude, arguments.workers, tables)
    for source in sources:
        for name, number in source.get("benchmark_copies_left_out", {}).items():
            copies = count(number, "copy", "copies")
            print(f"left out of {source['title']}: {copies} of images of {CORPORA[name].title}")
    manifest = write_shards(records, arguments.out, sources, arguments.samples_per_shard, arguments.seed)
    names = f"{arguments.out}/pairs-{{000000..{len(manifest['shards']) - 1:06d}}}.tar"
    print(f"{count(len(records), 'pair')} in {count(len(manifest['shards']), 'shard')}: {names}")
    return 0


def _corpus_and_root(text: str) -> tuple[str, Path]:
    """Parse ``hc18:/data/HC18``."""
    name, colon, root = text.partition(":")
    if name not in CORPORA or not colon:
        raise argparse.ArgumentTypeError(f"{text}: expected CORPUS:FOLDER, a corpus of {', '.join(CORPORA)}")
    return name, Path(root)


def ingest(arguments: argparse.Namespace) -> int:
    """Turn an archive into pictures and a table, or print the paths of some file ids; returns 1 if nothing came out."""
    secret = source_files.read_secret(arguments.secret_file, arguments.source, arguments.out)
    if arguments.which:
        paths = archive.file_ids(arguments.source, secret)
        for name in arguments.which:
            print(paths.get(name) or f"{name}: no such file")
        return 0
    settings = archive.IngestSettings(arguments.frames, arguments.region, arguments.burned_in)
    if arguments.column and arguments.labels is None:
        raise ValueError("--column: names the columns of --labels=TABLE, which is not given")
    labels = None if arguments.labels is None else _read_labels(arguments.labels, dict(arguments.column))
    if arguments.labelled_only and labels is None:
        raise ValueError("--labelled-only: needs --labels=TABLE")
    report = archive.ingest(
        arguments.source, arguments.out, secret, settings, arguments.workers, labels, arguments.labelled_only
    )
    _print_report(report, arguments)
    print(f"{arguments.out}/{archive.TABLE}.csv")
    return int(not report["images"])


def _print_report(report: dict[str, Any], arguments: argparse.Namespace) -> None:
    files = report["files"]
    print(
        f"{count(report['images'], 'image')} of {count(report['patients'], 'patient')} from {files['used']} of "
        f"{count(files['read'], 'file')}"
    )
    for noun, kept_out in (("file", files["kept out"]), ("frame", report["frames kept out"])):
        for reason, number in kept_out.items():
            print(f"kept out: {count(number, noun)}: {reason}")
    if unused := report["rows of labels without an image"]:
        rows = first_few([*map(str, unused)])
        print(f"{arguments.labels}: {count(len(unused), 'row')} without an image: {rows}")
    if left_out := report["images without a label, left out"]:
        print(f"{count(left_out, 'image')} without a label: not in the table")
    if removed := report["pictures of files that are no longer in the source, removed"]:
        print(f"removed: {count(removed, 'picture')} of files that are no longer in the source")
    if wrong := report["files with an implausible pixel size, left out"]:
        print(f"{count(wrong, 'file')} with a pixel size that cannot be right: the table has none for them")
    if scans.NO_REGION in files["kept out"]:
        print(
            "to take files without an ultrasound region: --region=LEFT,TOP,RIGHT,BOTTOM (pixels), or --region=whole"
        )
    if archive.NO_SURROUNDINGS in report["frames kept out"]:
        print(
            "to take frames without black surroundings, once you have looked for names in them: --burned-in=keep"
        )
    for bad in report["bad files"]:
        print(f"bad file {bad['id']}: {bad['reason']}")
    if report["bad files"]:
        print("to see the path of a file: the same command with --which ID")


def _read_labels(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    """Read a table of labels as text, after a check of its splits, ages and sizes; `columns` maps ours to theirs."""
    raw = separated(path)
    for ours, theirs in columns.items():
        if ours not in (*KEYS, *LABELS):
            known = ", ".join((*KEYS, *LABELS))
            raise ValueError(f"--column={ours}={theirs}: no such column of labels; one of {known}")
        if (found := list(raw.columns).count(theirs)) != 1:
            raise ValueError(
                f"{path}: {count(found, 'column')} called {one_line(repr(theirs), 80)} (--column={ours}=...), "
                f"expected one; it has {one_line(', '.join(raw.columns), 200)}"
            )
    own = raw.drop(columns=[*columns.values()]).rename(columns=str.casefold)
    mapped = {ours: raw[theirs] for ours, theirs in columns.items()}
    labels = own.drop(columns=[*columns], errors="ignore").assign(**mapped).apply(texts)
    keys = [key for key in KEYS if key in labels.columns and labels[key].notna().any()]
    if keys:
        chosen = {"image": keys[0], **{name: name for name in LABELS if name in labels.columns}}
        canonical(labels, path, chosen, {"split": {"": None, **SPLIT_NAMES}} if "split" in chosen else {})
    return labels


def _region(text: str) -> scans.Box | Literal["whole"]:
    if text == "whole":
        return "whole"
    try:
        left, top, right, bottom = map(int, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected LEFT,TOP,RIGHT,BOTTOM or whole") from None
    return left, top, right, bottom


def phantom(arguments: argparse.Namespace) -> int:
    """Make the simulated corpus if it is missing and print its folder, or draw a contact sheet."""
    if arguments.preview:
        print(write_preview(arguments.preview, arguments.seed))
        return 0
    settings = {field.name: getattr(arguments, field.name) for field in fields(PhantomSettings)}
    print(make_corpus(PhantomSettings(**settings), arguments.root, arguments.workers))
    return 0


def _add_exclude(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--exclude", type=_corpus_and_root, action="append", default=[], help=text)
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes that decode")


def _add_ingest(commands: Any) -> None:
    one = commands.add_parser("ingest", help="de-identified pictures and a table from DICOM files and loops")
    one.set_defaults(run=ingest)
    one.add_argument("source", type=Path, help="folder of DICOM, MP4, AVI and MOV files, or one file")
    one.add_argument("out", type=Path, help="new folder, or that of an interrupted run")
    one.add_argument("--frames", default="middle", help="of a loop: middle (the default), every:N, or all")
    secret = f"file with the secret of the hashes (default: ${source_files.SECRET_VARIABLE})"
    one.add_argument("--secret-file", type=Path, help=secret)
    region = "part to keep of files without a region: LEFT,TOP,RIGHT,BOTTOM in pixels, or whole"
    one.add_argument("--region", type=_region, help=region)
    burned = "pictures that may show a name: leave out (default), blacken all but the sector, or keep"
    one.add_argument("--burned-in", choices=["drop", "mask", "keep"], default="drop", help=burned)
    one.add_argument("--labels", type=Path, help="CSV file of labels by file, patient or study")
    one.add_argument("--labelled-only", action="store_true", help="no pictures without a label in the table")
    add_column_option(one)
    one.add_argument("--workers", type=int, default=usable_cores(), help="processes that decode")
    one.add_argument("--which", nargs="+", metavar="ID", help="print the paths of file ids, do nothing else")


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    """Return the parser of the command, and those of its subcommands."""
    parser = Parser(prog="sonodistill data", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="check|shards|ingest|phantom")
    one = commands.add_parser("check", help="is a corpus on disk complete, readable and free of leaks?")
    one.set_defaults(run=check)
    one.add_argument("data", choices=[*CORPORA, TABLE, SHARDS], help="name of the corpus")
    one.add_argument("root", type=Path, nargs="+", help="its folder; for table one or more tables")
    add_table_options(one)
    one.add_argument("--sheet", type=Path, help="draw images of a table into this PNG")
    one.add_argument("--context-length", type=int, help=f"tokens that a text tower reads ({CLIP_CONTEXT})")
    one.add_argument("--all", action="store_true", help="list every image found, not only the first few")
    one.add_argument("--strict", action="store_true", help="fail on warnings, too")
    _add_exclude(one, "report images of this corpus and their copies, as hc18:FOLDER; may be repeated")
    one = commands.add_parser("shards", help="write the public sets on disk as WebDataset shards")
    one.set_defaults(run=shards)
    one.add_argument("root", type=Path, nargs="?", help="folder of the public sets, at most two levels down")
    one.add_argument("out", type=Path, help="folder for the shards")
    one.add_argument("--table", type=Path, action="append", default=[], help="your own table; repeatable")
    add_table_options(one)
    everybody = "include validation and test patients"
    one.add_argument("--no-exclude-test", dest="exclude_test", action="store_false", help=everybody)
    one.add_argument("--skip-missing", action="store_true", help="leave out a table's rows without an image")
    _add_exclude(one, "leave out images of this corpus and their copies, as hc18:FOLDER; may be repeated")
    one.add_argument("--samples-per-shard", type=int, default=500, help="a shard's last patient is complete")
    one.add_argument("--seed", type=int, default=0, help="seed of the order")
    _add_ingest(commands)
    one = commands.add_parser("phantom", help="make a simulated corpus if it is missing")
    one.set_defaults(run=phantom)
    one.add_argument("--preview", type=Path, help="draw a contact sheet of every plane into this PNG instead")
    one.add_argument("--root", type=Path, default=DEFAULT_ROOT, help="folder of all phantom corpora")
    one.add_argument("--workers", type=int, help="processes (default: all cores)")
    for field in fields(PhantomSettings):
        option, value = f"--{field.name.replace('_', '-')}", field.default
        one.add_argument(option, type=type(value), default=value, metavar="N", help=f"default {value}")
    return parser, commands.choices


def main(argv: list[str]) -> int:
    """Run one of the four and return its exit status."""
    parser, commands = _parsers()
    if argv and argv[0] in commands:  # options may stand between the paths
        arguments = commands[argv[0]].parse_intermixed_args(argv[1:])
    else:
        arguments = parser.parse_args(argv)
    return int(arguments.run(arguments))
