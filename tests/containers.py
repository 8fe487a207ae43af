"""Containers of an image that was built from ``cluster/Dockerfile`` beforehand."""

import os
import shutil
import subprocess
import time
import uuid

import pytest

# What every service of compose.yaml and every pod of kuberay/ takes from its processes.
HARDENED = ("--cap-drop", "ALL", "--security-opt", "no-new-privileges")


class Containers:
    """Starts containers of one image by Docker's or Podman's program, and removes them."""

    def __init__(self):
        self.image = os.environ.get("STUDY_IMAGE")
        if not self.image:
            pytest.skip("build the image (docs/cluster/docker.md), and name it: STUDY_IMAGE=study:0.1.0-cpu")
        self.program = next(filter(self._has_image, ("docker", "podman")), None)
        if self.program is None:
            pytest.fail(f"STUDY_IMAGE: neither docker nor podman is here and has an image {self.image}")
        self.network = f"study-{uuid.uuid4().hex[:8]}"
        self._ask("network", "create", self.network)
        self.names = []

    def _has_image(self, program):
        words = [program, "image", "inspect", self.image]
        return shutil.which(program) and not subprocess.run(words, capture_output=True, check=False).returncode

    def _ask(self, *words, timeout=60):
        done = subprocess.run([self.program, *words], capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, (words, done.stderr[-2000:])
        return done.stdout

    def run(self, *words, options=(), timeout=400):
        """Run a command in a new container to its end."""
        command = [self.program, "run", "--rm", *options, self.image, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)

    def start(self, name, *words, options=()):
        """Start a container in the background; on the network of all, others find it by its name."""
        self.names.append(name)
        at = () if "--network" in options else ("--network", self.network, "--network-alias", name)
        self._ask(
            "run", "-d", "--name", f"{self.network}-{name}", "--hostname", name, *at, *options, self.image, *words
        )

    def inside(self, name, *words, timeout=400):
        """Run a command in a container that runs."""
        command = [self.program, "exec", f"{self.network}-{name}", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)

    def wait_for(self, name, *words, timeout=120):
        """Wait until a command in a container ends well."""
        end = time.monotonic() + timeout
        while (done := self.inside(name, *words)).returncode:
            assert time.monotonic() < end, (words, done.stdout[-2000:], done.stderr[-2000:], self.log(name)[-4000:])
            time.sleep(1)
        return done.stdout

    def log(self, name):
        """All that a container has printed."""
        words = [self.program, "logs", f"{self.network}-{name}"]
        return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout

    def stop(self, name, seconds=60):
        """End a container as its engine does: SIGTERM, and SIGKILL after ``seconds``."""
        self._ask("stop", "-t", str(seconds), f"{self.network}-{name}", timeout=seconds + 60)

    def remove(self, name):
        """Remove a container, so that another one may have its name."""
        self._ask("rm", "-f", "-v", f"{self.network}-{name}")
        self.names.remove(name)

    def close(self):
        """Remove all containers and their network."""
        for name in list(self.names):
            self.remove(name)
        self._ask("network", "rm", self.network)
