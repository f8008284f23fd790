"""One run on the processes that torchrun and SLURM start: one folder, requeued jobs that end with the same weights."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from experiments.runs import run_folder
from experiments.runs.run_folder import RUN_VARIABLE, job_id, requeued_checkpoint

ROOT = Path(__file__).resolve().parents[3]
SMALL = ROOT / "tests/experiments/sweep/phantom_small.yaml"
LAUNCHERS = ("SLURM", "TORCHELASTIC", "WANDB", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER", RUN_VARIABLE)
SIGNAL = """
import multiprocessing, os, signal
from lightning import Callback

class Send(Callback):
    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step == 3 and "SEND" in os.environ:
            os.kill(os.getpid(), int(os.environ["SEND"]))
        if trainer.global_step == 3 and os.environ.get("KILL") == f"rank {trainer.global_rank}":
            os.kill(os.getpid(), signal.SIGKILL)
        if trainer.global_step == 3 and os.environ.get("KILL") == "worker":
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
"""


@pytest.fixture
def no_job(monkeypatch):
    for name in list(os.environ):
        if name.startswith(LAUNCHERS):
            monkeypatch.delenv(name)
    monkeypatch.setenv(RUN_VARIABLE, "")  # so that what a test puts there is taken back
    monkeypatch.delenv(RUN_VARIABLE)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, None),
        ({"TORCHELASTIC_RUN_ID": "none"}, None),
        ({"TORCHELASTIC_RUN_ID": "team/exp 1", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, "team-exp-1"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"}, "slurm7"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "2"}, "slurm7.2"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "TORCHELASTIC_RUN_ID": "none"}, "slurm7"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "interactive"}, None),
    ],
)
def test_a_job_is_known_by_torchruns_id_or_slurms_number(no_job, variables, found):
    for name, value in variables.items():
        no_job.setenv(name, value)
    assert job_id() == found


def test_a_resumed_run_keeps_its_folder_named_as_from_here(no_job, tmp_path):
    no_job.chdir(tmp_path)
    outside = tmp_path.parent / "elsewhere"
    for run, named in (
        (Path("outputs/srkd/a"),) * 2,
        (Path.cwd() / "outputs/srkd/a", Path("outputs/srkd/a")),
        (outside,) * 2,
    ):
        checkpoint = str(run / "checkpoints" / "last.ckpt")
        assert run_folder.run_folder("srkd", "phantom", 0, None, checkpoint) == named


def test_a_requeued_job_finds_its_unfinished_run_and_no_other(no_job, tmp_path):
    no_job.chdir(tmp_path)
    no_job.setenv("SLURM_JOB_ID", "42")
    no_job.setenv("SLURM_NTASKS", "1")
    assert requeued_checkpoint("srkd", "phantom", 0) is None
    assert run_folder.run_folder("srkd", "phantom", 0, None, None) == Path("outputs/srkd/phantom-s0-slurm42")
    no_job.delenv(RUN_VARIABLE)
    last = Path("outputs/srkd/phantom-s0-slurm42/checkpoints/last.ckpt")
    last.parent.mkdir(parents=True)
    last.touch()
    assert requeued_checkpoint("srkd", "phantom", 0) is None, (
        "the next command of the same job is another run"
    )
    no_job.setenv("SLURM_RESTART_COUNT", "1")
    no_job.delenv(RUN_VARIABLE, raising=False)
    assert requeued_checkpoint("srkd", "phantom", 0) == last
    for other in (("srkd", "phantom", 1), ("no-kd", "phantom", 0)):
        no_job.delenv(RUN_VARIABLE, raising=False)
        assert requeued_checkpoint(*other) is None
    no_job.delenv(RUN_VARIABLE, raising=False)
    (last.parents[1] / "results.json").touch()
    assert requeued_checkpoint("srkd", "phantom", 0) is None


@pytest.fixture
def start(small_phantom, tmp_path):
    """Start a small run in `tmp_path`: two epochs, without evaluations, by a launcher and in an environment."""
    (tmp_path / "signalling.py").write_text(SIGNAL)
    own = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    settings = [
        "fit", f"--config={ROOT}/experiments/recipes/no-kd.yaml", f"--config={SMALL}", "--model.teacher=null",
        "--biometry.benchmarks=[]", "--planes.benchmarks=[]", *small_phantom, "--data.batch_size=8",
        "--data.cache=null",
        "--trainer.limit_val_batches=0", "--trainer.max_epochs=2", "--trainer.accelerator=cpu",
        "--trainer.callbacks+=signalling.Send",
    ]  # fmt: skip
    started = []

    def run(*launcher, options=(), **variables):
        environment = {
            **own, "PYTHONPATH": f"{ROOT}:{tmp_path}", "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1",
            "PATH": f"{tmp_path}:{own['PATH']}", **variables,
        }  # fmt: skip
        command = [sys.executable, *launcher, "-m", "experiments", *settings, *options]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def folders(tmp_path):
    return sorted(path.name for path in (tmp_path / "outputs").glob("*/*"))


def finished(*processes):
    outputs = [process.communicate(timeout=580)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)[-3000:]
    return outputs


@pytest.mark.slow
@pytest.mark.faults
def test_torchrun_on_one_node_and_on_two_writes_one_folder(start, tmp_path):
    two = ["--trainer.strategy=ddp", "--trainer.devices=2"]
    torchrun = (
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        f"--master-port={find_free_network_port()}",
        "--no-python",
    )
    finished(start(*torchrun, sys.executable, options=two))
    (one,) = folders(tmp_path)
    assert (tmp_path / "outputs" / "no-kd" / one / "results.json").is_file()
    endpoint = f"--rdzv-endpoint=127.0.0.1:{find_free_network_port()}"
    node = (
        "--nnodes=2",
        "--nproc-per-node=1",
        "--rdzv-backend=c10d",
        endpoint,
        "--rdzv-id=exp7",
        "--no-python",
    )
    nodes = ["--trainer.strategy=ddp", "--trainer.devices=1", "--trainer.num_nodes=2"]
    finished(*(start("-m", "torch.distributed.run", *node, sys.executable, options=nodes) for _ in range(2)))
    assert folders(tmp_path) == sorted([one, "phantom-s0-exp7"])
    ends = [weights(tmp_path, name) for name in folders(tmp_path)]
    assert_same(*ends)


def weights(tmp_path, name):
    return torch.load(tmp_path / f"outputs/no-kd/{name}/checkpoints/last.ckpt", weights_only=True)


def assert_same(one, other):
    assert one["global_step"] == other["global_step"]
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("tasks", [1, 2])
def test_a_slurm_job_is_requeued_and_ends_with_the_weights_of_an_unbroken_one(start, tmp_path, tasks):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/requeued\n')
    scontrol.chmod(0o755)
    strategy = ["--trainer.strategy=ddp", f"--trainer.num_nodes={tasks}"] if tasks > 1 else []

    def job(number, **further):
        common = {
            "SLURM_JOB_ID": str(number), "SLURM_NTASKS": str(tasks), "SLURM_NNODES": str(tasks),
            "SLURM_NTASKS_PER_NODE": "1",
            "SLURM_JOB_NAME": "train", "SLURM_LOCALID": "0", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(find_free_network_port()), **further,
        }  # fmt: skip
        return [
            start(
                options=[*strategy, "--trainer.devices=1"],
                SLURM_PROCID=str(rank),
                SLURM_NODEID=str(rank),
                **common,
            )
            for rank in range(tasks)
        ]

    finished(*job(100))
    stopped = job(101, SEND=str(int(signal.SIGUSR1)))
    outputs = [process.communicate(timeout=580)[0] for process in stopped]
    assert [process.returncode for process in stopped] == [128 + signal.SIGTERM] * tasks, "\n".join(outputs)[
        -3000:
    ]
    assert (tmp_path / "requeued").read_text() == "requeue 101\n"
    assert "requeued SLURM job 101" in outputs[0]
    assert weights(tmp_path, "phantom-s0-slurm101")["global_step"] == 4
    outputs = finished(*job(101, SLURM_RESTART_COUNT="1"))
    assert sum("this run was requeued; resuming from" in output for output in outputs) == 1
    assert folders(tmp_path) == ["phantom-s0-slurm100", "phantom-s0-slurm101"]
    assert_same(*(weights(tmp_path, f"phantom-s0-slurm{number}") for number in (100, 101)))


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("victim", ["worker", "rank 0", "rank 1"])
def test_a_killed_worker_or_rank_ends_the_others_with_one_line(start, tmp_path, victim):
    ranks = (
        ["--trainer.strategy=ddp", "--trainer.devices=2"]
        if victim.startswith("rank")
        else ["--data.num_workers=1"]
    )
    process = start(options=ranks, KILL=victim)
    output = process.communicate(timeout=580)[
        0
    ]  # the end of the output is that of the last process that writes to it
    assert process.returncode != 0
    assert "Traceback" not in output
    last = [
        line for line in output.splitlines() if line.startswith("error: ") or "terminated with code" in line
    ]
    assert len(last) == 1, output[-3000:]
    assert any(
        words in last[0]
        for words in ("a data worker has ended", "another process of this run", "with code -9")
    )


BLOCKED = """
import os, sys, threading, time
from lightning import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import Dataset
from callbacks import LastCheckpoint
from callbacks.safety import checkpoints
from datamodules.pairs.loaders import PlainErrorLoader

checkpoints.DEADLINE_S = 3.0
os.mkfifo("pipe")

class Pipe(Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        print("reading", flush=True)
        return open("pipe").read()

class Module(BoringModel):
    def train_dataloader(self):
        return PlainErrorLoader(Pipe(), num_workers=int(sys.argv[1]))

Trainer(
    max_epochs=1, accelerator="cpu", logger=False, limit_val_batches=0, enable_progress_bar=False,
    enable_model_summary=False, callbacks=[LastCheckpoint()], num_sanity_val_steps=0,
).fit(Module())
"""


def alive(group):
    """Return the processes of a group; one that has ended counts until its new parent notices."""
    found = []
    for one in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(one.pid) == group and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one.pid)
    return found


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("workers", [0, 1])
def test_a_read_that_never_ends_does_not_outlive_the_deadline(tmp_path, workers):
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED, str(workers)], cwd=tmp_path, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "reading\n"
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
        assert (
            line
            == "error: the step did not end within 3 s of SIGTERM, it waits for data or for another process"
        )
        assert process.returncode == 128 + signal.SIGTERM
        assert not alive(process.pid), "its worker ended with it"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
