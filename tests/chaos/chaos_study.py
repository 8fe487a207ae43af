"""A study whose processes are shot, one after another, and what it ends with: `make chaos`.

Not part of the tests: it takes about 20 minutes. ``CHAOS_KILLS`` (20) and ``CHAOS_SEED`` (1) come from the environment.
The table of what happened is printed, and written to ``CHAOS_TABLE`` (studies/chaos.md).
"""

import os
import shutil
import time
from pathlib import Path

import pytest

from tests.chaos.arena import TARGETS, Arena
from tests.chaos.verdict import (
    check_against_checkpoints,
    check_against_mlflow,
    check_nothing_is_left,
    num_epochs,
    rows_of,
    table_of,
)

KILLS = int(os.environ.get("CHAOS_KILLS", "20"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
TABLE = Path(os.environ.get("CHAOS_TABLE", "studies/chaos.md")).absolute()
STUDY_FILE = """\
study: calm
seed: 5
data:
  prepared: {folder}/data/phantom-64
  sources:
    - {{kind: phantom, name: site_a, patients: 14, seed: 1, vendors: [Alpha]}}
    - {{kind: phantom, name: site_b, patients: 14, seed: 2, vendors: [Beta]}}
  image_size: 64
  segments: [source]
model: {{name: test_efficientnet, drop_rate: 0.1}}
augment: {{policy: mammogram}}
train: {{epochs: 6, batch_size: 16, checkpoint_every: 2 steps}}
search:
  trials: {trials}
  pruner: {{name: successive_halving, min_epochs: 2}}
  space:
    loss.name: {{choice: [cross_entropy, emd, corn, focal]}}
    loss.gamma: {{float: [0.5, 5.0], when: {{loss.name: focal}}}}
    optim.lr: {{float: [1.0e-4, 1.0e-2], scale: log}}
confirm: {{top: 1, seeds: [0, 1]}}
resources: {{concurrent: 1}}
"""


@pytest.fixture(scope="module")
def arena(tmp_path_factory):
    """A folder with a PostgreSQL server and a Ray cluster of two nodes."""
    folder = tmp_path_factory.mktemp("chaos")
    file = folder / "chaos.yaml"
    file.write_text(STUDY_FILE.format(folder=folder, trials=max(8, KILLS)))
    arena = Arena(folder, file=file, seed=SEED)
    yield arena
    arena.close()


def test_a_study_that_is_shot_at_ends_as_one_that_is_not(arena):
    """After all kills no trial is lost or doubled, three records agree, and every curve is that of a calm study."""
    started = time.monotonic()
    assert arena.run_calmly("calm") == 0
    calm_s = time.monotonic() - started
    kills = arena.run_under_fire("rough", kills=KILLS)
    rough_s = time.monotonic() - started - calm_s
    arena.write_table(TABLE, kills, calm_s=calm_s, rough_s=rough_s, command=f"CHAOS_KILLS={KILLS} CHAOS_SEED={SEED}")
    print(f"\n{TABLE.read_text()}")
    assert len(kills) == KILLS
    assert len({kill.target for kill in kills}) == min(KILLS, len(TARGETS))

    with arena.ledger("calm") as calm, arena.ledger("rough") as rough:
        assert table_of(rough) == table_of(calm)
        assert [int(row.trial) for row in rows_of(rough)] == list(range(len(rows_of(calm))))
        check_against_mlflow(rough, arena.directory("rough"))
        check_against_checkpoints(rough, arena.directory("rough"))
        assert num_epochs(arena.directory("rough")) == num_epochs(arena.directory("calm"))
    check_nothing_is_left(arena)
    shutil.rmtree(arena.folder / "studies", ignore_errors=True)
