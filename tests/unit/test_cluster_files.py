"""What can be held of cluster/ without its platforms: forms, versions, ports, secrets, and that every command parses.

The forms of KubeRay, Kubernetes and Compose stand in tests/schemas; Ray's own for its launcher comes with Ray.
"""

import copy
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

import study
from study.distributed import preemption
from tests.test_docs import Refused, commands, parse

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
PAGES = sorted((ROOT / "docs" / "cluster").glob("*.md"))
KUBERAY = sorted((CLUSTER / "kuberay").glob("*.yaml"))
LAUNCHER = [CLUSTER / "aws.yaml", CLUSTER / "gcp.yaml"]
FILES = [path for path in sorted(CLUSTER.rglob("*")) if path.is_file() and not {".env", "secrets"} & set(path.parts)]
SCRIPTS = [path for path in FILES if path.suffix in (".sh", ".sbatch")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKED = dict(
    line.split("==") for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines() if "==" in line
)
PINNED = {
    name: re.search(rf'"{re.escape(name)}[^"=]*==([0-9.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[1]
    for name in ("ray[", "torch")
}
DASHBOARD, OBJECTS, GCS = 8265, 8076, 6379


def text_of(path):
    return path.read_text(encoding="utf-8")


def documents(path):
    return list(yaml.safe_load_all(text_of(path)))


def only(path, kind):
    (found,) = [each for each in documents(path) if each["kind"] == kind]
    return found


def schema(name):
    return json.loads(text_of(ROOT / "tests" / "schemas" / f"{name}.json"))


def faults(document, form):
    return [f"{list(e.path)}: {e.message}" for e in jsonschema.Draft7Validator(form).iter_errors(document)]


def kube_form(kind):
    whole = schema("kuberay")
    (form,) = [each for each in whole["oneOf"] if each["properties"]["kind"]["const"] == kind]
    return form | {"definitions": whole["definitions"]}


def ray_cluster(path):
    """The specification of the Ray cluster in a file of KubeRay."""
    kinds = {each["kind"]: each for each in documents(path)}
    return kinds["RayCluster"]["spec"] if "RayCluster" in kinds else kinds["RayJob"]["spec"]["rayClusterSpec"]


def pods(path):
    """The pods that a file of KubeRay asks for, by name."""
    spec = ray_cluster(path)
    found = {"head": spec["headGroupSpec"]["template"]}
    found |= {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    for each in documents(path):
        if each["kind"] == "RayJob":
            found["submitter"] = each["spec"]["submitterPodTemplate"]
    return found


def containers(path):
    return [each for pod in pods(path).values() for each in pod["spec"]["containers"]]


def compose():
    return yaml.safe_load(text_of(CLUSTER / "compose.yaml"))


def instructions():
    """The instructions of the Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in text_of(CLUSTER / "Dockerfile").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]


def parse_ray(words):
    """Parse a command of Ray as it does itself, and run nothing."""
    import click
    from ray.scripts.scripts import cli

    if words[0] not in cli.commands:
        raise Refused(f"ray has no command {words[0]}")
    try:
        cli.commands[words[0]].make_context(words[0], list(words[1:]))
    except click.exceptions.Exit:
        return
    except click.ClickException as error:
        raise Refused(f"ray {' '.join(words)}: {error.format_message()}") from error


def calls(line, program):
    """The arguments of every call of a program in a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words = []
    for word in [*lexer, ";"]:
        if re.fullmatch(r"[|&;<>]+", word):
            if words and Path(words[0]).name == program:
                yield tuple(words[1:])
            words = []
        else:
            words.append(word)


class TestForms:
    """Every file has the form that its platform reads."""

    @pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
    def test_kuberay(self, path):
        """Each document has only fields that its kind knows, of the right kind."""
        for document in documents(path):
            assert faults(document, kube_form(document["kind"])) == []

    def test_compose(self):
        """Compose knows every key."""
        assert faults(compose(), schema("compose")) == []

    @pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.name)
    def test_launcher(self, path):
        """Ray fills in what is left out and checks the whole with its own schema, as `ray up` does first."""
        from ray.autoscaler._private.util import prepare_config, validate_config

        config = yaml.safe_load(text_of(path))
        whole = prepare_config(copy.deepcopy(config))
        validate_config(whole)
        assert whole["cluster_name"] == "study"
        assert whole["head_start_ray_commands"] == config["head_start_ray_commands"]

    @pytest.mark.parametrize(
        ("kind", "path", "value"),
        [
            ("RayJob", ("spec", "backofLimit"), 3),
            ("RayJob", ("spec", "rayClusterSpec", "authOptions", "mode"), "tokens"),
            ("RayJob", ("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
            ("RayJob", ("spec", "rayClusterSpec", "autoscalerOptions", "version"), 2),
            ("NetworkPolicy", ("spec", "ingres"), []),
            ("PersistentVolumeClaim", ("spec", "resources", "requests", "storage"), "200 GB"),
        ],
    )
    def test_a_fault_is_seen(self, kind, path, value):
        """The forms refuse a misspelt key and a value of the wrong kind."""
        document = copy.deepcopy(only(CLUSTER / "kuberay" / "rayjob.yaml", kind))
        at = document
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        assert len(faults(document, kube_form(kind))) == 1

    def test_a_fault_of_compose_is_seen(self):
        """A misspelt key and a time without a unit are refused."""
        document = compose()
        document["services"]["mlflow"]["port"] = ["5000"]
        document["services"]["s3"]["healthcheck"]["interval"] = 5
        assert len(faults(document, schema("compose"))) == 2


class TestVersions:
    """Images and versions agree with pyproject.toml, requirements.lock and each other."""

    def test_ray(self):
        """Ray is pinned once, and every cluster of KubeRay asks for that one."""
        assert PINNED["ray["] == LOCKED["ray"]
        for path in KUBERAY:
            assert ray_cluster(path)["rayVersion"] == LOCKED["ray"]

    def test_own_images(self):
        """Every image of ours has the version of the program, and is one of the two that the Dockerfile makes."""
        images = [each["image"] for path in KUBERAY for each in containers(path)]
        images += [each["image"] for each in compose()["services"].values() if each["image"].startswith("study")]
        assert len(images) >= 7
        assert set(images) == {f"study:{study.__version__}-{device}" for device in ("cpu", "cuda")}
        built = re.findall(r"docker build .*--build-arg DEVICE=(\w+) +-t (\S+)", text_of(CLUSTER / "Dockerfile"))
        assert {image for _, image in built} == set(images)
        assert all(image.endswith(f"-{device}") for device, image in built)
        assert f'version="{study.__version__}"' in text_of(CLUSTER / "Dockerfile")

    def test_gpus_have_the_image_for_cuda(self):
        """Who asks for a GPU gets the image for CUDA, and nobody else."""
        for path in KUBERAY:
            for each in containers(path):
                wants = "nvidia.com/gpu" in each["resources"]["limits"]
                assert each["image"].endswith("-cuda") == wants, each["name"]

    def test_tags_are_pinned(self):
        """No image moves under its tag: each tag has a version with two parts at least."""
        images = [each["image"] for each in compose()["services"].values()]
        images.append("python:" + re.search(r"ARG PYTHON=(\S+)", text_of(CLUSTER / "Dockerfile"))[1])
        for image in images:
            assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.-]*", image), image

    def test_python(self):
        """The image's Python and that of the clouds' machines are ones that the project accepts."""
        low, high = re.findall(r"3\.(\d+)", PROJECT["project"]["requires-python"])
        image = re.search(r"ARG PYTHON=3\.(\d+)", text_of(CLUSTER / "Dockerfile"))[1]
        machines = [minor for path in LAUNCHER for minor in re.findall(r"python3\.(\d+)", text_of(path))]
        assert machines
        assert all(int(low) <= int(minor) < int(high) for minor in [image, *machines])

    def test_extras_are_locked(self):
        """What the image installs beside the project is an extra of it, and has an exact version in the lock file."""
        extras = PROJECT["project"]["optional-dependencies"]
        (asked,) = re.findall(r"'\.\[([\w,]+)\]'", text_of(CLUSTER / "Dockerfile"))
        locked = {name.lower() for name in LOCKED}
        for extra in asked.split(","):
            names = {re.match(r"[\w-]+", each)[0].lower() for each in extras[extra]}
            assert names <= locked
        assert "server" in asked


class TestCommands:
    """Every command line in the files is one that the program, or Ray, accepts."""

    def test_entry_point(self):
        """It names its storage, so that the next try finds the study of the one before."""
        words = shlex.split(only(CLUSTER / "kuberay" / "rayjob.yaml", "RayJob")["spec"]["entrypoint"])
        assert words[0] == "study"
        parse(tuple(words[1:]))
        assert words[1] == "run"
        assert words[words.index("--storage") + 1].startswith("/storage/")

    @pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
    def test_start_parameters(self, path):
        """What the operator makes of rayStartParams is a command of Ray."""
        spec = ray_cluster(path)
        groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
        for group, first in zip(groups, ["--head", *["--address=head:6379"] * len(groups)], strict=False):
            flags = [
                f"--{key}" if value == "true" else f"--{key}={value}" for key, value in group["rayStartParams"].items()
            ]
            parse_ray(("start", first, *flags))

    @pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.name)
    def test_launcher(self, path):
        """Head and workers call Ray with ports that fit."""
        config = yaml.safe_load(text_of(path))
        found = []
        for key in ("head_start_ray_commands", "worker_start_ray_commands"):
            for line in config[key]:
                found += list(calls(line, "ray"))
        assert [words[0] for words in found] == ["stop", "start", "stop", "start"], found
        for words in found:
            parse_ray(words)
        started = [words for words in found if words[0] == "start"]
        assert all(f"--object-manager-port={OBJECTS}" in words for words in started)
        assert f"--port={GCS}" in started[0]
        assert f"--address=$RAY_HEAD_IP:{GCS}" in started[1]
        assert f"--dashboard-port={DASHBOARD}" in started[0]

    @pytest.mark.parametrize("path", [*KUBERAY, *LAUNCHER], ids=lambda path: path.name)
    def test_watcher(self, path):
        """Every worker watches for its cloud's notice, with options that the watcher knows."""
        watcher = pytest.importorskip("study.distributed.preemption")
        if path in LAUNCHER:
            (line,) = [
                each for each in yaml.safe_load(text_of(path))["worker_start_ray_commands"] if "preemption" in each
            ]
        else:
            (worker,) = pods(path)["gpu"]["spec"]["containers"]
            line = worker["lifecycle"]["postStart"]["exec"]["command"][-1]
            cloud = {each["name"]: each.get("value") for each in worker["env"]}["STUDY_CLOUD"]
            line = (
                line.replace("$STUDY_CLOUD", cloud).replace("$RAY_ADDRESS", "head:6379").replace("$POD_IP", "10.0.0.1")
            )
        assert line.rstrip().endswith("2>&1 &")
        (words,) = calls(line.split("nohup ", 1)[1].split("<")[0], "python")
        assert words[:2] == ("-m", "study.distributed.preemption")
        asked = watcher._parsed(words[2:])
        assert asked.cloud == (path.stem if path in LAUNCHER else "aws")

    @pytest.mark.parametrize("path", [*KUBERAY, *LAUNCHER, CLUSTER / "compose.yaml"], ids=lambda path: path.name)
    def test_first_lines(self, path):
        """The commands in the comment at the head of a file name that file, and Ray's are accepted."""
        head = [line[4:] for line in text_of(path).splitlines()[:8] if line.startswith("#   ")]
        assert str(path.relative_to(ROOT)) in " ".join(head)
        for line in head:
            for part in re.split(r"\s{3,}", line):
                for words in calls(part, "ray"):
                    parse_ray(words)

    @pytest.mark.parametrize("line", ["start --haed", "stat", "up", "start --head --num-cpus=many"])
    def test_wrong_commands_are_seen(self, line):
        """A command, an option or a value that Ray does not have is refused by the parser used here."""
        with pytest.raises(Refused):
            parse_ray(tuple(line.split()))

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_pages(self, page):
        """The commands of `study` and of Ray on a page are accepted."""
        import typer

        from study.cli import app

        verbs = typer.main.get_command(app).commands
        for words in commands(text_of(page), "study"):
            to_come = words[0] in verbs and verbs[words[0]].context_settings.get("ignore_unknown_options")
            if not to_come:
                parse(words)
        for words in commands(text_of(page), "ray"):
            parse_ray(words)


class TestPages:
    """Each kind has a page, and the pages speak of what is there."""

    NEEDED = ("Needs", "Start", "What you should see", "Cost", "Remove")

    @pytest.mark.parametrize("page", [page for page in PAGES if page.name != "README.md"], ids=lambda page: page.name)
    def test_parts(self, page):
        """It says what is needed, how to start, what to see, what it costs and how to remove it."""
        headings = re.findall(r"^## (.+)$", text_of(page), flags=re.MULTILINE)
        assert [name for name in self.NEEDED if not any(each.startswith(name) for each in headings)] == []

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_files_exist(self, page):
        """Files and pages that it names or links to are there."""
        named = set(re.findall(r"(?<![\w/.~-])(?:cluster|docs|tests|search_spaces)/[\w./-]+\.\w+", text_of(page)))
        assert {name for name in named if not (ROOT / name).exists() and "secrets/" not in name} == set()
        links = set(re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text_of(page)))
        assert {link for link in links if not (page.parent / link).exists()} == set()

    def test_index(self):
        """The index links every page and names every file of the folder."""
        index = text_of(ROOT / "docs" / "cluster" / "README.md")
        assert {page.name for page in PAGES} - {"README.md"} <= set(re.findall(r"\]\(([\w-]+\.md)\)", index))
        names = {path.relative_to(CLUSTER).parts[0] for path in FILES} - {"Dockerfile.dockerignore", "compose"}
        assert {name for name in names if f"cluster/{name}" not in index} == set()


class TestNobodyGetsIn:
    """Nothing listens publicly, nobody is root, and no secret stands in a file."""

    def test_compose_ports(self):
        """Every port is bound to 127.0.0.1, and no two services ask for one."""
        ports = [port for each in compose()["services"].values() for port in each.get("ports", ())]
        assert len(ports) >= 4
        assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
        assert len({port.split(":")[1] for port in ports}) == len(ports)

    def test_compose_services_are_held(self):
        """Capabilities are dropped, no privileges are gained, and each says how its health is seen."""
        for name, each in compose()["services"].items():
            assert each["cap_drop"] == ["ALL"], name
            assert "no-new-privileges:true" in each["security_opt"], name
            assert each["healthcheck"]["test"][0] == "CMD", name
            assert not {"privileged", "network_mode", "pid"} & set(each), name
            if each["image"].startswith("study"):
                assert each["read_only"], name
                assert "${STUDY_UID" in each["user"], name

    def test_compose_secrets(self):
        """Passwords come from files; none stands in the environment; each file is used and made by the script."""
        whole = compose()
        used = {name for each in whole["services"].values() for name in each.get("secrets", ())}
        assert used == set(whole["secrets"])
        assert all(each == {"file": f"./compose/secrets/{name}"} for name, each in whole["secrets"].items())
        made = set(re.findall(r"^keep_or_make (\S+)", text_of(CLUSTER / "compose" / "secrets.sh"), flags=re.MULTILINE))
        assert made == used
        for each in whole["services"].values():
            for key, value in each.get("environment", {}).items():
                assert not re.search("PASSWORD|SECRET|TOKEN|KEY", key) or str(value).startswith("/run/secrets/"), key

    def test_compose_servers_read_what_they_are_given(self):
        """Each script of the image reads just the secrets that its service gets."""
        for service, script in (("mlflow", "mlflow-server.sh"), ("optuna", "optuna-server.sh")):
            each = compose()["services"][service]
            assert each["command"] == [f"/opt/study/libexec/{script}"]
            text = text_of(CLUSTER / "compose" / script)
            assert {name for name in compose()["secrets"] if re.search(rf"\b{name}\b", text)} == set(each["secrets"])
            assert f"compose/{script}" in text_of(CLUSTER / "Dockerfile")

    def test_secrets_script(self, tmp_path):
        """It makes files of mode 600 in a folder of mode 700, different ones each time, and keeps what is there."""
        for place in ("a", "b"):
            (tmp_path / place / "compose").mkdir(parents=True)
            shutil.copy(CLUSTER / "compose" / "secrets.sh", tmp_path / place / "compose")
            subprocess.run([tmp_path / place / "compose" / "secrets.sh"], check=True, capture_output=True)
        made = {
            place: {p.name: p.read_text() for p in (tmp_path / place / "compose/secrets").iterdir()} for place in "ab"
        }
        assert set(made["a"]) == set(compose()["secrets"])
        assert not set(made["a"].values()) & set(made["b"].values())
        assert all(len(value) >= 20 for value in made["a"].values())
        folder = tmp_path / "a" / "compose" / "secrets"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
        identities = json.loads(made["a"]["s3_identities.json"])["identities"]
        assert identities[0]["credentials"] == [
            {"accessKey": made["a"]["s3_access_key"], "secretKey": made["a"]["s3_secret_key"]}
        ]
        assert f"STUDY_UID={os.getuid()}" in (tmp_path / "a" / ".env").read_text()
        subprocess.run([tmp_path / "a" / "compose" / "secrets.sh"], check=True, capture_output=True)
        assert {p.name: p.read_text() for p in folder.iterdir()} == made["a"]

    def test_secrets_are_not_committed(self):
        """git leaves out what the script makes."""
        ignored = text_of(ROOT / ".gitignore").splitlines()
        assert {"/cluster/compose/secrets/", "/cluster/.env"} <= set(ignored)

    @pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
    def test_kuberay_tokens_and_secrets(self, path):
        """Token mode is on; the addresses of the servers come from a Secret and reach the head alone."""
        assert ray_cluster(path)["authOptions"] == {"mode": "token"}
        assert not [each for each in documents(path) if each["kind"] == "Secret"]
        for name, pod in pods(path).items():
            variables = [each for one in pod["spec"]["containers"] for each in one.get("env", ())]
            asked = {each["name"] for each in variables if "secretKeyRef" in each.get("valueFrom", ())}
            assert {each["name"] for each in variables} - asked <= {"STUDY_CLOUD", "POD_IP"}
            wanted = {"STUDY_LEDGER_URL", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}
            assert asked == (wanted if name == "head" else set()), name

    @pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
    def test_kuberay_pods(self, path):
        """No pod is root or keeps a capability; only the head, whose autoscaler needs it, has a token of Kubernetes."""
        assert ray_cluster(path)["headGroupSpec"]["serviceType"] == "ClusterIP"
        for name, pod in pods(path).items():
            spec = pod["spec"]
            assert spec["securityContext"]["runAsNonRoot"], name
            assert spec["securityContext"]["runAsUser"] == 1000, name
            assert spec.get("automountServiceAccountToken", True) == (name == "head"), name
            for each in spec["containers"]:
                assert each["securityContext"]["allowPrivilegeEscalation"] is False
                assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
                assert each["resources"]["limits"].keys() >= each["resources"]["requests"].keys()
                assert not any("hostPort" in port for port in each.get("ports", ()))
        assert ray_cluster(path)["autoscalerOptions"]["securityContext"]["runAsNonRoot"]

    @pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
    def test_network_policy(self, path):
        """It covers every pod, both ways; who comes in is a pod of the study or the operator, none by address."""
        policy = only(path, "NetworkPolicy")["spec"]
        covered = policy["podSelector"]["matchLabels"]
        assert all(covered.items() <= pod["metadata"]["labels"].items() for pod in pods(path).values())
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        peers = [peer for rule in policy["ingress"] for peer in rule["from"]]
        assert all(peer and "ipBlock" not in peer for peer in peers)
        assert {tuple(peer["podSelector"]["matchLabels"].values()) for peer in peers} == {
            ("study",),
            ("kuberay-operator",),
        }
        operator = [rule for rule in policy["ingress"] if "namespaceSelector" in rule["from"][0]]
        assert DASHBOARD in [port["port"] for rule in operator for port in rule["ports"]]

    def test_shared_objects_agree(self):
        """Both files of KubeRay may be applied: what both hold is the same."""
        for kind in ("PersistentVolumeClaim", "NetworkPolicy"):
            assert len({json.dumps(only(path, kind)) for path in KUBERAY}) == 1

    @pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.name)
    def test_launcher(self, path):
        """Token mode on every node, the dashboard on 127.0.0.1, the token as a file, and nothing inline."""
        config = yaml.safe_load(text_of(path))
        starts = [line for key in ("head_start_ray_commands", "worker_start_ray_commands") for line in config[key]]
        starts = [line for line in starts if "ray start" in line]
        assert len(starts) == 2
        assert all("RAY_AUTH_MODE=token" in line and 'PATH="$HOME/venv/bin:$PATH"' in line for line in starts)
        assert "--dashboard-host=127.0.0.1" in starts[0]
        assert "0.0.0.0" not in text_of(path)
        assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
        assert any("chmod 600 ~/.ray/auth_token" in line for line in config["setup_commands"])

    @pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.name)
    def test_what_travels(self, path, tmp_path):
        """rsync, with the options that Ray gives it, leaves out data, studies and keys, and takes the whole program."""
        if not shutil.which("rsync"):
            pytest.skip("rsync is not installed on this machine")
        config = yaml.safe_load(text_of(path))
        wanted = {"study/data/a.py", "study/b.py", "requirements.lock", "pyproject.toml", "cluster/aws.yaml"}
        others = {
            "data/a.dcm",
            "studies/a/b",
            ".git/config",
            ".venv/x",
            "study/a.key",
            "cluster/.env",
            ".study-jobs/1/token",
        }
        others |= {"cluster/compose/secrets/s3_secret_key", "notebooks/a.ipynb", "study/__pycache__/a.pyc"}
        for name in wanted | others:
            (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "a" / name).touch()
        shutil.copy(ROOT / ".gitignore", tmp_path / "a")
        options = [word for each in config["rsync_exclude"] for word in ("--exclude", each)]
        options += [word for each in config["rsync_filter"] for word in ("--filter", f"dir-merge,- {each}")]
        subprocess.run(["rsync", "-az", *options, f"{tmp_path}/a/", tmp_path / "b"], check=True)
        sent = {str(each.relative_to(tmp_path / "b")) for each in (tmp_path / "b").rglob("*") if each.is_file()}
        assert sent == wanted | {".gitignore"}

    def test_security_group(self):
        """Every node of EC2 names a group, since Ray would make one that lets all the world in by SSH."""
        nodes = yaml.safe_load(text_of(CLUSTER / "aws.yaml"))["available_node_types"].values()
        assert all(node["node_config"]["SecurityGroupIds"] for node in nodes)
        assert all(node["node_config"]["MetadataOptions"]["HttpTokens"] == "required" for node in nodes)
        assert "0.0.0.0/0" not in text_of(ROOT / "docs" / "cluster" / "aws.md").replace("`0.0.0.0/0`", "")

    @pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
    def test_no_secret_stands_in_a_file(self, path):
        """No password, no key and no token: nothing that is assigned a literal, no URL with a password."""
        text = text_of(path)
        assert not re.search(r"://[^\s/:@${]+:[^\s@${]+@", text)
        assert not re.search(
            r"(?i)(password|secret_key|token|access_key)\s*[:=]\s*[\"']?[A-Za-z0-9+/]{8,}(?![\w./$~-])", text
        )
        assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN", text)


