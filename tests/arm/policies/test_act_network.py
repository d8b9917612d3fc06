"""ACT's network with pictures: LeRobot's own numbers, from weights and inputs that a formula gives."""

import json
from pathlib import Path

import torch
from tests.arm.policies.formula import values, weights

from tercet.arm.policies.act_network import ActNetwork, ActShape, grid
from tercet.arm.sim.cameras import Camera

SHAPE = ActShape(
    state_sizes={"robot": 3},
    action_size=2,
    chunk_size=4,
    dim_model=16,
    n_heads=2,
    dim_feedforward=16,
    n_encoder_layers=1,
    n_decoder_layers=1,
    n_vae_encoder_layers=1,
    latent_dim=4,
    cameras=(Camera("front", 64, 96), Camera("wrist", 64, 64)),
)
LEROBOTS = json.loads((Path(__file__).parent / "act_of_lerobot.json").read_text())


def test_names_and_shapes_are_those_of_lerobots_own_network() -> None:
    ours = {name: list(value.shape) for name, value in ActNetwork(SHAPE).state_dict().items()}
    assert ours == LEROBOTS["shapes"]


def test_actions_are_those_of_lerobots_own_network() -> None:
    network = ActNetwork(SHAPE)
    network.load_state_dict(weights({name: tuple(shape) for name, shape in LEROBOTS["shapes"].items()}))
    pictures = [values("front", (2, 3, 64, 96)), values("wrist", (2, 3, 64, 64))]
    with torch.no_grad():
        actions = network(values("state", (2, 3)), torch.zeros(2, 4), pictures)
    torch.testing.assert_close(actions, torch.tensor(LEROBOTS["actions"]), rtol=1e-5, atol=1e-5)


def test_places_of_a_map_tell_rows_and_columns() -> None:
    """Two by two, four columns: sine and cosine of pi and 2 pi down, then across."""
    half, whole = [0.0, -1.0], [0.0, 1.0]
    expected = torch.tensor([half + half, half + whole, whole + half, whole + whole])
    torch.testing.assert_close(grid(2, 2, 4), expected, rtol=0, atol=1e-5)
