"""A profile over the real stream: its parts add up, and loading is measured where it happens."""

import threading

import pytest

from study.config import StudyConfig
from study.distributed.profiling import WARM_UP_STEPS, ProfileRequest, profile_run
from study.errors import InputError, InterruptedStudy
from study.training.profile import ROWS

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def config(make_dataset, tmp_path_factory):
    """A study on the tiny dataset, with micro-batches."""
    root = make_dataset(tmp_path_factory.mktemp("profile") / "tiny")
    return StudyConfig.model_validate(
        {
            "study": "profiled",
            "data": {
                "prepared": str(root),
                "image_size": 32,
                "sources": [{"kind": "phantom", "name": "site_a", "patients": 4}],
            },
            "model": {"name": "test_efficientnet"},
            "augment": {"policy": "mammogram"},
            "train": {"epochs": 3, "batch_size": 12, "accumulate": 2},
        }
    ).model_dump(mode="json")


@pytest.mark.parametrize(
    ("steps", "workers"),
    [(6, 1), pytest.param(0, 1, marks=pytest.mark.long), pytest.param(5, 2, marks=pytest.mark.long)],
)
def test_parts_add_up(cluster, config, steps, workers):
    """Within 2 % of the wall time; tasks in other processes read and augment; the trace has all of it."""
    config = config | {"resources": {"workers": workers}}
    found, trace = profile_run(ProfileRequest(run="r", config=config, seed=0, steps=steps), stop=threading.Event())
    seconds = {row.key: row.seconds for row in found.rows}
    assert list(seconds) == list(ROWS)
    assert sum(seconds.values()) == pytest.approx(found.wall_s, rel=0.02, abs=0.002)
    assert (found.steps == steps) if steps else found.steps > 3
    assert (found.batch_size, found.warm_up_steps, found.is_epoch) == (12 // workers, WARM_UP_STEPS, not steps)
    assert min(seconds[key] for key in ("forward", "loss", "backward", "optimiser", "rest")) > 0
    assert (seconds["validation"] > 0) == (not steps)
    loading = found.loading
    assert min(loading.read_ms, loading.augment_ms, loading.images, loading.processes) > 0
    names = [event["name"] for event in trace["traceEvents"] if event.get("cat") == "study"]
    assert names.count("optimiser") == found.steps
    assert any(name.endswith(" images") for name in names)
    assert any(event.get("cat") == "cpu_op" for event in trace["traceEvents"])
    assert found.hint


def test_faults_come_as_they_are(cluster, config):
    """Data that changed, a machine without room and a stop are told in words, not as a traceback of Ray's."""
    request = ProfileRequest(run="r", config=config, seed=0, steps=2, fingerprint="another")
    with pytest.raises(InputError, match="was prepared again since the study began"):
        profile_run(request, stop=threading.Event())
    large = config | {"resources": {"cpus_per_worker": 64}}
    with pytest.raises(InputError, match="resources"):
        profile_run(ProfileRequest(run="r", config=large, seed=0), stop=threading.Event())
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedStudy):
        profile_run(ProfileRequest(run="r", config=config, seed=0), stop=stop)
