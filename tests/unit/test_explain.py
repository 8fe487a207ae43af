"""Where networks look: the maps, their numbers, their way back to the original, and the features."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from study.data.mapping import Placement, box_to_original
from study.data.shards import open_dataset
from study.errors import InputError
from study.explain.cams import class_maps, class_scores, find_layer
from study.explain.features import embed, features_of
from study.explain.looking import looks, summarise
from study.explain.numbers import attention_of, breast_in_frame
from study.explain.opening import OpenRun
from study.explain.panels import panel_rows, panels_of, write_panels
from study.losses import LOSSES, make_criterion
from study.losses.multitask import MultiTask
from study.models import make_model

CPU = torch.device("cpu")
# Maps [2, 3, 4, 4] of the network below by pytorch-grad-cam 1.5.5 (GradCAMPlusPlus on its last ReLU), before scaling.
GOLDEN = json.loads("""
[[[[3.7446, 1.9627, 0.0, 1.4296],
  [3.5059, 0.0, 0.0, 3.6286],
  [1.7232, 0.0, 1.937, 3.6315],
  [0.0, 0.9188, 3.8441, 1.7803]],
 [[0.0, 0.0, 6.7181, 0.0],
  [0.0, 4.2085, 3.5302, 0.0],
  [0.5775, 5.8396, 0.0, 0.0],
  [6.1579, 0.0753, 0.0, 0.127]],
 [[1.4271, 2.2816, 6.4971, 0.0],
  [2.2121, 5.9148, 1.057, 1.4145],
  [4.0335, 2.9468, 0.0027, 2.1388],
  [7.6845, 0.0, 1.4604, 3.2346]]],
[[[1.847, 0.0, 2.04, 3.8406],
  [0.0, 0.703, 4.0905, 1.8862],
  [0.0, 2.9872, 3.4553, 0.0],
  [1.5178, 4.0242, 1.4846, 0.0]],
 [[0.3214, 5.5023, 0.0, 0.0],
  [5.3857, 0.6361, 0.0, 0.0],
  [5.0103, 0.0, 0.0, 4.6739],
  [0.0, 0.0, 1.0041, 5.0015]],
 [[3.6786, 3.7073, 0.0, 2.0958],
  [7.1969, 0.0, 1.5251, 2.905],
  [2.6148, 0.853, 2.3239, 6.5004],
  [0.0, 1.8384, 4.4941, 2.5625]]]]
""")


def wave(*shape, phase):
    count = int(np.prod(shape))
    return torch.sin(torch.arange(count, dtype=torch.float64) * 1.7 + phase).reshape(shape)


def small_network():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    ).double()  # fmt: skip
    with torch.no_grad():
        for number, weight in enumerate(network.parameters()):
            weight.copy_(wave(*weight.shape, phase=number) * (40 if weight.shape == (3, 5) else 1))
    return network


class Spot(nn.Module):
    """Sees brightness: class 1 where it is bright, class 0 where it is dark."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 1, 1, bias=False)
        self.last = nn.Conv2d(1, 2, 4, stride=4)
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.first.weight.fill_(1.0)
            self.last.weight.copy_(torch.stack([-torch.ones(1, 4, 4), torch.ones(1, 4, 4)]) / 16)
            self.last.bias.copy_(torch.tensor([0.0, 0.0]))
            self.head.weight.copy_(torch.eye(2))

    def forward(self, images):
        return self.head(torch.relu(self.last(self.first(images))).mean(dim=(2, 3)))

    def get_classifier(self):
        return self.head


