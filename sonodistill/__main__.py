"""``sonodistill COMMAND`` and ``python -m sonodistill COMMAND``: the front door of `experiments`."""

import sonodistill.folders  # noqa: F401  # before the folders are imported


def program() -> None:
    """Run one command line."""
    from experiments.__main__ import program as run

    run()


if __name__ == "__main__":
    program()
