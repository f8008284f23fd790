"""That W&B's server is out of reach shows before a corpus is drawn."""

import socket
import sys
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import wandb
from jsonargparse import Namespace

from experiments import __main__ as command_line
from experiments.process import first_process
from experiments.runs import wandb_access
from experiments.runs.loggers import check_loggers
from experiments.runs.wandb_access import check_server

CSV, WANDB = (f"lightning.pytorch.loggers.{name}" for name in ("CSVLogger", "WandbLogger"))
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


@pytest.fixture
def server(monkeypatch):
    """Take the place of W&B's server with a local port that refuses connections; logged in, without a proxy."""
    for name in (*PROXIES, *map(str.upper, PROXIES)):
        monkeypatch.delenv(name, raising=False)
    # Bound for as long as the test takes, so that no other process listens there, but not listening.
    port = socket.socket()
    port.bind(("127.0.0.1", 0))
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port.getsockname()[1]}")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    wandb.teardown()
    yield port
    port.close()
    wandb.teardown()


def test_a_server_that_listens_is_reached(server):
    server.listen()
    check_server()


def test_a_closed_port_is_one_line_with_the_remedy(server):
    port = server.getsockname()[1]
    with pytest.raises(ConnectionError) as error:
        check_server()
    assert str(error.value) == (
        f"W&B: 127.0.0.1, port {port}, cannot be reached (Connection refused); without network: WANDB_MODE=offline"
    )


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_behind_a_proxy_nothing_is_tried(server, name, monkeypatch):
    monkeypatch.setenv(name, "http://proxy:3128")
    check_server()


@pytest.mark.parametrize(
    ("url", "port"),
    [("https://api.wandb.ai", 443), ("http://wandb.lan", 80), ("https://wandb.lan:8443/team", 8443)],
)
def test_the_port_is_that_of_the_address_or_of_its_scheme(url, port, monkeypatch):
    asked = []
    settings = SimpleNamespace(base_url=url, http_proxy=None, https_proxy=None)
    monkeypatch.setattr(wandb_access.wandb_setup, "singleton", lambda: SimpleNamespace(settings=settings))
    monkeypatch.setattr(wandb_access, "getproxies", dict)
    monkeypatch.setattr(
        socket, "create_connection", lambda place, **_: asked.append(place) or socket.socket()
    )
    check_server()
    assert asked == [(urlsplit(url).hostname, port)]


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),  # torchrun's second node
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"SLURM_PROCID": "0"}, True),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_one_process_of_all_nodes_speaks_for_the_run(variables, first, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert first_process() == first


def loggers(*kinds):
    each = [Namespace(class_path=kind, init_args=Namespace(**settings)) for kind, settings in kinds]
    return Namespace(trainer=Namespace(logger=each))


@pytest.mark.parametrize(
    ("config", "mode", "tried"),
    [
        (loggers((CSV, {}), (WANDB, {})), "online", True),
        (loggers((WANDB, {"mode": "online"})), "online", True),
        (Namespace(trainer=Namespace(logger=True)), "online", True),
        (Namespace(trainer=Namespace(logger=None)), "online", True),
        (loggers((CSV, {}), (WANDB, {})), "offline", False),
        (loggers((CSV, {}), (WANDB, {})), "disabled", False),
        (loggers((WANDB, {"offline": True})), "online", False),
        (loggers((WANDB, {"mode": "disabled"})), "online", False),
        (loggers((CSV, {})), "online", False),
        (Namespace(trainer=Namespace(logger=False)), "online", False),
    ],
)
def test_the_server_is_tried_where_a_logger_is_to_write_there(config, mode, tried, monkeypatch):
    calls = []
    monkeypatch.setattr("experiments.runs.loggers.wandb_mode", lambda: mode)
    monkeypatch.setattr("experiments.runs.loggers.check_server", lambda: calls.append(1))
    check_loggers(config)
    assert bool(calls) == tried


def test_a_run_that_cannot_log_stops_before_it_draws_a_corpus(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["experiments", "train", "srkd", "phantom"])
    with pytest.raises(SystemExit) as stop:
        command_line.main()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: W&B: 127.0.0.1, port ")
    assert list(tmp_path.iterdir()) == []
