"""Stub of a training run: reads dotted options, writes metrics.csv step by step.

The score is highest at x = 2. ``--mode`` makes it crash, forget the metric, log scores that fall, or wait to be ended.
"""

import os
import sys
import time
from pathlib import Path

options = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("--"))
x = float(options.get("model.x", 2))
mode = options.get("mode", "train")
folder = Path("outputs/tiny") / os.environ["SONODISTILL_RUN"]
folder.mkdir(parents=True, exist_ok=True)
(folder / "seen.txt").write_text(
    f"{os.environ['WANDB_RUN_GROUP']}\n{os.getpid()}\n{' '.join(sys.argv[1:])}\n"
)
if mode == "crash-at-3" and x == 3:
    print("error: x must not be 3", flush=True)
    sys.exit(2)
if mode == "wait" or (mode == "wait-at-3" and x == 3 and not Path("go").exists()):
    print("waiting", flush=True)
    time.sleep(120)
metric = "val/other" if mode == "forget" else "best/composite"
with (folder / "metrics.csv").open("w") as file:
    file.write(f"epoch,step,{metric}\n")
    for epoch in range(4):
        file.write(f"{epoch},{10 * epoch},\n")  # rows of training steps have no score
        score = (epoch + 1) / 4 - 0.1 * (x - 2) ** 2
        file.write(f"{epoch},{10 * epoch + 9},{-score if mode == 'fall' else score}\n")
        file.flush()
        if mode == "wait-after-3" and x == 5 and epoch == 2:
            time.sleep(120)
if mode == "crash-at-end":
    sys.exit(3)