class TestMaps:
    def test_as_the_library(self):
        """The maps are those of pytorch-grad-cam where its small number in the denominator does not count."""
        network = small_network()
        images = wave(2, 1, 8, 8, phase=0.3)
        layer = find_layer(network, images)
        assert layer is network[3]
        found = class_maps(network, make_criterion("cross_entropy", num_classes=3), images)
        np.testing.assert_allclose(found.maps_nkhw, np.array(GOLDEN), atol=6e-5)
        np.testing.assert_allclose(found.probs_nk, network(images).softmax(1).detach().numpy())

    def test_by_hand(self):
        """One channel A = (1, 2, 3, 4) under mean pooling and weight 8: g = 2, alpha = 1 / 22, map = 4 * 2 / 22 * A."""
        network = nn.Sequential(
            nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)
        )
        with torch.no_grad():
            for weight in network.parameters():
                weight.zero_()
            network[0].weight.fill_(1.0)
            network[1].weight.fill_(1.0)
            network[4].weight.copy_(torch.tensor([[8.0], [-8.0]]))
        images = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        found = class_maps(network, make_criterion("cross_entropy", num_classes=2), images)
        np.testing.assert_allclose(found.maps_nkhw[0, 0], np.array([[1, 2], [3, 4]]) * 8 / 22, rtol=1e-6)
        assert (found.maps_nkhw[0, 1] == 0).all()  # nothing raises the other class

    def test_large_maps(self):
        """On a map of many places, whose gradients are tiny, the formula still holds."""
        network = small_network()
        images = wave(1, 1, 64, 64, phase=0.1)
        with torch.no_grad():
            network[6].weight.mul_(1e-3)
        found = class_maps(network, make_criterion("cross_entropy", num_classes=3), images).maps_nkhw
        kept = network[:4](images).detach()
        gradient = network[6].weight.detach()[:, :, None, None] / kept[0, 0].numel()
        rising = gradient.clamp(min=0).expand(3, *kept.shape[1:])
        weights = (rising / (2 + kept.sum(dim=(2, 3))[0][None, :, None, None] * rising)).sum(dim=(2, 3))
        wanted = torch.einsum("kc,chw->khw", weights, kept[0]).clamp(min=0)
        np.testing.assert_allclose(found[0], wanted.numpy(), rtol=1e-5)

    @pytest.mark.parametrize("name", LOSSES)
    def test_every_head(self, name):
        """Each loss's own head gives one finite map per class, alone and as one of several tasks."""
        torch.manual_seed(0)
        own = make_criterion(name, num_classes=3, class_counts=[5, 3, 2], raw_class_counts=[5, 3, 2])
        other = make_criterion("coral", num_classes=4, class_counts=[5, 3, 2, 2], raw_class_counts=[5, 3, 2, 2])
        images = torch.rand(2, 1, 64, 64)
        for criterion in (own, MultiTask([("grade", own, 1.0), ("density", other, 0.5)])):
            network = make_model(
                "test_efficientnet", num_outputs=criterion.num_outputs, make_head=criterion.make_head
            ).train()
            tasks = [(own, None)] if criterion is own else [(t.criterion, t.columns) for t in criterion.tasks.values()]
            for task, columns in tasks:
                found = class_maps(network, task, images, columns=columns)
                assert found.maps_nkhw.shape == (2, task.num_classes, 2, 2)
                assert np.isfinite(found.maps_nkhw).all()
                assert (found.maps_nkhw >= 0).all()
                np.testing.assert_allclose(found.probs_nk.sum(axis=1), 1, atol=1e-5)
            assert network.training
            assert all(parameter.grad is None for parameter in network.parameters())

    def test_scores(self):
        """A softmax is explained by its logits, a head without logits of classes by log-probabilities."""
        logits = torch.tensor([[0.2, -1.0, 0.5]])
        assert class_scores(make_criterion("emd", num_classes=3), logits) is logits
        corn = make_criterion("corn", num_classes=4)
        torch.testing.assert_close(class_scores(corn, logits).exp(), corn.probabilities(logits), check_dtype=False)

    @pytest.mark.parametrize(("name", "shape"), [("resnet10t", (512, 2, 2)), ("hourglass", (256, 1, 2))])
    def test_layers(self, name, shape):
        """The layer is that of the last convolution with what follows it, without gates and decoders."""
        more = {"reconstruct": True} if name == "hourglass" else {}
        network = make_model(name, num_outputs=3, **more).eval()
        images = torch.rand(1, 1, 64, 128 if name == "hourglass" else 64)
        seen = []
        find_layer(network, images).register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[1:])))
        network(images)
        assert seen == [shape]

    def test_no_convolution(self):
        """A network whose one convolution cuts patches has no map of classes, and the error says so."""
        network = make_model("test_vit", num_outputs=3, image_hw=(64, 64))
        with pytest.raises(InputError, match="no convolutional layer after its first"):
            find_layer(network, torch.rand(1, 1, 64, 64))

    def test_batches(self):
        """An image's maps do not depend on its neighbours in the batch."""
        network, criterion = small_network(), make_criterion("cdw_ce", num_classes=3)
        images = wave(3, 1, 8, 8, phase=0.9)
        together = class_maps(network, criterion, images).maps_nkhw
        alone = [class_maps(network, criterion, image[None]).maps_nkhw[0] for image in images]
        np.testing.assert_allclose(together, np.stack(alone), rtol=1e-6)


