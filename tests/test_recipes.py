"""The recipes for clusters, checked as far as they can be without a cloud."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from study.base import cli
from study.base.errors import UserError
from study.engine.memory_check import Estimate, check_memory
from study.engine.node_checks import LOCAL_FILESYSTEMS, filesystem
from study.records.storage import check_scheme
from study.search.__main__ import CLUSTER
from study.search.options import SearchOptions
from tests.clean_environment import ROOT

RECIPES = ROOT / "study" / "engine" / "recipes"
MOUNTS = """22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:35 / /home rw,relatime shared:2 - nfs4 head:/home rw
41 40 0:36 / /home/scratch rw,relatime shared:3 - tmpfs tmpfs rw
42 22 0:37 / /mnt/two\\040words rw,relatime shared:4 - fuse.juicefs JuiceFS rw
"""


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((RECIPES / name).read_text()))


def search(command: str) -> SearchOptions:
    """The options of a `python -m study.search` command."""
    words = shlex.split(command)
    assert words[words.index("python") :][:3] == ["python", "-m", "study.search"]
    options, _ = cli.parse(SearchOptions, "study.search", "", words[words.index("python") + 3 :])
    check_scheme(options.storage)
    return options


def comments(name: str) -> str:
    """What a recipe says first, as one line of commands."""
    lines = [line[1:].strip() for line in (RECIPES / name).read_text().splitlines() if line.startswith("#")]
    return " ".join(lines).replace("\\ ", "")


def test_the_cluster_file_is_one_that_ray_takes() -> None:
    (cluster,) = documents("ray-cluster.yaml")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    for node_type in cluster["available_node_types"].values():
        assert node_type["min_workers"] <= node_type["max_workers"] <= cluster["max_workers"]
    assert cluster["head_node_type"] in cluster["available_node_types"]
    command = re.search(r"(python -m study\.search .*?)'", comments("ray-cluster.yaml"))
    assert command is not None
    assert search(command[1]).gpus == 8 * cluster["available_node_types"]["gpus"]["max_workers"]


def test_the_kuberay_job_is_whole() -> None:
    job, secret = documents("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    options = search(job["spec"]["entrypoint"])
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for spec in (cluster["headGroupSpec"], group):
        (container,) = spec["template"]["spec"]["containers"]
        assert container["envFrom"][0]["secretRef"]["name"] == secret["metadata"]["name"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        volumes = {volume["name"] for volume in spec["template"]["spec"].get("volumes", [])}
        assert {mount["name"] for mount in container.get("volumeMounts", [])} == volumes
    gpus = int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert options.gpus == gpus * group["replicas"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_mlflow_services_fit_together() -> None:
    from mlflow.cli import cli

    (compose,) = documents("mlflow-compose.yaml")
    services = compose["services"]
    for service in services.values():
        assert set(service.get("depends_on", [])) <= services.keys()
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in compose["volumes"]
    text = (RECIPES / "mlflow-compose.yaml").read_text()
    variables = set(re.findall(r"(?<!\$)\$\{(\w+):\?\}", text))
    assert variables == set(
        re.findall(r"\b[A-Z0-9]+_[A-Z_]+\b|\b[A-Z]\w+_HOST\b", text.partition("# secrets.env")[2].partition("Then,")[0])
    )
    install, _, server = services["mlflow"]["command"][2].partition(" mlflow server ")
    assert "mlflow[auth]" in install
    context = cli.commands["server"].make_context("server", shlex.split(server))
    assert context.params["app_name"] == "basic-auth"
    uri = re.search(r"--storage '(s3://[^']*)'", comments("mlflow-compose.yaml"))
    assert uri is not None
    check_scheme(uri[1])


@pytest.mark.parametrize(
    ("folder", "kind", "is_local"),
    [
        ("/tmp/studies", "ext4", True),
        ("/home/me/studies", "nfs4", False),
        ("/home/scratch", "tmpfs", True),
        ("/homes", "ext4", True),
        ("/mnt/two words/x", "fuse.juicefs", False),
    ],
)
def test_which_file_systems_are_a_nodes_own(folder: str, kind: str, is_local: bool) -> None:
    assert filesystem(Path(folder), MOUNTS) == kind
    assert bool(LOCAL_FILESYSTEMS.fullmatch(kind)) == is_local


def test_trials_that_do_not_fit_into_a_gpu_are_a_users_mistake() -> None:
    estimate = Estimate(
        device="cuda", seconds=1, kept_bytes=1, running_bytes=1, peak_bytes=1_500_000_000, gpu_bytes=11_900_000_000
    )
    check_memory(estimate, 5)
    with pytest.raises(
        UserError, match=r"--trials-per-gpu 6 needs 12.0 GB .* 2.0 GB a trial, .* 11.9 GB: give at most 5"
    ):
        check_memory(estimate, 6)


def test_help_and_readme_say_the_same_five_lines_of_two_machines() -> None:
    lines = [line.strip() for line in CLUSTER.splitlines()[1:]]
    assert len(lines) == 5
    assert "\n".join(lines) in (ROOT / "study/engine/README.md").read_text()
    assert search(lines[-1]).gpus == 8
