"""The figure of the losses' gradients shows what the paper derives and what the losses compute."""

import numpy as np
import pytest

from study.report.gradients import CURVES, gradients_of, write_gradient_figure

PROBABILITY = np.linspace(0.01, 0.99, 99)
LABELS = tuple(CURVES)


def negative(label):
    return gradients_of(*CURVES[label], probability_p=PROBABILITY).negative_p


@pytest.mark.parametrize(
    ("label", "formula"),
    [
        # Paper alpa, section 4.4, with gamma 4: s^(gamma + 1) (1 - s) (gamma + 1).
        ("ALPA, as derived (gamma 4)", lambda s: s**5 * (1 - s) * 5),
        ("cross-entropy", lambda s: s),
        ("focal (gamma 0.5)", lambda s: s**0.5 * (s - 0.5 * (1 - s) * np.log(1 - s))),
    ],
)
def test_figure_one_of_the_paper(label, formula):
    """A curve of figure 1 is not the derivative that the paper prints, or that follows from the loss by hand."""
    np.testing.assert_allclose(negative(label), formula(PROBABILITY), rtol=1e-9, atol=1e-12)


def test_asl_of_the_figure():
    """ASL's curve is not the slope of its published cost (finite differences in the logit)."""
    logits = np.log(PROBABILITY / (1 - PROBABILITY))

    def cost(z):
        shifted = np.maximum(1 / (1 + np.exp(-z)) - 0.01, 1e-6)
        return -(shifted**0.01) * np.log(1 - shifted)

    inside = PROBABILITY > 0.02
    slope = (cost(logits + 1e-6) - cost(logits - 1e-6)) / 2e-6
    np.testing.assert_allclose(negative(LABELS[1])[inside], slope[inside], rtol=1e-5)


def test_alpa_as_coded_has_its_focus_twice():
    """The curves that train are not those of ``alpa``: s^4 (s - clip)^5, times beta in v2."""
    one, two = negative("alpa v1, as coded"), negative("alpa v2, as coded")
    np.testing.assert_allclose(two, 1.625 * one, rtol=1e-9)
    shifted = np.maximum(PROBABILITY - 0.05, 0)
    slope = (4 * PROBABILITY**3 * shifted**5 + 5 * PROBABILITY**4 * shifted**4) * PROBABILITY * (1 - PROBABILITY)
    np.testing.assert_allclose(one, slope, rtol=1e-9, atol=1e-12)


def test_positives():
    """A positive of ALPA keeps its gradient where the network is certain and wrong, or cross-entropy loses it."""
    found = {
        label: gradients_of(*CURVES[label], probability_p=PROBABILITY).positive_p
        for label in ("cross-entropy", "alpa v1, as coded")
    }
    np.testing.assert_allclose(found["cross-entropy"], 1 - PROBABILITY, rtol=1e-9)
    np.testing.assert_allclose(found["alpa v1, as coded"], 1.5 * PROBABILITY * (1 - PROBABILITY), rtol=1e-9)


def test_only_losses_on_sigmoids_have_such_a_curve():
    """A loss whose logits compete is drawn as if one logit had a cost of its own."""
    with pytest.raises(TypeError):
        gradients_of("cross_entropy", {}, probability_p=PROBABILITY)


def test_file(tmp_path):
    """The picture is missing, empty, or leaves a half-written file behind."""
    path = write_gradient_figure(tmp_path / "new" / "losses.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [each.name for each in path.parent.iterdir()] == ["losses.png"]
