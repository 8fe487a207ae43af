"""The hourglass of paper multitask (section 2.2): a classifier that also draws its input again.

An encoder of five levels, whose features are pooled, normalised and joined to the latent vector z; one dense layer per
task on z; a decoder that reconstructs the picture from the last level alone. What the paper leaves open is decided
here: residual blocks are those of the ResNet-22 that it cites (norm and activation before each convolution), features
are taken from the raw output of a level, skip connections see raw inputs, the slope of LeakyReLU is Keras's 0.3, and
the decoder has half the widths.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study.errors import InputError
from study.models.heads import MakeHead
from study.models.inputs import to_pixels
from study.models.setup import Setup
from study.models.weights import load_weights

WIDTHS: Final = (16, 32, 64, 128, 256)
STRIDES: Final = (1, 2, 2, 2, 2)  # after a stem and a pooling of stride 2 each: 64 in all
DECODER_WIDTHS: Final = (128, 64, 32, 16, 8)
MULTIPLE: Final = 64
SLOPE: Final = 0.3
EPSILON: Final = 1e-3


def make_hourglass(name: str, setup: Setup, *, fusion: bool = True, reconstruct: bool = False) -> nn.Module:
    """Build an hourglass; see ``study.models.make_model``, and :class:`Hourglass` for its own parameters.

    Raises:
        InputError: another number of channels than 1 or 3, weights from a hub, or a file without its weights.
    """
    if setup.pretrained is True:
        raise InputError(
            f"there are no published weights of {name}", "set model.pretrained to false, or to a file of weights"
        )
    network = Hourglass(
        num_outputs=setup.num_outputs,
        in_channels=setup.in_channels,
        drop_rate=setup.drop_rate,
        fusion=fusion,
        reconstruct=reconstruct,
        make_head=setup.make_head,
    )
    if isinstance(setup.pretrained, str):
        load_weights(network, Path(setup.pretrained), optional=("head", "decoder"))
    return network


class Hourglass(nn.Module):
    """Images of any size to the outputs of all tasks and, last, the squared error of the reconstruction.

    Args:
        num_outputs: O, outputs of the head.
        in_channels: 1 or 3.
        drop_rate: dropout on the normalised features of each level, in [0, 1); the paper has 0.5.
        fusion: z has the features of all five levels (496), else those of the last one (256).
        reconstruct: whether there is a decoder, and with it the last column of outputs.
        make_head: makes the head from the size of z, or gives None for a linear one.

    Raises:
        InputError: another number of channels.
    """

    def __init__(
        self,
        *,
        num_outputs: int,
        in_channels: int = 1,
        drop_rate: float = 0.5,
        fusion: bool = True,
        reconstruct: bool = True,
        make_head: MakeHead | None = None,
    ) -> None:
        super().__init__()
        if in_channels not in (1, 3):
            raise InputError(f"in_channels is {in_channels}; expected 1 or 3", "change data.colour")
        self.fusion = fusion
        self.num_features = sum(WIDTHS) if fusion else WIDTHS[-1]
        self.stem = nn.Conv2d(in_channels, WIDTHS[0], kernel_size=7, stride=2, padding=3, bias=False)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        sizes = zip((WIDTHS[0], *WIDTHS[:-1]), WIDTHS, STRIDES, strict=True)
        self.levels = nn.ModuleList(
            nn.Sequential(Block(before, width, stride=stride), Block(width, width)) for before, width, stride in sizes
        )
        self.drop = nn.Dropout(drop_rate)
        self.decoder = Decoder(in_channels) if reconstruct else None
        plain = nn.Linear(self.num_features, num_outputs)
        self.head: nn.Module = plain
        _start(self)
        self.head = (make_head(self.num_features) if make_head else None) or plain

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Scaled pictures [N, C, H, W], as ``to_input`` gives them, to [N, O], or [N, O + 1] with a decoder.

        Pictures are padded at the right and below with black to a multiple of 64. The last column is the mean squared
        error over the picture's own pixels, which go from 0 to 1; it is computed in float32.
        """
        pixels_nchw = to_pixels(images_nchw)
        levels = self.encode(pixels_nchw)
        outputs_no: Tensor = self.head(self.fused(levels))
        if self.decoder is None:
            return outputs_no
        drawn_nchw = self._drawn(self.decoder, levels[-1], pixels_nchw)
        error_n = (_single(drawn_nchw) - _single(pixels_nchw)).square().mean(dim=(1, 2, 3))
        return torch.cat([_single(outputs_no), error_n[:, None]], dim=1)

    def encode(self, pixels_nchw: Tensor) -> list[Tensor]:
        """Raw output of each level for pixels from 0 to 1; the last one is [N, 256, H / 64, W / 64], rounded up."""
        height, width = pixels_nchw.shape[-2:]
        features = self.pool(self.stem(F.pad(pixels_nchw, (0, -width % MULTIPLE, 0, -height % MULTIPLE))))
        found = []
        for level in self.levels:
            features = level(features)
            found.append(features)
        return found

    def fused(self, levels: Sequence[Tensor]) -> Tensor:
        """The latent vector z, [N, 496] or [N, 256]: of each level the mean over places, scaled to length 1."""
        used = levels if self.fusion else levels[-1:]
        return torch.cat([self.drop(F.normalize(level.mean(dim=(2, 3)), dim=1)) for level in used], dim=1)

    def reconstruction(self, images_nchw: Tensor) -> Tensor:
        """Scaled pictures as the decoder draws them again, [N, C, H, W] with pixels from about 0 to 1.

        Raises:
            InputError: the network has no decoder.
        """
        if self.decoder is None:
            raise InputError("this network reconstructs nothing", "set model.reconstruct to true")
        pixels_nchw = to_pixels(images_nchw)
        return self._drawn(self.decoder, self.encode(pixels_nchw)[-1], pixels_nchw)

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def _drawn(self, decoder: "Decoder", features_nchw: Tensor, pixels_nchw: Tensor) -> Tensor:
        drawn_nchw: Tensor = decoder(features_nchw)
        return drawn_nchw[..., : pixels_nchw.shape[-2], : pixels_nchw.shape[-1]]


