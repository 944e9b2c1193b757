"""Words and variables of a container as a process of this machine gets them."""

from __future__ import annotations

from pathlib import Path

from kubeautoml.cluster.local_pod import command_of


def test_a_mount_at_tmp_moves_the_folder_and_no_path_of_this_machine_below_it():
    """A program or data that lies in this machine's /tmp is still found beside a pod's own /tmp."""
    container = {
        "name": "worker",
        "command": ["/tmp/venv/bin/python"],
        "args": ["/var/run/scratch/file"],
        "env": [{"name": "TMPDIR", "value": "/tmp"}, {"name": "DATA", "value": "/tmp/data.csv"}],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "scratch", "mountPath": "/var/run/scratch"}],
    }
    volumes = [{"name": "tmp", "emptyDir": {}}, {"name": "scratch", "emptyDir": {}}]
    pod = {"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [container], "volumes": volumes}}

    command = command_of(pod, Path("/pods/p"), {})

    assert list(command.arguments) == ["/tmp/venv/bin/python", "/pods/p/scratch/file"]
    assert command.environment == {"TMPDIR": "/pods/p/tmp", "DATA": "/tmp/data.csv"}
