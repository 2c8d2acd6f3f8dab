"""The files under cluster/deploy: each against the schema or the tool that its platform checks it with."""

import fnmatch
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from support import ROOT, kuberay_schema

from pipeline.system_check import SYSTEM_PACKAGES

DEPLOY = ROOT / "cluster" / "deploy"
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


def tool(name: str) -> str:
    """A checker that pip has put beside this Python."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    assert found, f"no {name}: make install-test"
    return found


def pinned(package: str) -> str:
    (version,) = re.findall(rf"^{package}==(.+)$", CONSTRAINTS, re.MULTILINE)
    return version


# --- container file ---------------------------------------------------------------------------------------------------


def containerfile() -> list[tuple[str, str]]:
    """Instructions, as (name, arguments), continuation lines joined."""
    lines = [line for line in (DEPLOY / "Containerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line]  # type: ignore[misc]


def test_hadolint_finds_nothing_in_the_container_file() -> None:
    found = subprocess.run([tool("hadolint"), DEPLOY / "Containerfile"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_image_has_every_system_library_and_runs_as_nobody_special() -> None:
    instructions = containerfile()
    (apt,) = [arguments for _, arguments in instructions if "apt-get install" in arguments]
    assert set(SYSTEM_PACKAGES.split()) <= set(apt.split())
    # `python -m pipeline.system_check` would do nothing: the module only defines.
    assert any("check.main()" in arguments for name, arguments in instructions if name == "RUN")
    users = [arguments for name, arguments in instructions if name == "USER"]
    assert users == ["1000:1000"]  # a number: Kubernetes' runAsNonRoot cannot judge a name
    environment = " ".join(arguments for name, arguments in instructions if name == "ENV")
    assert "RAY_AUTH_MODE=token" in environment
    assert "NVIDIA_VISIBLE_DEVICES=all" in environment


def test_the_image_takes_pinned_versions_and_the_extras_of_clusters() -> None:
    pip = [arguments for name, arguments in containerfile() if name == "RUN" and "pip install" in arguments]
    assert any("--constraint constraints.txt" in line and ".[cluster,s3]" in line for line in pip)
    assert all("--constraint" in line or "--no-deps" in line for line in pip)


def test_what_the_image_copies_is_there_and_what_it_does_not_need_is_kept_from_the_builder() -> None:
    rules = [
        line for line in (DEPLOY / "Containerfile.dockerignore").read_text().splitlines() if line and line[0] != "#"
    ]

    def sent(path: str) -> bool:
        """Whether the last rule that matches the path, or a folder that holds it, begins with !."""
        parts = path.split("/")
        names = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        result = True
        for rule in rules:
            pattern = rule.removeprefix("!").removeprefix("**/")
            if any(fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(Path(name).name, pattern) for name in names):
                result = rule.startswith("!")
        return result

    copied = [source for name, rest in containerfile() if name == "COPY" for source in rest.split()[:-1]]
    assert {"stages", "pipeline", "cluster", "constraints.txt"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists()
        assert sent(source)
    assert sent("pipeline/views/gallery/page_files/page.html")
    for path in (".git/config", ".venv/bin/python", "runs/first/run.json", ".env", "pipeline/__pycache__/cli.pyc"):
        assert not sent(path), path


# --- KubeRay ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    documents = yaml.safe_load_all((DEPLOY / "kuberay-rayjob.yaml").read_text())
    return {document["kind"]: document for document in documents}


def test_the_manifests_have_the_fields_that_kuberay_and_kubernetes_know(manifests: dict[str, Any]) -> None:
    assert set(manifests) == {"RayJob", "NetworkPolicy"}
    jsonschema.validate(manifests["RayJob"], kuberay_schema.RAY_JOB)
    jsonschema.validate(manifests["NetworkPolicy"], kuberay_schema.NETWORK_POLICY)


def test_the_schema_refuses_a_misspelt_field(manifests: dict[str, Any]) -> None:
    wrong = json.loads(json.dumps(manifests["RayJob"]))
    wrong["spec"]["rayClusterSpec"]["enableInTreeAutoscaler"] = True
    with pytest.raises(jsonschema.ValidationError, match="enableInTreeAutoscaler"):
        jsonschema.validate(wrong, kuberay_schema.RAY_JOB)


def test_rays_own_autoscaler_reads_the_groups_as_meant(manifests: dict[str, Any]) -> None:
    from ray.autoscaler._private.kuberay import autoscaling_config

    cluster = {
        "metadata": {"name": "cuts3d", "namespace": "cuts3d"},
        "spec": manifests["RayJob"]["spec"]["rayClusterSpec"],
    }
    config = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)
    types = config["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["gpu-spot"]["resources"]["GPU"] == 1
    assert "GPU" not in types["cpu-spot"]["resources"]
    workers = int(entrypoint(manifests)[entrypoint(manifests).index("--workers") + 1])
    assert workers == types["gpu-spot"]["max_workers"] * types["gpu-spot"]["resources"]["GPU"]
    assert types["gpu-spot"]["min_workers"] == types["cpu-spot"]["max_workers"] == 0


def entrypoint(manifests: dict[str, Any]) -> list[str]:
    return manifests["RayJob"]["spec"]["entrypoint"].split()


def test_the_entrypoint_is_safe_in_the_shell_that_kuberay_pastes_it_into(manifests: dict[str, Any]) -> None:
    # A cluster that starts without a GPU tells "--device auto" that there is none.
    assert entrypoint(manifests)[:6] == ["cuts3d", "run", "--ray", "auto", "--device", "cuda"]
    assert not set(manifests["RayJob"]["spec"]["entrypoint"]) & set("$;&|`'\"#<>()\n")


def test_the_ray_job_keeps_the_rules_of_kuberays_own_validation(manifests: dict[str, Any]) -> None:
    spec = manifests["RayJob"]["spec"]
    assert spec["shutdownAfterJobFinishes"]  # ttlSecondsAfterFinished is refused without
    assert spec["backoffLimit"] >= 1
    assert spec["rayClusterSpec"]["rayVersion"] == pinned("ray")


def test_the_manifests_ask_for_a_token_and_hold_no_secret(manifests: dict[str, Any]) -> None:
    cluster = manifests["RayJob"]["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "cuts3d-ray-token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    labels = manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
    for group in groups:
        template = group["template"]
        assert labels.items() <= template["metadata"]["labels"].items()
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        for container in template["spec"]["containers"]:
            assert container["envFrom"] == [{"secretRef": {"name": "cuts3d-s3"}}]
    assert all(group["template"]["spec"]["automountServiceAccountToken"] is False for group in groups[1:])


def test_workers_bear_the_taints_of_spot_nodes(manifests: dict[str, Any]) -> None:
    for group in manifests["RayJob"]["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        keys = {toleration["key"] for toleration in group["template"]["spec"]["tolerations"]}
        assert {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority", "spot"} <= keys


# --- cluster launcher -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def launcher() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "launcher-aws.yaml").read_text())


def test_ray_accepts_the_launchers_configuration(launcher: dict[str, Any]) -> None:
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(launcher, schema)
    prepared = prepare_config(json.loads(json.dumps(launcher)))
    validate_config(prepared)
    for key in ("head_start_ray_commands", "worker_start_ray_commands", "file_mounts"):
        assert prepared[key] == launcher[key]  # ours, not Ray's default with the dashboard on 0.0.0.0


@pytest.mark.slow
def test_nothing_but_ssh_and_the_nodes_themselves_gets_in(launcher: dict[str, Any], tmp_path: Path) -> None:
    """What Ray makes of the configuration in a (simulated) AWS account: security groups, key pair, subnets."""
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.util import prepare_config

    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setenv("AWS_ACCESS_KEY_ID", "simulated")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
        patch.setenv("HOME", str(tmp_path))  # where Ray puts the key pair
        region = launcher["provider"]["region"]
        config = bootstrap_aws(prepare_config(json.loads(json.dumps(launcher))))
        nodes = [kind["node_config"] for kind in config["available_node_types"].values()]
        groups = boto3.client("ec2", region).describe_security_groups(
            GroupIds=sorted({group for node in nodes for group in node["SecurityGroupIds"]})
        )["SecurityGroups"]
    rules = [rule for group in groups for rule in group["IpPermissions"]]
    from_outside = [rule for rule in rules if rule["IpRanges"] or rule["Ipv6Ranges"] or rule["PrefixListIds"]]
    assert [(rule["FromPort"], rule["ToPort"], rule["IpProtocol"]) for rule in from_outside] == [(22, 22, "tcp")]
    own = {group["GroupId"] for group in groups}
    assert {pair["GroupId"] for rule in rules for pair in rule["UserIdGroupPairs"]} <= own
    assert Path(config["auth"]["ssh_private_key"]).stat().st_mode & 0o077 == 0


def test_head_on_demand_and_workers_on_the_spot_market(launcher: dict[str, Any]) -> None:
    types = launcher["available_node_types"]
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    for name in ("gpu_spot", "cpu_spot"):
        assert types[name]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert types[name]["min_workers"] == 0
        assert "IamInstanceProfile" in types[name]["node_config"]  # credentials come from the node, not from a file
    assert types["gpu_spot"]["max_workers"] <= launcher["max_workers"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["head"]["max_workers"] == 0


def test_every_ray_of_the_launcher_wants_the_token_and_the_dashboard_stays_on_loopback(
    launcher: dict[str, Any],
) -> None:
    assert "~/.ray/auth_token" in launcher["file_mounts"]
    starts = [
        command
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in launcher[key]
        if "ray start" in command
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "0.0.0.0" not in json.dumps(launcher)


def test_the_launchers_nodes_get_every_system_library_and_pinned_versions(launcher: dict[str, Any]) -> None:
    setup = launcher["setup_commands"] + launcher["head_setup_commands"]
    (apt,) = [command for command in setup if "apt-get" in command and "install" in command]
    assert set(SYSTEM_PACKAGES.split()) <= set(apt.split())
    assert any("check.main()" in command for command in setup)
    for command in setup:
        if "pip install" in command:
            assert "--constraint ~/cuts3d/constraints.txt" in command or "--no-deps" in command
        check = [tool("shellcheck"), "--shell=bash", "--exclude=SC2016", "-"]  # what goes to .bashrc is expanded there
        checked = subprocess.run(check, input=command, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout


# --- Grafana ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return json.loads((DEPLOY / "grafana-dashboard.json").read_text())


def expressions(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_the_dashboard_shows_every_metric_and_no_other(dashboard: dict[str, Any]) -> None:
    from cluster.metrics import METRICS

    variables = [str(variable.get("definition", "")) for variable in dashboard["templating"]["list"]]
    exported = set(re.findall(r"\bray_(\w+)", " ".join(expressions(dashboard) + variables)))
    assert {re.sub("_bucket$", "", name) for name in exported} == set(METRICS)


def test_the_dashboard_asks_for_labels_that_the_metrics_have(dashboard: dict[str, Any]) -> None:
    from cluster.metrics import TAGS

    asked = [
        found
        for expression in expressions(dashboard)
        for found in re.findall(r"sum by \((\w+)\) \(\w+\(ray_(\w+?)(?:_bucket)?\{", expression)
    ]
    assert {label for label, _ in asked} == {"reason", "stage", "le"}
    assert all(label == "le" or label in TAGS[name] for label, name in asked)


def test_expressions_are_whole_and_of_the_chosen_run(dashboard: dict[str, Any]) -> None:
    closing = {")": "(", "]": "[", "}": "{"}
    for expression in expressions(dashboard):
        assert expression.count("ray_cuts3d_") == expression.count('{run=~"$run"}'), expression
        opened: list[str] = []
        for character in re.sub(r'"[^"]*"', "", expression):
            if character in closing.values():
                opened.append(character)
            elif character in closing:
                assert opened, expression
                assert opened.pop() == closing[character], expression
        assert not opened, expression
        # Ray makes a histogram's sum up from the middles of its buckets: a mean by it would be wrong.
        assert "duration_seconds_sum" not in expression


def test_the_dashboard_takes_any_prometheus_and_its_panels_do_not_overlap(dashboard: dict[str, Any]) -> None:
    assert dashboard["templating"]["list"][0]["type"] == "datasource"
    panels = dashboard["panels"]
    sources = [panel["datasource"] for panel in panels]
    sources += [target["datasource"] for panel in panels for target in panel["targets"]]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


# --- all of them ------------------------------------------------------------------------------------------------------


def test_the_readme_names_every_file() -> None:
    readme = (DEPLOY / "README.md").read_text()
    for file in DEPLOY.iterdir():
        assert file.name == "README.md" or file.name in readme, file.name
