"""Run one function in several gloo processes, as multi-GPU training would."""

import multiprocessing
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# Forked from a server that has the slow imports done and, unlike this process, has run no autograd: autograd refuses to
# run in a fork of a process in which it has started threads.
multiprocessing.set_forkserver_preload(["torch", "lightning", "lightning_modules", "callbacks"])


def _worker(rank, function, rendezvous, world, *args):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    try:
        function(rank, *args)
    finally:
        dist.destroy_process_group()


@contextmanager
def one_thread():
    """Compute as the processes do: sums of another number of threads may round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run_in_processes(world, function, tmp_path, *args):
    """Call ``function(rank, *args)`` in ranks 0 to `world` - 1; any failed assertion fails the caller."""
    arguments = (function, tmp_path / "rendezvous", world, *args)
    mp.start_processes(_worker, args=arguments, nprocs=world, join=True, start_method="forkserver")


def run_in_two_processes(function, tmp_path, *args):
    """Call ``function(rank, *args)`` in ranks 0 and 1; any failed assertion fails the caller."""
    run_in_processes(2, function, tmp_path, *args)