class TestCosts:
    """Workers are spot, the head is not, and what is idle goes."""

    @pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
    def test_kuberay(self, path):
        """The autoscaler is on, idle workers go, and both kinds of pod name the same marks of spot nodes."""
        spec = ray_cluster(path)
        assert spec["enableInTreeAutoscaling"]
        assert spec["autoscalerOptions"]["version"] == "v2"
        assert 60 <= spec["autoscalerOptions"]["idleTimeoutSeconds"] <= 900
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        terms = {}
        for name, pod in pods(path).items():
            if "affinity" in pod["spec"]:
                node = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
                terms[name] = [each for term in node["nodeSelectorTerms"] for each in term["matchExpressions"]]
        marks = {(each["key"], *each["values"]) for each in terms["gpu"]}
        assert marks == {(each["key"], *each["values"]) for each in terms["head"]}
        assert {each["operator"] for each in terms["gpu"]} == {"In"}
        assert {each["operator"] for each in terms["head"]} == {"NotIn"}
        assert all(group["minReplicas"] >= 1 for group in spec["workerGroupSpecs"])

    def test_job(self):
        """A job goes with its cluster, has an end, and tries again in a new one."""
        spec = only(CLUSTER / "kuberay" / "rayjob.yaml", "RayJob")["spec"]
        assert spec["shutdownAfterJobFinishes"]
        assert spec["ttlSecondsAfterFinished"] <= 3600
        assert spec["activeDeadlineSeconds"] > 0
        assert spec["backoffLimit"] >= 1

    def test_spot_machines(self):
        """The clouds' workers are spot and go when idle; the head is not, and runs no trial."""
        aws, gcp = (yaml.safe_load(text_of(path)) for path in LAUNCHER)
        for config in (aws, gcp):
            assert config["idle_timeout_minutes"] <= 15
            assert config["head_node_type"] == "head"
            assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}
        assert aws["provider"]["cache_stopped_nodes"] is False
        node = {name: each["node_config"] for name, each in aws["available_node_types"].items()}
        assert node["gpu"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert "InstanceMarketOptions" not in node["head"]
        node = {name: each["node_config"] for name, each in gcp["available_node_types"].items()}
        assert node["gpu"]["scheduling"]["provisioningModel"] == "SPOT"
        assert "scheduling" not in node["head"]

    def test_time_to_save(self):
        """The head's pod waits until the driver has saved; workers get what a cloud gives."""
        job = only(CLUSTER / "kuberay" / "rayjob.yaml", "RayJob")["spec"]
        waits = int(yaml.safe_load(job["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"])
        assert waits >= 120
        for path in KUBERAY:
            spec = pods(path)["head"]["spec"]
            assert spec["terminationGracePeriodSeconds"] >= 120
            (head,) = spec["containers"]
            assert "pkill -TERM -x study" in head["lifecycle"]["preStop"]["exec"]["command"][-1]
            spec = pods(path)["gpu"]["spec"]
            assert spec["terminationGracePeriodSeconds"] >= 120
            (worker,) = spec["containers"]
            line = worker["lifecycle"]["preStop"]["exec"]["command"][-1]
            (words,) = calls(
                line.split("<")[0].replace("$RAY_ADDRESS", "head:6379").replace("$POD_IP", "10.0.0.1"), "python"
            )
            assert words[:2] == ("-m", "study.distributed.preemption")
            asked = preemption._parsed(words[2:])
            assert (asked.cloud, asked.address, asked.node_ip) == (None, "head:6379", "10.0.0.1")
            assert 90 <= asked.now <= spec["terminationGracePeriodSeconds"] - 15  # for Ray's own end


class TestDockerfile:
    """What a linter of Dockerfiles would say, as far as it matters here."""

    def test_user(self):
        """It ends as a user that is not root, given by number, since Kubernetes cannot look names up."""
        names = [name for name, *_ in instructions()]
        users = [rest for name, rest in instructions() if name == "USER"]
        assert users[-1] == "1000:1000"
        assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")

    def test_packages(self):
        """apt installs no recommendations and leaves no lists; pip keeps no cache and follows the lock file."""
        runs = [rest for name, rest in instructions() if name == "RUN"]
        for run in runs:
            assert run.count("apt-get install") == run.count("--no-install-recommends")
            assert ("apt-get update" in run) == ("rm -rf /var/lib/apt/lists/*" in run)
            assert run.count("pip install") == run.count("-c requirements.lock") + run.count("--no-deps")
            assert "sudo" not in run
        assert any("PIP_NO_CACHE_DIR=1" in rest for name, rest in instructions() if name == "ENV")

    def test_nothing_from_outside(self):
        """Nothing is added from an address, no argument carries a secret, and pipes fail with their first part."""
        assert "ADD" not in [name for name, *_ in instructions()]
        arguments = {rest.split("=")[0] for name, rest in instructions() if name in ("ARG", "ENV")}
        assert not [each for each in arguments if re.search("PASSWORD|SECRET|TOKEN", each)]
        assert [rest for name, rest in instructions() if name == "SHELL"] == [
            '["/bin/bash", "-o", "pipefail", "-c"]'
        ] * 2

    def test_two_stages(self):
        """The compiler that builds the packages stays behind."""
        stages = [i for i, (name, *_) in enumerate(instructions()) if name == "FROM"]
        assert len(stages) == 2
        last = " ".join(rest for _, rest in instructions()[stages[1] :])
        assert "build-essential" not in last
        assert "COPY --from=build" in text_of(CLUSTER / "Dockerfile")

    def test_context(self):
        """All is left out but what is named, and everything that is copied is named."""
        lines = [
            line for line in text_of(CLUSTER / "Dockerfile.dockerignore").splitlines() if line[:1] not in ("", "#")
        ]
        assert lines[0] == "*"
        let_in = {line[1:] for line in lines if line.startswith("!")}
        copied = [rest for name, rest in instructions() if name == "COPY" and "--from" not in rest]
        sources = {w for rest in copied for w in rest.split()[:-1] if not w.startswith("--")}
        assert sources <= let_in
        assert all((ROOT / each).exists() for each in let_in)
        assert not let_in & {"data", "studies", ".git", ".venv", "tests"}

    def test_what_travels(self, tmp_path):
        """By the rules of Docker's own client no data, study, key, password or history gets into the image."""
        from docker.utils.build import exclude_paths

        wanted = {"requirements.lock", "pyproject.toml", "README.md", "LICENSE", "study/a/b.py", "search_spaces/a.yaml"}
        wanted |= {"cluster/compose/mlflow-server.sh", "cluster/compose/optuna-server.sh"}
        others = {
            "data/a.dcm",
            "studies/a/ledger.db",
            ".git/config",
            ".venv/bin/python",
            "a.key",
            "study/a.key",
            "my.yaml",
        }
        others |= {
            "cluster/.env",
            "cluster/compose/secrets/s3_secret_key",
            "cluster/aws.yaml",
            "study/__pycache__/a.pyc",
        }
        for name in wanted | others:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        sent = exclude_paths(str(tmp_path), text_of(CLUSTER / "Dockerfile.dockerignore").splitlines())
        assert {each for each in sent if (tmp_path / each).is_file()} == wanted

    def test_probes_of_kuberay(self):
        """The operator's probes call wget, its start line bash; preStop calls pkill."""
        last = [rest for name, rest in instructions() if name == "RUN"][-1]
        assert {"procps", "wget"} <= set(last.split())


class TestScripts:
    """Shell scripts hold what a shell and its linter ask for."""

    @pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
    def test_syntax(self, path):
        """Its shell reads it, and it stops at the first fault."""
        first, *_ = text_of(path).splitlines()
        shell = "bash" if first.endswith("bash") else "sh"
        assert subprocess.run([shell, "-n", path], capture_output=True, text=True, check=False).stderr == ""
        assert re.search(r"^set -e", text_of(path), flags=re.MULTILINE)
        assert path.suffix == ".sbatch" or os.access(path, os.X_OK)

    def test_what_slurm_did_not_start(self, tmp_path):
        """The script says what is missing instead of naming an unbound variable, and knows a wrong number at once."""
        script = CLUSTER / "slurm" / "study.sbatch"
        names = ("JOB_ID", "JOB_NUM_NODES", "JOB_NODELIST", "SUBMIT_DIR", "CPUS_ON_NODE")
        given = {f"SLURM_{name}": "1" for name in names} | {"PATH": os.environ["PATH"], "STUDY_JOBS": str(tmp_path)}
        for environ, code, words in (
            ({"PATH": os.environ["PATH"]}, 3, "SLURM_JOB_ID is not set; Slurm starts this script"),
            (given | {"STUDY_MOST_STARTS": "many"}, 2, "STUDY_MOST_STARTS is many; expected a whole number"),
        ):
            done = subprocess.run(
                ["bash", script, "my.yaml"], env=environ, capture_output=True, text=True, check=False, cwd=tmp_path
            )
            assert (done.returncode, words in done.stderr) == (code, True), done.stderr
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
    def test_shellcheck(self, path):
        """The linter finds nothing."""
        if not shutil.which("shellcheck"):
            pytest.skip("shellcheck is not installed on this machine (apt-get install shellcheck)")
        shell = "bash" if text_of(path).splitlines()[0].endswith("bash") else "sh"
        done = subprocess.run(["shellcheck", "--shell", shell, path], capture_output=True, text=True, check=False)
        assert done.stdout == ""