class Decoder(nn.Module):
    """The encoder upside down, narrower and with one block per level; it sees the last level and nothing else.

    Maps grow by transposed convolutions of each channel on its own. Repeating places would leave the maps of small
    pictures constant, and an instance norm makes nothing of these but huge gradients. For the same reason there is no
    norm before the last convolution.
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        sizes = zip((WIDTHS[-1], *DECODER_WIDTHS[:-1]), DECODER_WIDTHS, reversed(STRIDES), strict=True)
        self.levels = nn.ModuleList(
            nn.Sequential(*([_grow(before)] if stride == 2 else []), Block(before, width))
            for before, width, stride in sizes
        )
        last = DECODER_WIDTHS[-1]
        self.grow = nn.Sequential(_grow(last), _grow(last))
        self.picture = nn.Conv2d(last, out_channels, kernel_size=7, padding=3)

    def forward(self, features_nchw: Tensor) -> Tensor:
        """Features [N, 256, h, w] to a picture [N, C, 64 h, 64 w]."""
        for level in self.levels:
            features_nchw = level(features_nchw)
        picture: Tensor = self.picture(self.grow(F.leaky_relu(features_nchw, SLOPE)))
        return picture


class Block(nn.Module):
    """A residual block: norm, LeakyReLU and a separable convolution, twice, beside a skip connection.

    Where size or width changes, the skip connection is a convolution of 1 x 1 on the raw input. The ResNet-22 of Wu et
    al. 2020 has it on the normalised one, but an instance norm would take each picture's brightness away there.
    """

    def __init__(self, before: int, width: int, *, stride: int = 1) -> None:
        super().__init__()
        self.norm1, self.norm2 = InstanceNorm(before), InstanceNorm(width)
        self.conv1 = _separable(before, width, stride=stride)
        self.conv2 = _separable(width, width)
        changes = stride != 1 or before != width
        self.skip = nn.Conv2d(before, width, kernel_size=1, stride=stride, bias=False) if changes else None

    def forward(self, features_nchw: Tensor) -> Tensor:
        """[N, before, H, W] to [N, width, H / stride, W / stride]."""
        ready = F.leaky_relu(self.norm1(features_nchw), SLOPE)
        beside = features_nchw if self.skip is None else self.skip(features_nchw)
        added: Tensor = beside + self.conv2(F.leaky_relu(self.norm2(self.conv1(ready)), SLOPE))
        return added


class InstanceNorm(nn.Module):
    """Instance normalisation with scale and shift per channel; a map of a single place becomes the shift alone.

    PyTorch's own module refuses such maps while training, which a picture of 64 x 64 px has at the last level. Epsilon
    is that of Keras: a smaller one makes the gradients of nearly constant maps, as in small pictures, much larger.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features_nchw: Tensor) -> Tensor:
        """Mean 0 and variance 1 over the places of each map, then scaled and shifted; shape as given."""
        options: Any = (None, None, True, 0.0, EPSILON, torch.backends.cudnn.enabled)
        return torch.instance_norm(features_nchw, self.weight, self.bias, *options)


def _separable(before: int, width: int, *, stride: int = 1) -> nn.Sequential:
    """A depth-wise separable convolution of 3 x 3 (Chollet 2017)."""
    return nn.Sequential(
        nn.Conv2d(before, before, kernel_size=3, stride=stride, padding=1, groups=before, bias=False),
        nn.Conv2d(before, width, kernel_size=1, bias=False),
    )


def _single(tensor: Tensor) -> Tensor:
    """At least float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _grow(channels: int) -> nn.ConvTranspose2d:
    """Twice the height and width, each channel on its own."""
    return nn.ConvTranspose2d(channels, channels, kernel_size=4, stride=2, padding=1, groups=channels, bias=False)


def _start(network: nn.Module) -> None:
    """Xavier's rule (Glorot and Bengio 2010), as in the paper; each map of ``_grow`` has the four taps of its own."""
    for module in network.modules():
        if isinstance(module, nn.ConvTranspose2d):
            nn.init.uniform_(module.weight, -((6 / 8) ** 0.5), (6 / 8) ** 0.5)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
