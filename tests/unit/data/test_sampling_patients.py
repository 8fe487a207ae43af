"""Draws of patients: who has many images is shown no more often than who has one."""

import numpy as np
import pytest

from study.data.sampling import make_plan, steps_per_epoch

# patient 0 has eight images, patients 1 to 11 one each; all benign, but one image of patient 0
PATIENTS = np.array([0] * 8 + list(range(1, 12)))
LABELS = np.array([0] * 7 + [1] + [0] * 11)


def plan_of(name, *, queue="balanced", num_steps=120, seed=0):
    return make_plan(
        name,
        labels=LABELS,
        segments=["a"] * len(LABELS),
        batch_size=12,
        num_steps=num_steps,
        seed=seed,
        queue=queue,
        patients=[f"p{number}" for number in PATIENTS],
    )


def test_every_patient_once_per_pass():
    """A pass shows each patient once, whatever the number of images."""
    passes = PATIENTS[plan_of("none").indices()]
    assert np.array_equal(np.sort(passes, axis=1), np.tile(np.arange(12), (120, 1)))


@pytest.mark.parametrize("seed", range(4))
def test_images_of_a_patient_take_turns(seed):
    """The images of one patient come one after the other, all of them equally often, from any first one."""
    drawn = plan_of("none", seed=seed).indices()
    shown = drawn[PATIENTS[drawn] == 0]
    assert np.array_equal(shown, (shown[0] + np.arange(120)) % 8)
    assert plan_of("none").repeats()[:8].tolist() == [15] * 8


def test_a_patient_stands_in_every_queue_that_has_his_images():
    """With balanced labels the patient with both classes is one of twelve benign ones and the only malignant one."""
    drawn = plan_of("label").indices().reshape(-1)
    assert (LABELS[drawn] == 1).mean() == 0.5
    benign = drawn[LABELS[drawn] == 0]
    assert (PATIENTS[benign] == 0).mean() == pytest.approx(1 / 12, abs=1e-3)
    assert plan_of("label").warnings == ("class 1 has only 1 patient and gets 0.500 of the draws",)


def test_independent_draws_of_patients():
    """Patients are equally likely, and so are the images of one patient."""
    repeats = plan_of("none", queue="iid", num_steps=10_000).repeats()
    assert repeats[8:].mean() == pytest.approx(10_000, rel=0.02)
    np.testing.assert_allclose(repeats[:8], 10_000 / 8, rtol=0.15)


def test_periodic_counts_patients():
    """The pattern follows the patients of the rarest class, not their images."""
    labels, segments = [0] * 40 + [1] * 20 + [0] * 10 + [1] * 10, ["a"] * 60 + ["b"] * 20
    patients = [*range(40), *([40] * 20), *range(41, 61)]  # segment a has one malignant patient with 20 images
    given_rows = {"labels": labels, "segments": segments, "patients": patients}
    plan = make_plan("periodic", **given_rows, batch_size=11, num_steps=100, seed=0)
    shares = plan.summary().groupby("segment")["share"].sum()
    assert shares.tolist() == pytest.approx([1 / 11, 10 / 11])
    assert steps_per_epoch("periodic", **given_rows, batch_size=1, epoch_draws=None) == 22
    assert plan.unit == "patient"


def test_an_epoch_has_as_many_draws_as_images():
    """Unless it is said otherwise an epoch costs the same whether images or patients are drawn."""
    given_rows = {"labels": LABELS, "segments": ["a"] * 19, "patients": PATIENTS}
    assert steps_per_epoch("none", **given_rows, batch_size=1, epoch_draws=None) == 19
    assert steps_per_epoch("none", **given_rows, batch_size=1, epoch_draws=12) == 12
