"""The files of docs/scale/: a cluster would run a training that our command line accepts, with the paper's batch."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from experiments.config import resolve

SCALE = Path(__file__).resolve().parent.parent / "docs" / "scale"
PAPERS_BATCH = 512  # pairs that a loss compares; gradients of two are accumulated


def check_training(words, nodes, processes):
    """Check the words of `sonodistill train` that each of the processes runs."""
    experiment, preset, *options = words[words.index("train") + 1 :]
    options = [option for option in options if not option.startswith(("--teacher=", "--student="))]
    config = resolve(experiment, preset, options)
    assert (config.trainer.num_nodes, int(config.trainer.devices)) == (nodes, int(processes))
    assert config.trainer.sync_batchnorm is True
    assert config.data.init_args.batch_size * nodes * int(processes) == PAPERS_BATCH
    assert config.trainer.accumulate_grad_batches == 2


def test_the_batch_script(tmp_path):
    script = SCALE / "train.sbatch"
    directives = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", script.read_text(), re.MULTILINE))
    assert directives["signal"] == "USR1@300"
    assert {"requeue", "open-mode"} <= set(directives)
    nodes, processes = int(directives["nodes"]), int(directives["ntasks-per-node"])
    assert processes == int(directives["gpus-per-node"])
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    sizes = {"JOB_NUM_NODES": nodes, "NTASKS_PER_NODE": processes, "NTASKS": nodes * processes}
    job = {f"SLURM_{name}": str(value) for name, value in sizes.items()}
    run = subprocess.run(
        ["bash", script, "--trainer.max_epochs=3"], capture_output=True, text=True, check=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "TEACHER": "/my data/teacher.pt", **job},
    )  # fmt: skip
    words = run.stdout.splitlines()
    assert "--teacher=/my data/teacher.pt" in words
    assert not [word for word in words if word.startswith("--student")]
    assert words[-1] == "--trainer.max_epochs=3"
    check_training(words, nodes, processes)


def test_the_kubernetes_job():
    """Fields and values that the operator's schema and torchrun ask for."""
    job = yaml.safe_load((SCALE / "pytorchjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert set(job) == {"apiVersion", "kind", "metadata", "spec"}
    spec = job["spec"]
    assert set(spec) == {"nprocPerNode", "runPolicy", "elasticPolicy", "pytorchReplicaSpecs"}
    assert isinstance(spec["nprocPerNode"], str), "the schema wants a string"
    elastic, (worker,) = spec["elasticPolicy"], spec["pytorchReplicaSpecs"].values()
    assert elastic["minReplicas"] == elastic["maxReplicas"] == worker["replicas"]
    assert elastic["rdzvId"], "names the run's folder, by which a restarted job goes on"
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "pytorch", "the operator sets the rendezvous in this container alone"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == spec["nprocPerNode"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    check_training(container["command"], worker["replicas"], spec["nprocPerNode"])


PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}


def wrong(value, kind, models, where):
    """Return what in a value differs from a class of the operator's models: unknown and missing fields, types."""
    if (container := re.fullmatch(r"(?:list\[|dict\(str, )(.+)[])]", kind)) is not None:
        if not isinstance(value, list if kind.startswith("list") else dict):
            return [f"{where}: not a {kind}"]
        entries = enumerate(value) if isinstance(value, list) else value.items()
        return [
            line for key, entry in entries for line in wrong(entry, container[1], models, f"{where}.{key}")
        ]
    if kind in PLAIN:
        fits = isinstance(value, PLAIN[kind]) and not (kind in ("int", "float") and isinstance(value, bool))
        return [] if fits else [f"{where}: {value!r} is not {kind}"]
    if not isinstance(value, dict):
        return [f"{where}: not a {kind}"]
    model = next(getattr(module, kind) for module in models if hasattr(module, kind))
    fields = {json: model.openapi_types[name] for name, json in model.attribute_map.items()}
    found = [f"{where}: no field {key}" for key in value if key not in fields]
    for key in value.keys() & fields.keys():
        found += wrong(value[key], fields[key], models, f"{where}.{key}")
    try:  # fields that are required, as the client's classes check them
        model(**{name: value.get(json) for name, json in model.attribute_map.items()})
    except ValueError as error:
        found.append(f"{where}: {error}")
    return found


# What a cluster would refuse or ignore: text of the file, and a mistake in its place.
MISTAKES = {
    "backoffLimit:": "backOffLimit:",
    'nprocPerNode: "8"': "nprocPerNode: 8",
    "replicas: 2\n": 'replicas: "2"\n',
    "workingDir:": "workdir:",
    "mountPath: /data, ": "",
    "  runPolicy:\n    cleanPodPolicy: Running\n    backoffLimit: 10\n": "",
}


@pytest.mark.slow
def test_the_kubernetes_job_fits_the_operators_models():
    """The classes that Kubeflow's SDK and the Kubernetes client generate from the schemas of both."""
    operator = pytest.importorskip("kubeflow.training.models", reason="uv pip install kubeflow-training")
    models = (operator, pytest.importorskip("kubernetes.client"))
    text = (SCALE / "pytorchjob.yaml").read_text()
    assert wrong(yaml.safe_load(text), "KubeflowOrgV1PyTorchJob", models, "job") == []
    for right, mistake in MISTAKES.items():
        assert text.count(right) == 1, right
        job = yaml.safe_load(text.replace(right, mistake))
        assert len(wrong(job, "KubeflowOrgV1PyTorchJob", models, "job")) == 1, right
