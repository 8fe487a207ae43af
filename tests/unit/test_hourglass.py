"""The hourglass of paper multitask: sizes by the paper and by hand, switches, pictures of any size, weights."""

import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from study.errors import InputError
from study.losses import make_criterion
from study.losses.multitask import MultiTask
from study.models import make_model
from study.models.hourglass import InstanceNorm
from study.models.inputs import to_input, to_pixels


def network(**options):
    torch.manual_seed(0)
    return make_model("hourglass", **{"num_outputs": 3, "reconstruct": True, "drop_rate": 0.0} | options)


def pictures(*shape, seed=0):
    return to_input(torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)))


def separable(before, width):
    return 9 * before + before * width


def block(before, width, *, changes):
    return 2 * before + 2 * width + separable(before, width) + separable(width, width) + changes * before * width


def counted(fusion, reconstruct, outputs, channels=1):
    """Parameters by the description of the network, worked out apart from its code."""
    widths = [16, 32, 64, 128, 256]
    total = 49 * channels * 16
    for before, width in zip([16, *widths[:-1]], widths, strict=True):
        total += block(before, width, changes=before != width) + block(width, width, changes=False)
    total += ((496 if fusion else 256) + 1) * outputs
    if reconstruct:
        narrow = [128, 64, 32, 16, 8]
        total += sum(block(a, b, changes=True) for a, b in itertools.pairwise([256, *narrow]))
        total += 16 * (256 + 128 + 64 + 32) + 2 * 16 * 8 + 49 * 8 * channels + channels
    return total


@pytest.mark.parametrize(("fusion", "reconstruct"), [(True, True), (True, False), (False, True), (False, False)])
def test_parameters_are_those_of_the_description(fusion, reconstruct):
    """A layer is missing, doubled or of another width; z is not 496 wide, or 256 without fusion."""
    model = network(fusion=fusion, reconstruct=reconstruct)
    assert sum(p.numel() for p in model.parameters()) == counted(fusion, reconstruct, 3)
    assert model.num_features == model.head.in_features == (496 if fusion else 256)
    assert (model.decoder is not None) == reconstruct


def test_levels_and_latent_vector_have_the_paper_s_shapes():
    """The bottleneck is not H/64 x W/64 x 256; features of a level are not of length 1."""
    model = network(in_channels=3).eval()
    levels = model.encode(torch.rand(2, 3, 128, 192))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (16, 32, 48), (32, 16, 24), (64, 8, 12), (128, 4, 6), (256, 2, 3)
    ]  # fmt: skip
    z = model.fused(levels)
    lengths = [part.norm(dim=1) for part in z.split([16, 32, 64, 128, 256], dim=1)]
    torch.testing.assert_close(torch.stack(lengths), torch.ones(5, 2))


@pytest.mark.parametrize("hw", [(64, 64), (1, 1), (65, 64), (100, 37), (192, 128)])
def test_pictures_of_any_size(hw):
    """A size that is no multiple of 64, or a last level of one place, is refused or gives no gradient."""
    model = network().train()
    outputs = model(pictures(2, 1, *hw))
    assert outputs.shape == (2, 4)
    outputs.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    drawn = model.reconstruction(pictures(2, 1, *hw))
    assert drawn.shape == (2, 1, *hw)


def test_padding_is_black_at_the_right_and_below():
    """A picture that was padded by hand gives other outputs than one that the network pads."""
    model = network().eval()
    small = pictures(1, 1, 64, 40)
    black = float(to_input(torch.zeros(1, 1, 1, 1, dtype=torch.uint8)))
    by_hand = F.pad(small, (0, 24), value=black)
    with torch.no_grad():
        torch.testing.assert_close(model(small)[:, :3], model(by_hand)[:, :3])


def test_the_last_output_is_the_squared_error_of_the_picture_s_own_pixels():
    """The error counts padding, or pixels on the scale of the network's input instead of 0 to 1."""
    model = network().eval()
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 1, 70, 50), dtype=np.uint8))
    with torch.no_grad():
        error = model(to_input(images))[:, -1]
        wanted = (model.reconstruction(to_input(images)) - images / 255).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(error, wanted, rtol=1e-4, atol=1e-6)


def test_pixels_come_back_from_the_input():
    """Grey or colour pictures are reconstructed on another scale than they have."""
    for channels in (1, 3):
        images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, channels, 16, 16)
        torch.testing.assert_close(to_pixels(to_input(images.clone())), images / 255)


