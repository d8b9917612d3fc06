"""ACT's files: LeRobot's names and shapes, its scales in both formats, and errors."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.arm.networks.formula import values, weights

from tercet.arm.networks.act import ActShape
from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.act import ActPolicy, load_act, new_act
from tercet.config.arm import PolicyConfig
from tercet.errors import InputError

SHAPE = ActShape(
    state_sizes={"robot": 3, "env": 2},
    action_size=4,
    chunk_size=5,
    dim_model=8,
    n_heads=2,
    dim_feedforward=16,
    n_encoder_layers=2,
    n_decoder_layers=1,
    n_vae_encoder_layers=1,
    latent_dim=6,
)
SIZES = Sizes(5, 4)


@pytest.fixture
def policy() -> ActPolicy:
    torch.manual_seed(0)
    policy = ActPolicy(SHAPE, chunk=2, kl_weight=10.0, log_std=-0.7)
    policy.measure(torch.randn(30, 5) * 3, torch.randn(30, 4) * 0.2)
    return policy


def lerobots_names() -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of `lerobot.policies.act.modeling_act.ACT` at these sizes, from its source."""
    attention = {"in_proj_weight": (24, 8), "in_proj_bias": (24,), "out_proj.weight": (8, 8), "out_proj.bias": (8,)}
    linear = {"linear1.weight": (16, 8), "linear1.bias": (16,), "linear2.weight": (8, 16), "linear2.bias": (8,)}

    def layer(prefix: str, attentions: list[str], num_norms: int) -> dict[str, tuple[int, ...]]:
        parts = {f"{name}.{key}": size for name in attentions for key, size in attention.items()} | linear
        parts |= {f"norm{i + 1}.{key}": (8,) for i in range(num_norms) for key in ("weight", "bias")}
        return {f"{prefix}.{key}": size for key, size in parts.items()}

    shapes: dict[str, tuple[int, ...]] = {
        "vae_encoder_cls_embed.weight": (1, 8),
        "vae_encoder_robot_state_input_proj.weight": (8, 3),
        "vae_encoder_robot_state_input_proj.bias": (8,),
        "vae_encoder_action_input_proj.weight": (8, 4),
        "vae_encoder_action_input_proj.bias": (8,),
        "vae_encoder_latent_output_proj.weight": (12, 8),
        "vae_encoder_latent_output_proj.bias": (12,),
        "vae_encoder_pos_enc": (1, 7, 8),
        "encoder_robot_state_input_proj.weight": (8, 3),
        "encoder_robot_state_input_proj.bias": (8,),
        "encoder_env_state_input_proj.weight": (8, 2),
        "encoder_env_state_input_proj.bias": (8,),
        "encoder_latent_input_proj.weight": (8, 6),
        "encoder_latent_input_proj.bias": (8,),
        "encoder_1d_feature_pos_embed.weight": (3, 8),
        "decoder_pos_embed.weight": (5, 8),
        "decoder.norm.weight": (8,),
        "decoder.norm.bias": (8,),
        "action_head.weight": (4, 8),
        "action_head.bias": (4,),
    }
    shapes |= layer("vae_encoder.layers.0", ["self_attn"], 2)
    shapes |= layer("encoder.layers.0", ["self_attn"], 2) | layer("encoder.layers.1", ["self_attn"], 2)
    shapes |= layer("decoder.layers.0", ["self_attn", "multihead_attn"], 3)
    return {f"model.{name}": size for name, size in shapes.items()}


