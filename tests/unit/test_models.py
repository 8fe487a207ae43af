"""Networks by name, pretrained weights from files, and timm beside a torchvision that does not load."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import study
from study.errors import EnvironmentFault, InputError
from study.losses import make_criterion
from study.losses.multitask import MultiTask
from study.models import (
    MODEL_PARAMS,
    MODELS,
    is_model,
    list_backbones,
    make_model,
    nearest_backbones,
    nearest_models,
)
from study.models.heads import exchange_head
from study.models.torchvision_ops import declare_missing_operators

TINY = "test_efficientnet"


def run_python(code, **environment):
    """Run code in a fresh interpreter."""
    root = str(Path(study.__file__).parents[1])
    env = os.environ | {"PYTHONPATH": root} | environment
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of the tiny backbone as if published: three channels and 1000 classes."""
    folder = tmp_path_factory.mktemp("weights")
    model = make_model(TINY, num_outputs=1000, in_channels=3)
    save_file(model.state_dict(), folder / "tiny.safetensors")
    torch.save(model.state_dict(), folder / "tiny.pth")
    return folder, model.state_dict()


def test_timm_imports_in_a_fresh_process():
    """A fresh process builds a model through this package although torchvision's extension may not load."""
    done = run_python(
        "from study.models import make_model; import sys; assert 'timm' not in sys.modules;"
        f"print(type(make_model({TINY!r}, num_outputs=2)).__name__); import torchvision; print(torchvision.__version__)"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "EfficientNet"


def test_timm_needs_the_declaration_only_where_the_extension_fails():
    """Without the declaration the import fails exactly where torchvision's own extension does not load."""
    done = run_python(
        "from study.models import torchvision_ops as ops\n"
        "loads = ops._extension_loads()\n"
        "try:\n    import timm\n    imported = True\nexcept RuntimeError:\n    imported = False\n"
        "assert imported == loads, (imported, loads)\n"
    )
    assert done.returncode == 0, done.stderr


def test_declaring_twice_is_harmless():
    """The second call leaves the operators as they are."""
    declare_missing_operators()
    declare_missing_operators()
    assert hasattr(torch.ops.torchvision, "nms")


@pytest.mark.parametrize(("num_outputs", "in_channels"), [(1, 1), (4, 1), (3, 3)])
def test_shapes(num_outputs, in_channels):
    """The head has the asked size and the stem the asked channels, and every parameter gets a gradient."""
    model = make_model(TINY, num_outputs=num_outputs, in_channels=in_channels).train()
    logits = model(torch.randn(2, in_channels, 64, 64))
    assert logits.shape == (2, num_outputs)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "in_channels", "size", "parameters"),
    [
        ("efficientnet_b3", 1, 300, 12_233_232 - 1000 * 1537 + 3 * 1537 - 2 * 9 * 40),
        ("convnext_base", 3, 224, 88_591_464 - 1000 * 1025 + 3 * 1025),
    ],
)
def test_the_large_classifiers_at_their_real_size(name, in_channels, size, parameters):
    """A large backbone has not timm's published size, or takes no head of one of the three families."""
    model = make_model(name, num_outputs=3, in_channels=in_channels, drop_rate=0.2).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    losses = {"cross_entropy": 3, "coral": 2, "ldam": 3}
    criterion = MultiTask([(name, make_criterion(name, num_classes=3, class_counts=[5, 3, 2]), 1.0) for name in losses])
    exchange_head(model, criterion.make_head)
    with torch.no_grad():
        outputs = model(torch.zeros(1, in_channels, size, size))
    assert {name: outputs[:, task.columns].shape[1] for name, task in criterion.tasks.items()} == losses
    assert bool(outputs.isfinite().all())


def test_drop_rate_acts_while_training():
    """With dropout two passes in training mode differ; without it they do not."""
    images = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    for drop_rate in (0.0, 0.5):
        model = make_model("test_vit", num_outputs=2, drop_rate=drop_rate, image_hw=(32, 32)).train()
        with torch.no_grad():
            assert torch.equal(model(images), model(images)) == (drop_rate == 0)


def test_image_size_reaches_backbones_of_fixed_size():
    """A vision transformer of fixed input size takes images of the study's size once it is told that size."""
    images = torch.zeros(1, 1, 64, 64)
    assert make_model("vit_tiny_patch16_224", num_outputs=2, image_hw=(64, 64))(images).shape == (1, 2)
    with pytest.raises(AssertionError):
        make_model("vit_tiny_patch16_224", num_outputs=2)(images)


def test_same_seed_same_weights():
    """Weights depend on torch's seed alone."""
    states = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            states.append(make_model(TINY, num_outputs=2).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["conv_stem.weight"], states[2]["conv_stem.weight"])


