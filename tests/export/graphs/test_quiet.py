"""What converters print and warn of is collected, and nothing of it is lost or kept for later."""

import logging
import warnings

import pytest

from export.graphs.onnx_graph import quiet


def test_each_warning_is_collected_once_and_nothing_is_printed(capsys):
    messages, handlers = ["UserWarning: known"], list(logging.getLogger().handlers)
    with quiet(messages):
        for text in ("known", "new", "new", "Failed to load _MLModelProxy: no module"):
            warnings.warn(text, stacklevel=1)
        for _ in range(2):
            logging.getLogger("converter").warning("two\nlines")
        logging.getLogger("converter").info("nothing of importance")
        print("progress")
    assert messages == ["UserWarning: known", "UserWarning: new", "converter: two lines"]
    assert logging.getLogger().handlers == handlers
    assert capsys.readouterr() == ("", "")


def test_a_conversion_that_fails_leaves_logging_as_it_was(capsys):
    handlers = list(logging.getLogger().handlers)
    with pytest.raises(KeyError), quiet([]):
        raise KeyError
    assert logging.getLogger().handlers == handlers
    print("back")
    assert capsys.readouterr().out == "back\n"