def test_weights_have_lerobots_names_and_shapes(policy: ActPolicy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert {name: tuple(value.shape) for name, value in weights.items()} == lerobots_names()


def test_config_and_scales_are_written_in_lerobots_format(policy: ActPolicy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["type"], config["chunk_size"], config["n_action_steps"]) == ("act", 5, 2)
    assert config["input_features"] == {
        "observation.state": {"type": "STATE", "shape": [3]},
        "observation.environment_state": {"type": "ENV", "shape": [2]},
    }
    preprocessor = json.loads((tmp_path / "policy_preprocessor.json").read_text())
    scales = load_file(tmp_path / preprocessor["steps"][-1]["state_file"])
    assert torch.equal(scales["observation.environment_state.mean"], policy.scaled.mean[3:])
    postprocessor = json.loads((tmp_path / "policy_postprocessor.json").read_text())
    assert torch.equal(
        load_file(tmp_path / postprocessor["steps"][0]["state_file"])["action.std"], policy.scaled_actions.std
    )


def test_older_files_with_scales_among_the_weights_are_read(policy: ActPolicy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for part, scaled in (
        ("inputs.buffer_observation_state", slice(0, 3)),
        ("inputs.buffer_observation_environment_state", slice(3, 5)),
    ):
        weights[f"normalize_{part}.mean"] = policy.scaled.mean[scaled].clone()
        weights[f"normalize_{part}.std"] = policy.scaled.std[scaled].clone()
    weights["normalize_targets.buffer_action.mean"] = policy.scaled_actions.mean.clone()
    weights["normalize_targets.buffer_action.std"] = policy.scaled_actions.std.clone()
    save_file(weights, tmp_path / "model.safetensors")
    for file in tmp_path.glob("*processor*"):
        file.unlink()
    observations = torch.randn(3, 5)
    torch.testing.assert_close(load_act(tmp_path, SIZES)(observations), policy(observations))


SIZES_OF_LEROBOT = Sizes(6, 2, (True, True, False, False, False, False))


@pytest.fixture
def from_states() -> ActPolicy:
    """A policy without images. It has small and large deviations, and weights from a formula."""
    config = PolicyConfig(kind="act", hidden_size=16, num_heads=2, num_layers=1, chunk_size=3, latent_size=4)
    policy = new_act(SIZES_OF_LEROBOT, config)
    shapes = {name: tuple(value.shape) for name, value in policy.model.state_dict().items()}
    policy.model.load_state_dict(weights(shapes))
    policy.scaled.mean.copy_(values("mean", (6,)))
    policy.scaled.std.copy_(torch.tensor([1.0, 0.002, 3.0, 1e-4, 0.5, 0.03]))
    policy.scaled_actions.mean.copy_(torch.tensor([0.1, 0.2]))
    policy.scaled_actions.std.copy_(torch.tensor([0.5, 0.004]))
    return policy


def test_small_deviations_and_large_observations_give_the_actions_of_lerobot(
    from_states: ActPolicy, tmp_path: Path
) -> None:
    """The expected actions are those of LeRobot for this folder, with the eps that LeRobot writes."""
    from_states.save(tmp_path)
    file = tmp_path / "policy_preprocessor.json"
    file.write_text(file.read_text().replace('"eps": 0.0', '"eps": 1e-08'))
    away = torch.tensor([[0.5, -1.0, 2.0, 0.1, 0.0, 1.0], [0.0, 40.0, -1.0, 3.0, 25.0, -12.0]])
    observations = from_states.scaled.mean + from_states.scaled.std * away
    expected = json.loads((Path(__file__).parent / "act_from_states_of_lerobot.json").read_text())
    actions = load_act(tmp_path, SIZES_OF_LEROBOT)(observations)
    torch.testing.assert_close(actions, torch.tensor(expected["actions"]), rtol=0, atol=1e-6)


def test_a_policy_without_images_has_both_states_that_lerobot_needs(from_states: ActPolicy, tmp_path: Path) -> None:
    from_states.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["input_features"] == {
        "observation.state": {"type": "STATE", "shape": [2]},
        "observation.environment_state": {"type": "ENV", "shape": [4]},
    }
    unknown_robot = new_act(Sizes(5, 2), PolicyConfig(kind="act", hidden_size=16, chunk_size=3))
    assert unknown_robot.model.shape.state_sizes == {"robot": 2, "env": 3}


def test_a_policy_without_our_exploration_file_can_explore(policy: ActPolicy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    (tmp_path / "exploration.safetensors").unlink()
    loaded = load_act(tmp_path, SIZES)
    loaded.explore(-2.0)
    assert loaded.log_std.tolist() == [-2.0] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"input_features": {"observation.sound": {"type": "AUDIO", "shape": [8]}}},
            "the policy reads observation.sound; only images and",
        ),
        ({"temporal_ensemble_coeff": 0.01}, "temporal_ensemble_coeff is set"),
        ({"normalization_mapping": {"STATE": "MIN_MAX", "ACTION": "MEAN_STD"}}, "must be MEAN_STD"),
        ({"dim_model": 16}, "do not fit this network"),
        (
            {
                "input_features": {"observation.images.top": {"type": "VISUAL", "shape": [3, 32, 32]}},
                "vision_backbone": "resnet50",
            },
            "backbone resnet50 is not supported; use resnet18 or resnet34",
        ),
        ({"output_features": {}}, "lacks the features"),
        ({"output_features": {"action": {}}}, "missing or invalid entry 'shape'"),
        ({"input_features": 3}, "missing or invalid entry"),
        ({"n_heads": "2"}, "invalid n_heads; sizes must be"),
        ({"n_action_steps": 6}, "n_action_steps at most chunk_size"),
        ({"feedforward_activation": "glu"}, "only relu and gelu are supported"),
    ],
)
def test_error_says_what_is_not_supported(
    change: dict[str, object], message: str, policy: ActPolicy, tmp_path: Path
) -> None:
    policy.save(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=message):
        load_act(tmp_path, SIZES)


def test_missing_scales_and_damaged_weights_are_refused(policy: ActPolicy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    for file in tmp_path.glob("*normalizer_processor.safetensors"):
        file.unlink()
    with pytest.raises(InputError, match=r"lacks the scales observation\.state\.mean"):
        load_act(tmp_path, SIZES)
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"model.safetensors: damaged"):
        load_act(tmp_path, SIZES)


def test_actions_after_the_end_of_a_demonstration_are_ignored(policy: ActPolicy) -> None:
    observations, actions, mask = torch.randn(2, 5), torch.randn(2, 5, 4), torch.ones(2, 5, dtype=torch.bool)
    mask[1, 3:] = False
    other = actions.clone()
    other[1, 3:] = 50.0
    losses = []
    for given in (actions, other):
        torch.manual_seed(0)
        losses.append(policy.imitation_loss(observations, given, mask))
    torch.testing.assert_close(losses[0], losses[1])


def test_imitation_loss_is_the_absolute_error_plus_the_kl_of_the_latent(policy: ActPolicy) -> None:
    observations, actions, mask = torch.randn(3, 5), torch.randn(3, 5, 4), torch.ones(3, 5, dtype=torch.bool)
    latent, head = policy.model.vae_encoder_latent_output_proj, policy.model.action_head
    mean, log_variance = torch.randn(6), torch.randn(6)
    with torch.no_grad():
        for layer in (latent, head):
            layer.weight.zero_()
        latent.bias.copy_(torch.cat([mean, log_variance]))
        head.bias.fill_(0.3)
        loss = policy.imitation_loss(observations, actions, mask)
    wanted = (actions - policy.scaled_actions.mean) / policy.scaled_actions.std
    error = sum(float((0.3 - row).abs().mean()) for row in wanted)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum()
    assert float(loss) == pytest.approx(error + 10.0 * 3 * float(divergence), rel=1e-4)