@pytest.mark.parametrize("file", ["tiny.safetensors", "tiny.pth"])
def test_pretrained_from_file(weights, file):
    """Weights come from the file, the first convolution summed over colours, the head fresh."""
    folder, state = weights
    model = make_model(TINY, num_outputs=3, pretrained=str(folder / file)).state_dict()
    torch.testing.assert_close(model["conv_stem.weight"], state["conv_stem.weight"].sum(1, keepdim=True))
    assert torch.equal(model["conv_head.weight"], state["conv_head.weight"])
    assert model["classifier.weight"].shape[0] == 3


def test_loading_leaves_the_random_state_as_a_single_build_would(weights):
    """Checking the file draws no random numbers of its own."""
    folder, _ = weights
    after = []
    for pretrained in (False, str(folder / "tiny.pth")):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            make_model(TINY, num_outputs=3, pretrained=pretrained)
            after.append(torch.rand(1))
    assert torch.equal(*after)


def test_bad_files_are_refused(weights, tmp_path):
    """A file that is missing, broken, partial, of another backbone or holds code is refused by name."""
    folder, state = weights
    save_file({key: value for key, value in state.items() if key != "conv_head.weight"}, tmp_path / "part.safetensors")
    save_file({"other.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes((folder / "tiny.safetensors").read_bytes()[:1000])
    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    torch.save({"state_dict": state, "extra": subprocess.Popen}, tmp_path / "code.pth")
    expected = {
        "missing.pth": "there is no file",
        "part.safetensors": "lacks 1 tensors of test_efficientnet, conv_head.weight",
        "other.safetensors": "lacks",
        "broken.safetensors": "SafetensorError",
        "broken.pth": "does not hold weights",
        "code.pth": "does not hold weights",
    }
    for file, words in expected.items():
        with pytest.raises(InputError) as caught:
            make_model(TINY, num_outputs=3, pretrained=str(tmp_path / file))
        assert words in caught.value.message
        assert file in caught.value.message
    with pytest.raises(InputError, match=r"does not hold weights of test_byobnet|lacks"):
        make_model("test_byobnet", num_outputs=3, pretrained=str(folder / "tiny.pth"))


@pytest.mark.long
def test_no_network_names_both_ways(tmp_path):
    """Pretrained weights without a network and without a cache name the hub and the local file."""
    done = run_python(
        "from study.models import make_model\nfrom study.errors import EnvironmentFault\n"
        f"try:\n    make_model({TINY!r}, num_outputs=2, pretrained=True)\n"
        "except EnvironmentFault as fault:\n    print(fault)\n",
        HF_HUB_OFFLINE="1",
        HF_HUB_CACHE=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "test_efficientnet" in done.stdout
    assert "hub" in done.stdout
    assert "local .safetensors or .pth file" in done.stdout
    assert EnvironmentFault.exit_code == 3


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("efficientnet_b33", {}, "did you mean efficientnet_b3"),
        ("zzzzzz", {}, "study list"),
        ("efficientnet_b3.ra3_in1k", {}, "efficientnet_b3.ra2_in1k"),
        ("vgg11.none", {}, "has no pretrained weights with the tag 'none'"),
        (TINY, {"num_outputs": 0}, "expected at least 1"),
        (TINY, {"drop_rate": 1.0}, "expected a number >= 0 and < 1"),
        (TINY, {"fusion": True}, "it belongs to hourglass"),
        ("hourglass", {"fuson": True}, "did you mean fusion"),
        ("hourglass", {"in_channels": 2}, "expected 1 or 3"),
        ("hourglass", {"pretrained": True}, "no published weights of hourglass"),
        ("classifier", {}, "unknown backbone 'classifier'"),
        ("dpn48b", {"pretrained": True}, "no pretrained weights of dpn48b"),
    ],
)
def test_wrong_arguments(name, options, words):
    """A wrong name or number is refused, with the nearest spellings."""
    with pytest.raises(InputError) as caught:
        make_model(name, **{"num_outputs": 2, **options})
    assert words in str(caught.value)


def test_backbones_are_listed():
    """The list names backbones that can be built, and the nearest spelling comes first."""
    names = list_backbones()
    assert {"efficientnet_b3", TINY} <= set(names)
    assert nearest_backbones("eficientnet_b3")[0] == "efficientnet_b3"
    assert set(MODELS) == set(MODEL_PARAMS) == {"classifier", "hourglass"}
    assert nearest_models("hourglas")[0] == "hourglass"
    assert is_model("hourglass")
    assert is_model("efficientnet_b3.ra2_in1k")
    assert not is_model("classifier")
    assert not is_model("resnet_18x")


def test_building_warns_about_nothing():
    """A known name is built without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_model("efficientnet_b3", num_outputs=3)
