"""``python -m experiments.sweep run|agent|report``: behind the make targets of the same name."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.child_process import STOPPED, exit_status, status_for_make
from experiments.recipes import DEFAULT_PRESET
from experiments.sweep.sweep_file import YAML, SweepFile, read_sweep, sweep_names, sweep_path
from experiments.sweep.trial_command import trial_arguments

LOCALLY = "WANDB_MODE=offline, or .venv/bin/python -m experiments.sweep run NAME --local"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.sweep", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="run a sweep: on W&B when logged in, else on this machine",
        epilog="What stands behind -- goes to every trial: run decay -- --trainer.max_epochs=1 --teacher=weights.pt",
    )
    run.add_argument("sweep", help=f"name ({', '.join(sweep_names())}) or YAML file")
    run.add_argument("--count", type=_positive, help="trials in all (on W&B: of this machine)")
    run.add_argument("--jobs", type=_positive, default=1, help="trials at once on this machine")
    run.add_argument("--name", help="name of the sweep, locally of its folder; default: the file's")
    run.add_argument("--data", default=DEFAULT_PRESET, help="data preset of every trial")
    run.add_argument("--local", action="store_true", help="run on this machine though logged in to W&B")
    agent = commands.add_parser("agent", help="work on a W&B sweep that was created elsewhere")
    agent.add_argument("id", help="[entity/]project/id, as make sweep printed it")
    agent.add_argument("--count", type=_positive, help="runs of this machine")
    agent.add_argument("--jobs", type=_positive, default=1, help="runs at once on this machine")
    report = commands.add_parser("report", help="table, plots and best command of a local sweep")
    report.add_argument("name", help="name of the sweep's folder under outputs/sweeps/, or its YAML file")
    return parser


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse a command line; ``arguments`` is what stands behind ``--``, which argparse would mix up."""
    own = argv[: argv.index("--")] if "--" in argv else argv
    options = _parser().parse_args(own)
    options.arguments = argv[len(own) + 1 :]
    return options


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return int(text)


def _run(sweep: SweepFile, options: argparse.Namespace) -> int:
    from experiments.wandb_access import wandb_mode

    arguments = trial_arguments(sweep.command, options.data, options.arguments)
    if not options.local and wandb_mode() == "online":
        from experiments.sweep.wandb_runner import create_sweep, run_agents

        sweep_id = create_sweep(sweep, arguments, options.name, options.count)
        print(f"on more machines: make sweep-agent ID={sweep_id}", flush=True)
        return run_agents(sweep_id, options.count, options.jobs)
    from experiments.sweep.local_runner import run_locally
    from experiments.sweep.local_study import sweep_folder

    folder = sweep_folder(options.name or sweep.name)
    status = run_locally(sweep, folder, options.count, options.jobs, arguments)
    print(f"report: make sweep-report SWEEP={folder.name}")
    _say_where_trials_logged(folder)
    return status


def _say_where_trials_logged(folder: Path) -> None:
    from experiments.run_folder import OUTPUTS
    from experiments.wandb_access import sync_command, wandb_mode, why_not_online

    mode, runs = wandb_mode(), f"*/{folder.name}-[0-9]*/wandb/offline-run-*"
    if mode == "disabled":
        print(f"W&B: {why_not_online()}, so nothing was logged there")
    elif mode == "offline" and any(OUTPUTS.glob(runs)):
        later = sync_command(str(OUTPUTS / runs))
        print(f"W&B: {why_not_online()}, so the trials logged offline; later: {later}")


def run(options: argparse.Namespace) -> int:
    """Run a parsed command and return its exit status."""
    if options.command == "run":
        return _run(read_sweep(sweep_path(options.sweep)), options)
    if options.command == "agent":
        from experiments.sweep.wandb_runner import run_agents

        return run_agents(options.id, options.count, options.jobs)
    from experiments.sweep.local_study import sweep_folder
    from experiments.sweep.sweep_report import report

    name = options.name
    report(sweep_folder(Path(name).stem if name.endswith(YAML) else name))
    return 0


@status_for_make()
def main() -> None:
    """Entry point: prints a user's mistake as one line instead of a traceback."""
    try:
        sys.exit(run(parse(sys.argv[1:])))
    except STOPPED as stop:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(exit_status(stop))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if not type(error).__module__.startswith("wandb."):  # W&B is imported only where it is needed
            raise
        reason = " ".join(str(error).split())
        print(f"error: W&B: {reason}; without network: {LOCALLY}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
