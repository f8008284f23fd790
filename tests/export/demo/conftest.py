"""The demo page of the tiny export, served on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from export import Export
from export.demo.build import STATIC, build_demo
from export.demo.runtime import runtime_files
from export.demo.server import server_of


@pytest.fixture(scope="session")
def built(exported: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of `exported`."""
    try:
        runtime_files()
    except ValueError as error:
        pytest.skip(f"no runtime: {error}")
    return build_demo(exported.folder, tmp_path_factory.mktemp("demo") / "page")


@pytest.fixture
def served() -> Iterator[object]:
    """Serve a folder: `served(folder)` returns the server, whose `address` a browser opens."""
    servers = []

    def start(folder: Path) -> object:
        server = server_of(folder, "127.0.0.1", 0)
        server.address = f"http://127.0.0.1:{server.server_port}/"
        Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """The page's modules where Node runs them."""
    folder = Path(shutil.copytree(STATIC, tmp_path / "modules"))
    (folder / "package.json").write_text('{"type": "module"}')
    return folder
