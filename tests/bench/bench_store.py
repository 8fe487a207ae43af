"""What a store costs an epoch: the same runs in a folder and in a store, in turn, in the same warm slot.

Run with `make bench`. A checkpoint is saved after every epoch. The store is a process of this machine (moto), which
shares its processors with training: a real one has its own, and is further away. Prints seconds; asserts only that
the work was done, and that the weights are the same.
"""

import itertools
import statistics
import threading
import time

import torch

from study import checkpoint
from study.config import StudyConfig
from study.distributed.cluster import connected
from study.distributed.slots import SlotPool, run_directly
from study.distributed.specs import make_spec
from study.remote import check_store, copy_root

RUNS, EPOCHS = 3, 8


def config_of(dataset):
    return StudyConfig.model_validate(
        {
            "study": "bench",
            "data": {
                "prepared": str(dataset),
                "image_size": 64,
                "sources": [{"kind": "phantom", "name": "site_a", "patients": 4}],
            },
            "model": {"name": "test_efficientnet"},
            "augment": {"policy": "none"},
            "sampler": {"epoch_draws": 96},
            "train": {"epochs": EPOCHS, "batch_size": 12},
        }
    )


def seconds(pool, spec):
    """Of each epoch but the first, and from the last one to the end of the run."""
    heard = []
    run_directly(
        pool, [spec], concurrent=1, on_event=lambda _, kind, __: heard.append((kind, time.perf_counter())), stop=STOP
    )
    epochs = [at for kind, at in heard if kind == "epoch"]
    assert len(epochs) == EPOCHS
    return [after - before for before, after in itertools.pairwise(epochs)], heard[-1][1] - epochs[-1]


STOP = threading.Event()


def test_store(make_dataset, tmp_path, s3, monkeypatch):
    """An epoch in a store takes about as long as one in a folder; the end of a run waits for the last upload."""
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnSecret")
    store = copy_root(check_store(s3("studies").replace("AKIDEXAMPLE:wJalrXUtnSecret@", "")), "drive") / "bench"
    places = {"folder": tmp_path / "bench", "store": store}
    config = config_of(make_dataset(tmp_path / "tiny", images=288, size=64))
    found = {name: ([], []) for name in places}
    with connected():
        pool = SlotPool(1, workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0, scratch=tmp_path / "scratch")
        seconds(pool, make_spec(tmp_path / "warm", "warm", 0, config=config, attempt=1))
        for run in range(RUNS):
            for name, place in places.items():
                epochs, end = seconds(pool, make_spec(place, str(run), 0, config=config, attempt=1))
                found[name][0].extend(epochs)
                found[name][1].append(end)
        pool.close()
    folders = [place / "runs" / "0-s0" for place in places.values()]
    here, there = (checkpoint.load_last(folder) for folder in folders)
    assert all(torch.equal(here.model[name], there.model[name]) for name in here.model)
    size = sum(path.stat().st_size for path in folders[0].rglob("*.safetensors"))
    print(f"\ncheckpoints (last and best) {size / 1e6:.1f} MB")
    for name, (epochs, ends) in found.items():
        print(f"  {name:6}  epoch {statistics.median(epochs):6.3f} s   end of a run {statistics.median(ends):6.3f} s")
    ratio = statistics.median(found["store"][0]) / statistics.median(found["folder"][0])
    print(f"  an epoch in the store takes {ratio:.2f} times as long")
