"""What is left of a checkpoint whose writing was interrupted."""

import pytest

from callbacks.safety.checkpoints import save_atomically


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_checkpoint_leaves_the_former_one_alone(tmp_path, error):
    class Interrupted:
        def save_checkpoint(self, path, weights_only):
            path.write_bytes(b"half")
            raise error

    (tmp_path / "last.ckpt").write_bytes(b"whole")
    with pytest.raises(error):
        save_atomically(Interrupted(), tmp_path / "last.ckpt")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"last.ckpt": b"whole"}