class TestNumbers:
    def test_by_hand(self):
        """Three quarters of this map lie in the breast, and its highest place in the second box."""
        heat = np.zeros((4, 4), np.float32)
        heat[1, 2], heat[3, 0] = 3, 1
        breast = np.zeros((4, 4), bool)
        breast[:2] = True
        found = attention_of(heat, breast, [(0, 0, 1, 1), (2, 1, 3, 2)])
        assert (found.inside, found.hit) == (0.75, True)
        assert attention_of(heat, breast, [(0, 0, 2, 4)]).hit is False
        assert attention_of(heat, breast, []).hit is None
        assert np.isnan(attention_of(heat, None, []).inside)
        nothing = attention_of(np.zeros((4, 4), np.float32), breast, [(0, 0, 4, 4)])
        assert np.isnan(nothing.inside)
        assert nothing.hit is False

    def test_plateau(self):
        """A flat top counts by its middle, not by its first pixel."""
        heat = np.zeros((6, 6), np.float32)
        heat[1:4, 1:4] = 1
        assert attention_of(heat, None, [(2, 2, 3, 3)]).hit is True
        assert attention_of(heat, None, [(1, 1, 2, 2)]).hit is False

    def test_breast(self):
        """The breast is the bright part of a frame, whatever the bits."""
        frame = np.zeros((64, 64), np.uint8)
        frame[10:50, :30] = 120
        mask = breast_in_frame(frame)
        assert abs(int(mask.sum()) - 40 * 30) < 150
        assert mask[30, 10]
        assert not mask[30, 50]
        assert (breast_in_frame(frame.astype(np.uint16) * 257) == mask).all()


@pytest.fixture
def spotted(tmp_path, make_dataset):
    """A run on images with one bright square each, whose lesion box is known in a larger, flipped original."""
    root = make_dataset(tmp_path / "spots", images=48, size=32)
    manifest = pd.read_parquet(root / "manifest.parquet")
    placement = Placement(box=(100, 40, 164, 104), scale=(0.5, 0.5), offset=(0, 0), flipped=True)
    box = box_to_original((8, 8, 20, 20), placement)
    manifest = manifest.assign(
        box_left=100.0, box_top=40.0, box_right=164.0, box_bottom=104.0, scale_x=0.5, scale_y=0.5, pad_left=0.0,
        pad_top=0.0, flipped=1.0, rows=120.0, cols=200.0, lesions=[json.dumps([list(box)])] * 24 + [None] * 24,
    )  # fmt: skip
    manifest.to_parquet(root / "manifest.parquet")
    criterion = make_criterion("cross_entropy", num_classes=3)
    network = Spot()
    network.head = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]))
    return OpenRun(title="spot", network=network, criterion=criterion, dataset=open_dataset(root), device=CPU)


