"""Compose file, Kubernetes manifests, systemd units, container file: what their own tools and schemas say, and least privilege."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
DEPLOY = PROJECT / "deploy"
KUBERNETES = "1.33"
JOBS = DEPLOY / "kubernetes" / "runs-as-jobs"
MANIFESTS = [*sorted((DEPLOY / "kubernetes").glob("*.yaml")), JOBS / "rights.yaml", JOBS / "network.yaml"]
PODS = {"Deployment", "StatefulSet"}
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
INSTALLED = "/opt/contimg/.venv/bin"
MOST_EXPOSED = 2.0
"""Exposure that ``systemd-analyze security`` may find at most, from 0 (safe) to 10; a unit without any option has 9.6."""


def _objects(path):
    return [found for found in yaml.safe_load_all(path.read_text()) if found]


def _all_objects():
    return [found for path in MANIFESTS for found in _objects(path)]


def _tool(name, package):
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return found


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """The compose file as docker-compose understands it."""
    command = [_tool("docker-compose", "docker-compose"), "-f", str(DEPLOY / "compose.yaml"), "config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_kubernetes_manifests_follow_the_schemas(path):
    """Every object is valid by the strict schemas of Kubernetes, which know no field that is not there."""
    for found in _objects(path):
        kubernetes_validate.validate(found, KUBERNETES, strict=True)


def test_a_wrong_manifest_is_found():
    """The schemas are really asked: a misspelt field is refused."""
    wrong = _objects(DEPLOY / "kubernetes" / "platform.yaml")[0]
    wrong["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_kubernetes_objects_refer_to_what_there_is():
    """Services, claims, configuration maps and network policies name pods and objects that exist; files are all listed."""
    objects = _all_objects()
    by_kind = {
        kind: {o["metadata"]["name"] for o in objects if o["kind"] == kind} for kind in {o["kind"] for o in objects}
    }
    kustomized = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())
    generated = {made["name"]: made["files"] for made in kustomized["configMapGenerator"]}
    component = yaml.safe_load((JOBS / "kustomization.yaml").read_text())
    listed = {DEPLOY / name for name in kustomized["resources"]} | {JOBS / name for name in component["resources"]}
    assert listed == set(MANIFESTS)
    pods = {o["metadata"]["name"] for o in objects if o["kind"] in PODS}
    text = "\n".join(path.read_text() for path in MANIFESTS)
    assert set(re.findall(r"claimName: (\S+?)[ }]", text)) == by_kind["PersistentVolumeClaim"]
    maps = set(re.findall(r"configMap(?:Ref)?: \{ name: ([\w-]+)", text))
    assert maps <= by_kind["ConfigMap"] | set(generated)
    assert set(re.findall(r"secretName: ([\w-]+)", text)) == {"contimg-secrets"}
    assert "Secret" not in by_kind
    for service in (o for o in objects if o["kind"] == "Service"):
        assert service["spec"]["selector"]["app"] in pods
    named = {name for group in re.findall(r"values: \[([^\]]+)\]", text) for name in group.split(", ")}
    assert named | set(re.findall(r"matchLabels: \{ app: ([\w-]+) \}", text)) <= pods
    files = [name for names in generated.values() for name in names]
    assert [name for name in files if name != "dagster.yaml" and not (DEPLOY / name).is_file()] == []


@pytest.mark.parametrize("found", [o for o in _all_objects() if o["kind"] in PODS], ids=lambda o: o["metadata"]["name"])
def test_pods_can_do_little(found):
    """No pod is root (but nginx until it has its ports), can write its image, gain rights, or use more than its limits."""
    pod = found["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    name = found["metadata"]["name"]
    assert pod["securityContext"].get("runAsNonRoot", False) is (name != "proxy")
    for container in pod["containers"]:
        rights = container["securityContext"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["capabilities"]["drop"] == ["ALL"]
        assert set(container["resources"]["limits"]) == {"cpu", "memory"}
        assert not any(word in str(container.get("env")).lower() for word in ("password,", "token,"))


def test_runs_as_jobs_are_what_dagster_k8s_takes():
    """The alternative instance differs in its launcher only, whose configuration is valid by dagster-k8s's own schema."""
    import dagster as dg
    from dagster._config import process_config
    from dagster_k8s import K8sRunLauncher

    instance = yaml.safe_load((JOBS / "dagster.yaml").read_text())
    launcher = instance["run_launcher"]
    assert instance | {"run_launcher": None} == yaml.safe_load((DEPLOY / "dagster.yaml").read_text()) | {
        "run_launcher": None
    }
    assert (launcher["module"], launcher["class"]) == ("dagster_k8s", "K8sRunLauncher")
    result = process_config(dg.Field(K8sRunLauncher.config_type()).config_type, launcher["config"])
    assert result.success, result.errors
    [secret] = [volume["secret"] for volume in launcher["config"]["volumes"] if "secret" in volume]
    assert [item["key"] for item in secret["items"]] == ["postgres_url"], "a run needs no other"


