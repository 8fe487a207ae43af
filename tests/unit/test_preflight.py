"""Checks against the world: data, network and machine, before anything starts."""

import pytest

from study.config import ResourcesConfig
from study.config.load import check_raw
from study.distributed.cluster import Capacity
from study.distributed.preflight import check_world, fitting_slots, resource_faults

TWO_CORES = Capacity(cpus=2.0, gpus=0.0, node_cpus=2.0, node_gpus=0.0)


def raw(tmp_path, *, patients=20, prepared=None, **more):
    source = {"kind": "phantom", "name": "site_a", "patients": patients}
    return {"study": "x", "data": {"prepared": prepared or str(tmp_path / "data"), "sources": [source]}, **more}


def faults_of(study):
    partial, faults = check_raw(study)
    return {fault.path: fault.message for fault in [*faults, *check_world(partial, available=TWO_CORES)]}


def test_a_sound_file_has_no_faults(tmp_path):
    """Nothing is refused that can run."""
    assert faults_of(raw(tmp_path, model={"name": "test_efficientnet"})) == {}


def test_data_network_and_machine_are_told_together(tmp_path):
    """Faults of the world come with each other and with those of the file."""
    found = faults_of(raw(tmp_path, patients=3, model={"name": "efficientnet_b33"}, resources={"workers": 4}))
    assert set(found) == {"data.splits", "model.name", "resources.workers"}
    assert "efficientnet_b3" in found["model.name"]
    assert "has no image of class" in found["data.splits"]
    mixed = faults_of(raw(tmp_path, model={"name": "efficientnet_b33"}, train={"epoch": 3}))
    assert set(mixed) == {"model.name", "train.epoch"}


def test_networks_and_classes_of_tasks_are_told(tmp_path):
    """A searched network that nobody has, or an auxiliary class without images, fails trial by trial."""
    study = raw(tmp_path, model={"name": "hourglass"}, tasks={"acr": {"class_weights": "balanced"}})
    study["data"]["labels"] = {"auxiliary": ["acr", "view"]}
    names = ["hourglass", "hourglas", "test_efficientnet"]
    study["search"] = {"trials": 2, "space": {"model.name": {"choice": names}}}
    found = faults_of(study)
    assert set(found) == {"search.space.model.name.choice.1", "tasks.acr.class_weights"}
    assert "did you mean 'hourglass'" in found["search.space.model.name.choice.1"]
    assert "acr_6" in found["tasks.acr.class_weights"]
    options = [{"name": name, "drop_rate": {"float": [0.0, 0.5]}} for name in names]
    study["search"]["space"] = {"model": {"grid": options}}
    assert set(faults_of(study)) == {"search.space.model.grid.1.name", "tasks.acr.class_weights"}


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path):
    """A dataset that could not be stored is no surprise after the start."""
    (tmp_path / "file").write_text("")
    found = faults_of(raw(tmp_path, prepared=str(tmp_path / "file" / "data")))
    assert set(found) == {"data.prepared"}


@pytest.mark.parametrize(
    ("resources", "path"),
    [
        ({"workers": 64}, "resources.workers"),
        ({"cpus_per_worker": 99.0}, "resources.cpus_per_worker"),
        ({"gpus_per_worker": 1.0}, "resources.gpus_per_worker"),
        ({"concurrent": 2}, "resources.concurrent"),
        ({"workers": 2}, "resources.workers"),
    ],
)
def test_what_the_machine_cannot_give_is_refused(resources, path):
    """Ray Train would wait for it for ever."""
    faults = resource_faults(ResourcesConfig(**resources), TWO_CORES)
    assert [fault.path for fault in faults] == [path]


def test_all_requests_that_cannot_be_given_are_told_at_once():
    """The second of two faults shows only after the first was mended."""
    faults = resource_faults(ResourcesConfig(cpus_per_worker=99.0, gpus_per_worker=1.0, concurrent=50), TWO_CORES)
    assert [fault.path.removeprefix("resources.") for fault in faults] == [
        "cpus_per_worker",
        "gpus_per_worker",
        "concurrent",
    ]


def test_slots_leave_room_for_loading():
    """By hand: 8 CPUs hold four slots of one worker and its loading task; shares of a CPU count as shares."""
    eight = Capacity(cpus=8.0, gpus=2.0, node_cpus=8.0, node_gpus=2.0)
    assert fitting_slots(ResourcesConfig(), eight) == 4
    assert fitting_slots(ResourcesConfig(cpus_per_worker=0.5), TWO_CORES) == 2
    assert fitting_slots(ResourcesConfig(gpus_per_worker=1.0), eight) == 2
