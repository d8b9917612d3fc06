"""Frozen batch norms, and loading of torchvision's weights."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from tercet.arm.networks.resnet import FrozenBatchNorm, ResNet, load_backbone
from tercet.errors import InputError


def test_a_frozen_norm_equals_batch_norm_with_fixed_statistics() -> None:
    norm, x = FrozenBatchNorm(3), torch.randn(2, 3, 4, 5)
    for buffer in norm.buffers():
        buffer.copy_(torch.rand(3) + 0.5)
    expected = functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    torch.testing.assert_close(norm.train()(x), expected)


def test_output_of_a_row_depends_neither_on_its_batch_nor_on_training_mode() -> None:
    torch.manual_seed(0)
    net, x = ResNet("resnet18"), torch.randn(3, 3, 64, 32)
    net.measure_norms(x)
    with torch.no_grad():
        whole, alone = net.train()(x), net.eval()(x[1:2])
    assert whole.shape == (3, 512, 2, 1)
    torch.testing.assert_close(whole[1:2], alone, rtol=1e-4, atol=1e-4)


def test_measured_norms_give_a_random_backbone_unit_scale() -> None:
    torch.manual_seed(0)
    net, x = ResNet("resnet18"), torch.rand(16, 3, 64, 64)
    net.measure_norms(x)
    outputs: list[torch.Tensor] = []
    for module in net.modules():
        if isinstance(module, FrozenBatchNorm):
            module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        net(x)
    assert len(outputs) == 20  # 17 convolutions on the main path, and 3 on the shortcuts
    for output in outputs:
        mean, var = output.mean((0, 2, 3)), output.var((0, 2, 3), unbiased=False)
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-3, rtol=0)
        torch.testing.assert_close(var, torch.ones_like(var), atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_torchvision_weights_are_loaded(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    saved = dict(ResNet("resnet18").state_dict())
    classifier = {"fc.weight": torch.zeros(9, 512), "fc.bias": torch.zeros(9)}
    whole = saved | classifier | {"bn1.num_batches_tracked": torch.tensor(7)}
    (torch.save if name.endswith("pth") else save_file)(whole, tmp_path / name)
    net = ResNet("resnet18")
    load_backbone(net, tmp_path / name)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in saved.items())


def test_files_without_matching_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "junk.pth").write_bytes(b"junk")
    for file in (tmp_path / "other.pth", tmp_path / "junk.pth", tmp_path / "none.pth"):
        with pytest.raises(InputError, match=re.escape(f"policy.backbone={file}: not the weights of a resnet18")):
            load_backbone(ResNet("resnet18"), file)