@pytest.fixture(scope="module", params=[False, True], ids=["workers", "jobs"])
def applied(request, tmp_path_factory):
    """What `kubectl apply -k deploy` applies, with and without the component whose line is commented out."""
    folder = tmp_path_factory.mktemp("kustomized") / "deploy"
    shutil.copytree(DEPLOY, folder, ignore=shutil.ignore_patterns("secrets"))
    if request.param:
        text = (folder / "kustomization.yaml").read_text()
        changed = text.replace("# components: [kubernetes/runs-as-jobs]", "components: [kubernetes/runs-as-jobs]")
        assert changed != text
        (folder / "kustomization.yaml").write_text(changed)
    command = [_tool("kubectl", "kubernetes-client"), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return request.param, [found for found in yaml.safe_load_all(done.stdout) if found]


def test_what_is_applied_follows_the_schemas(applied):
    """Kustomize's result, patches included, is valid by the strict schemas."""
    for found in applied[1]:
        kubernetes_validate.validate(found, KUBERNETES, strict=True)


def test_those_that_launch_runs_may_and_nobody_else(applied):
    """With runs as jobs daemon and operators' server have token, rights and a way to the API server, and there is no worker."""
    is_jobs, objects = applied
    pods = {o["metadata"]["name"]: o["spec"]["template"] for o in objects if o["kind"] in PODS}
    launching = {"daemon", "dagster"} if is_jobs else set()
    assert {name for name, pod in pods.items() if pod["spec"]["automountServiceAccountToken"]} == launching
    assert ({"worker", "store-worker"} & set(pods) == set()) is is_jobs
    [instance] = [o for o in objects if o["kind"] == "ConfigMap" and o["metadata"]["name"] == "contimg-instance"]
    launcher = yaml.safe_load(instance["data"]["dagster.yaml"])["run_launcher"]
    assert (launcher["class"] == "K8sRunLauncher") is is_jobs
    policies = [o["spec"] for o in objects if o["kind"] == "NetworkPolicy"]
    ways = [
        way for way in policies if any(port["port"] == 6443 for rule in way.get("egress", []) for port in rule["ports"])
    ]
    selected = [way["podSelector"]["matchLabels"].items() for way in ways]
    led = {
        name for name, pod in pods.items() if any(chosen <= pod["metadata"]["labels"].items() for chosen in selected)
    }
    assert led == launching
    if not is_jobs:
        return
    accounts = {pods[name]["spec"]["serviceAccountName"] for name in launching}
    [binding] = [o for o in objects if o["kind"] == "RoleBinding"]
    assert accounts == {subject["name"] for subject in binding["subjects"]} == {"contimg-runs"}
    [role] = [o for o in objects if o["kind"] == "Role"]
    rights = {(what, verb) for rule in role["rules"] for what in rule["resources"] for verb in rule["verbs"]}
    asked = {("jobs", "create"), ("jobs", "delete"), ("jobs/status", "get"), ("pods", "list"), ("pods", "delete")}
    assert asked | {("pods/log", "get"), ("events", "list")} <= rights


def test_compose_services_can_do_little(composed):
    """Of what compose starts only nginx publishes ports; all have read-only images, no capabilities and a limit of memory."""
    services = composed["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "memory" in service["deploy"]["resources"]["limits"], name
        assert not re.search(r"(PASSWORD|TOKEN)=", str(service.get("environment"))), name
    assert composed["networks"]["inner"]["internal"] is True
    assert set(services["proxy"]["networks"]) == {"web", "outside"}
    assert services["dagster-guests"]["command"][1] == "--read-only"
    assert not any(":/var/lib/contimg:" in str(volume) for volume in services["dagster-guests"]["volumes"])


def test_the_upstreams_are_services(composed):
    """The names and ports that nginx asks are services of compose and of Kubernetes."""
    asked = dict(re.findall(r"server ([\w-]+):(\d+);", (DEPLOY / "nginx" / "upstreams-containers.conf").read_text()))
    services = [o for o in _all_objects() if o["kind"] == "Service"]
    ports = {o["metadata"]["name"]: str(o["spec"]["ports"][0]["port"]) for o in services}
    for name, port in asked.items():
        assert ports[name] == port
        command = composed["services"][name]["command"]
        assert command[command.index("--port") + 1] == port


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    """Units with this environment's programs in place of those that an installation has."""
    folder = tmp_path_factory.mktemp("units")
    for path in (DEPLOY / "systemd").iterdir():
        text = path.read_text().replace("/opt/contimg-%i", "/opt/contimg")
        text = text.replace(INSTALLED, str(Path(sys.executable).parent))
        (folder / path.name).write_text(text.replace("/opt/contimg", str(PROJECT)))
    return folder


def test_units_are_valid(units):
    """``systemd-analyze verify`` has nothing to say about any unit."""
    tool = _tool("systemd-analyze", "systemd")
    for template in units.glob("*@.service"):
        template.with_name(template.name.replace("@.", "@one.")).write_text(template.read_text())
    names = [path.name for path in sorted(units.iterdir()) if "@." not in path.name]
    command = [tool, "verify", "--man=no", *[str(units / name) for name in names]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_units_are_hardened(path, units):
    """No unit runs as root or is more exposed than the limit, by systemd's own measure; only those that must may write."""
    tool = _tool("systemd-analyze", "systemd")
    command = [tool, "security", "--offline=true", f"--threshold={int(MOST_EXPOSED * 10)}", str(units / path.name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
    text = path.read_text()
    assert "User=contimg" in text
    assert ("ReadWritePaths" in text) is (path.stem != "contimg-dagster-guests")


def test_the_container_is_not_root_and_copies_what_there_is():
    """The image runs as a number other than 0, copies files that exist, and holds no secret."""
    lines = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ").splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["10001:10001"]
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    missing = [name for names in copied for name in names if not (PROJECT / name).exists()]
    assert [name for name in missing if name != "deploy/dagster.yaml"] == []
    assert not any(word in line.upper() for line in lines for word in ("PASSWORD", "TOKEN", "SECRET"))


def test_guests_and_the_receiver_know_no_more_than_they_use(composed):
    """Guests' Dagster knows no broker, the receiver of raw files neither broker nor database, whatever starts them."""
    allowed = {"dagster-guests": {"postgres_url"}, "ingest": {"contimg_agent__token"}}
    pods = {o["metadata"]["name"]: o["spec"]["template"] for o in _all_objects() if o["kind"] in PODS}
    for name, secrets in allowed.items():
        assert {secret["source"] for secret in composed["services"][name]["secrets"]} == secrets
        assert "BROKER" not in str(composed["services"][name]["environment"])
        assert "BROKER" not in str(pods[name]["spec"])
        assert "envFrom" not in pods[name]["spec"]["containers"][0], "the common settings name the broker's file"
        volumes = pods[name]["spec"]["volumes"]
        [items] = [volume["secret"]["items"] for volume in volumes if "secret" in volume]
        assert {item["key"] for item in items} == secrets
    for unit, secrets in {"contimg-dagster-guests": {"postgres_url"}, "contimg-receiver": allowed["ingest"]}.items():
        text = (DEPLOY / "systemd" / f"{unit}.service").read_text()
        assert set(re.findall(r"^LoadCredential=(\w+):", text, re.MULTILINE)) == secrets


def test_the_platforms_role_is_no_superuser(composed):
    """PostgreSQL's superuser is another one than the role in the platform's URL, and its password is the server's only."""
    variables = composed["services"]["postgres"]["environment"]
    assert (variables["POSTGRES_USER"], variables["POSTGRES_DB"]) == ("postgres", "contimg")
    who = [name for name, service in composed["services"].items() if "postgres_password" in str(service.get("secrets"))]
    assert who == ["postgres"]
    assert "create-owner.sh" in str(composed["services"]["postgres"]["volumes"])
    databases = (DEPLOY / "kubernetes" / "databases.yaml").read_text()
    assert "{ name: POSTGRES_USER, value: postgres }" in databases
    assert "mountPath: /docker-entrypoint-initdb.d" in databases