class TestPanels:
    def test_back_on_the_original(self, spotted):
        """The map's peak and the lesion's box lie on the bright square of the original, flip and cut undone."""
        row = int(np.flatnonzero(spotted.dataset.labels_n[:24] == 2)[0])
        (panel,) = panels_of(spotted, [row])
        assert panel.picture_hw.shape == (120, 200)
        ((left, top, right, bottom),) = panel.boxes
        assert (left, top, right, bottom) == pytest.approx((124, 56, 148, 80))
        inside = panel.picture_hw[int(top) + 2 : int(bottom) - 2, int(left) + 2 : int(right) - 2]
        assert inside.mean() > 2 * panel.picture_hw[40:104, 100:120].mean()
        y, x = np.unravel_index(panel.heats_khw[2].argmax(), panel.heats_khw[2].shape)
        assert left <= x < right
        assert top <= y < bottom
        assert panel.attention[2].hit is True
        assert panel.heats_khw[2][:, :100].max() == 0

    def test_large_originals_are_shrunk(self, spotted):
        """A panel is at most 512 px large, and its boxes shrink with it."""
        manifest = spotted.dataset.manifest
        manifest[["box_left", "box_right"]] *= 20.0
        manifest[["box_top", "box_bottom"]] *= 20.0
        manifest["rows"], manifest["cols"] = 2400.0, 4000.0
        manifest["scale_x"] = manifest["scale_y"] = 0.025
        manifest["lesions"] = "[[2480, 1120, 2960, 1600]]"
        (panel,) = panels_of(spotted, [2])
        assert panel.picture_hw.shape == (307, 512)
        assert panel.boxes[0] == pytest.approx((317.4, 143.4, 378.9, 204.8), abs=0.1)
        assert panel.attention[2].hit is True

    def test_summary(self, spotted):
        """Hits count images with known lesions alone; every class has its line."""
        rows = spotted.dataset.rows("train")
        found = summarise(looks(spotted, rows), classes=spotted.dataset.classes)
        with_lesions = [int(((spotted.dataset.labels_n[rows] == k) & (rows < 24)).sum()) for k in range(3)]
        assert [each.num_boxed for each in found] == with_lesions
        assert found[2].hit_rate == 1
        assert 0 < found[2].low < 1
        assert found[2].high == 1

    def test_which_images(self, spotted):
        """Classes take turns, the highest first, and images with lesions come before others."""
        rows = spotted.dataset.rows("train")
        chosen = panel_rows(spotted.dataset, rows, count=4, labels_n=spotted.dataset.labels_n)
        assert spotted.dataset.labels_n[chosen].tolist() == [2, 1, 0, 2]
        assert max(chosen) < 24
        everything = panel_rows(spotted.dataset, rows, count=999, labels_n=spotted.dataset.labels_n)
        assert sorted(everything) == rows.tolist()

    def test_several_runs(self, spotted, tmp_path):
        """Runs stand below one another on the same images; others are refused."""
        panels = panels_of(spotted, [2, 1])
        path = write_panels(tmp_path / "panels.png", [("a", panels), ("b", panels)], classes=spotted.dataset.classes)
        assert path.read_bytes().startswith(b"\x89PNG")
        with pytest.raises(InputError, match="different images"):
            write_panels(path, [("a", panels), ("b", panels[::-1])], classes=spotted.dataset.classes)


class TestFeatures:
    def test_before_the_head(self, spotted):
        """Features are what the head gets: its product with them is the network's output."""
        rows = spotted.dataset.rows("val")
        features = features_of(spotted, rows, batch_size=5)
        from study.models.inputs import to_input, to_tensor

        with torch.no_grad():
            outputs = spotted.network(to_input(to_tensor(spotted.dataset.pixels(rows))))
            again = spotted.network.head(torch.from_numpy(features))
        torch.testing.assert_close(again, outputs)

    def test_backbones(self, tiny_dataset):
        """A real backbone with an ordinal head, and the hourglass, have features of the size of their heads."""
        for name, size in (("test_efficientnet", 256), ("hourglass", 496)):
            criterion = make_criterion("coral", num_classes=3)
            network = make_model(name, num_outputs=criterion.num_outputs, make_head=criterion.make_head).eval()
            run = OpenRun(title="t", network=network, criterion=criterion, dataset=tiny_dataset, device=CPU)
            assert features_of(run, tiny_dataset.rows("val")[:3]).shape == (3, size)

    def test_embedding(self, spotted):
        """The same seed gives the same points; too few images are refused."""
        rows = spotted.dataset.rows("train")
        first, second = embed(spotted, rows), embed(spotted, rows)
        assert (first.points_n2 == second.points_n2).all()
        assert first.points_n2.shape == (len(rows), 2)
        with pytest.raises(InputError, match="too few"):
            embed(spotted, rows[:5])
