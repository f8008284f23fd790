"""Search hyper-parameters, on W&B when logged in, else on this machine.

usage: sonodistill sweep run SWEEP [options] [-- arguments of every trial]
       sonodistill sweep agent [ENTITY/]PROJECT/ID [--count=N] [--jobs=N]
       sonodistill sweep report NAME

  run       run a sweep file, by name or path; repeated, it resumes
  agent     work on a W&B sweep that was created elsewhere
  report    table, plots and best command of a local sweep, by name or YAML file

  --count=N    trials in all (on W&B: of this machine)
  --jobs=N     parallel trials on this machine
  --name=NAME  name of the sweep, locally of its folder; default: the file's
  --data=DATA  data preset of every trial
  --local      run on this machine although logged in to W&B

Example: sonodistill sweep run decay --count=20 -- --teacher=weights.pt
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.process import Parser, positive
from experiments.recipe_files import DEFAULT_PRESET


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse a command line; ``arguments`` are those after ``--``."""
    parser = Parser(prog="sonodistill sweep")
    commands = parser.add_subparsers(dest="command", required=True)
    form = argparse.RawDescriptionHelpFormatter
    run, agent, report = (
        commands.add_parser(
            name, allow_abbrev=False, usage=argparse.SUPPRESS, description=__doc__, formatter_class=form
        )
        for name in ("run", "agent", "report")
    )
    run.add_argument("sweep")
    run.add_argument("--name")
    run.add_argument("--data", default=DEFAULT_PRESET)
    run.add_argument("--local", action="store_true")
    agent.add_argument("id")
    report.add_argument("name")
    for command in (run, agent):
        command.add_argument("--count", type=positive)
        command.add_argument("--jobs", type=positive, default=1)
    own = argv[: argv.index("--")] if "--" in argv else argv
    options = parser.parse_args(own)
    options.arguments = argv[len(own) + 1 :]
    return options


def _run(options: argparse.Namespace) -> int:
    from experiments.runs import wandb_access
    from experiments.runs.run_folder import OUTPUTS
    from experiments.sweep.sweep_file import read_sweep, sweep_path, trial_arguments

    sweep = read_sweep(sweep_path(options.sweep))
    arguments = trial_arguments(sweep, options.data, options.arguments)
    mode = wandb_access.wandb_mode()
    if not options.local and mode == "online":
        from experiments.sweep.wandb_runner import create_sweep, run_agents

        sweep_id = create_sweep(sweep, arguments, options.name, options.count)
        print(f"on more machines: make sweep-agent ID={sweep_id}", flush=True)
        return run_agents(sweep_id, options.count, options.jobs)
    from experiments.sweep.local_runner import run_locally
    from experiments.sweep.local_study import sweep_folder

    folder = sweep_folder(options.name or sweep.name)
    status = run_locally(sweep, folder, options.count, options.jobs, arguments)
    print(f"report: make sweep-report SWEEP={folder.name}")
    runs = OUTPUTS / f"*/{folder.name}-[0-9]*/wandb/offline-run-*"
    if mode == "disabled":
        print(f"W&B: {wandb_access.why_not_online()}, so nothing was logged there")
    elif mode == "offline" and any(Path().glob(str(runs))):
        later = wandb_access.sync_command(str(runs))
        print(f"W&B: {wandb_access.why_not_online()}, so the trials logged offline; later: {later}")
    return status


def main(argv: list[str]) -> int:
    """Run one of the three commands and return its exit status."""
    options = parse(argv)
    if options.command == "run":
        return _run(options)
    if options.command == "agent":
        from experiments.sweep.wandb_runner import run_agents

        return run_agents(options.id, options.count, options.jobs)
    from experiments.sweep.local_study import sweep_folder
    from experiments.sweep.sweep_file import YAML
    from experiments.sweep.sweep_report import report

    report(sweep_folder(Path(options.name).stem if options.name.endswith(YAML) else options.name))
    return 0