def test_instance_norm_is_torch_s_own():
    """Our normalisation, which takes a single place, is another one than PyTorch's."""
    features = torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    ours, own = InstanceNorm(5), torch.nn.InstanceNorm2d(5, affine=True, eps=1e-3)
    torch.testing.assert_close(ours(features), own(features))
    assert ours(features[..., :1, :1]).abs().max() < 1e-3


def test_outputs_follow_the_picture_even_where_the_last_level_is_one_place():
    """Normalising a single place wipes out what the picture was."""
    model = network(fusion=False).eval()
    with torch.no_grad():
        one, other = model(pictures(1, 1, 64, 64)), model(pictures(1, 1, 64, 64, seed=1))
    assert (one - other)[:, :3].abs().max() > 1e-3


def test_the_reconstruction_follows_the_picture_s_brightness():
    """Normalising each map leaves a decoder that draws the same for a dark and for a bright picture."""
    model = network().eval()
    dark, bright = (to_input(torch.full((1, 1, 64, 64), level, dtype=torch.uint8)) for level in (30, 220))
    with torch.no_grad():
        change = model.reconstruction(bright) - model.reconstruction(dark)
    assert change.abs().max() > 0.05


@pytest.mark.parametrize("side", [64, 128])
def test_gradients_of_small_pictures_are_of_ordinary_size(side):
    """Norms of constant maps blow gradients up, so that rounding decides what a network learns."""
    model = network()
    model(pictures(4, 1, side, side)).mean().backward()
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm()
    assert 1e-3 < norm < 10


def test_dropout_acts_on_the_features_while_training():
    """The rate of the study file does not reach the network."""
    images = pictures(2, 1, 64, 64)
    for rate in (0.0, 0.5):
        model = network(drop_rate=rate, reconstruct=False).train()
        with torch.no_grad():
            assert torch.equal(model(images), model(images)) == (rate == 0)


@pytest.mark.long
def test_it_learns_to_draw_and_to_tell():
    """Neither the reconstruction nor the classes get better on four pictures."""
    torch.manual_seed(0)
    criterion = MultiTask([("a", make_criterion("cross_entropy", num_classes=2), 1.0)], reconstruction=1.0)
    model = network(num_outputs=2, make_head=criterion.make_head)
    images = torch.zeros(4, 1, 64, 64, dtype=torch.uint8)
    images[:2, :, 8:40, 8:40] = 200
    images[2:, :, 30:60, 30:60] = 120
    labels, optimiser = torch.tensor([0, 0, 1, 1]), torch.optim.Adam(model.parameters(), lr=3e-3)
    first: dict[str, torch.Tensor] = {}
    for _ in range(25):
        losses = criterion.losses(model(to_input(images)), labels)
        first = first or {name: loss.detach() for name, loss in losses.items()}
        optimiser.zero_grad()
        criterion.total(losses).backward()
        optimiser.step()
    assert losses["reconstruction"] < (images / 255).var() / 2  # one grey for all would reach the variance
    assert losses["a"] < first["a"] / 5


def test_weights_of_an_earlier_run(tmp_path):
    """Fine-tuning starts from random weights, keeps a head of another size, or takes those of another network."""
    torch.manual_seed(1)
    earlier = network(num_outputs=3)
    save_file(earlier.state_dict(), tmp_path / "earlier.safetensors")
    again = network(num_outputs=3, pretrained=str(tmp_path / "earlier.safetensors"))
    assert all(
        torch.equal(a, b) for a, b in zip(earlier.state_dict().values(), again.state_dict().values(), strict=True)
    )
    other = network(num_outputs=5, reconstruct=False, pretrained=str(tmp_path / "earlier.safetensors"))
    assert torch.equal(other.stem.weight, earlier.stem.weight)
    assert other.head.weight.shape == (5, 496)
    save_file({"stem.weight": torch.zeros(16, 1, 7, 7)}, tmp_path / "part.safetensors")
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    for file, words in (("part.safetensors", "lacks"), ("broken.pth", "does not hold"), ("none.pth", "no file")):
        with pytest.raises(InputError, match=words):
            network(pretrained=str(tmp_path / file))
    with pytest.raises(InputError, match="reconstructs nothing"):
        network(reconstruct=False).reconstruction(pictures(1, 1, 64, 64))
