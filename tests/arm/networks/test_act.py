"""ACT's network with images gives the same actions as LeRobot's, on weights and inputs from a formula."""

import json
from pathlib import Path

import torch
from tests.arm.networks.formula import values, weights

from tercet.arm.networks.act import ActNetwork, ActShape, position_grid, sinusoids
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


def test_parameters_have_the_names_and_shapes_of_lerobots_network() -> None:
    ours = {name: list(value.shape) for name, value in ActNetwork(SHAPE).state_dict().items()}
    assert ours == LEROBOTS["shapes"]


def test_actions_equal_those_of_lerobots_network() -> None:
    network = ActNetwork(SHAPE)
    network.load_state_dict(weights({name: tuple(shape) for name, shape in LEROBOTS["shapes"].items()}))
    pictures = [values("front", (2, 3, 64, 96)), values("wrist", (2, 3, 64, 64))]
    with torch.no_grad():
        actions = network(values("state", (2, 3)), torch.zeros(2, 4), pictures)
    torch.testing.assert_close(actions, torch.tensor(LEROBOTS["actions"]), rtol=1e-5, atol=1e-5)


def test_position_grid_encodes_row_and_column_of_each_cell() -> None:
    """For a map of 2 x 2 cells and 4 columns: sine and cosine of pi and 2 pi for the row, then for the column."""
    first, second = [0.0, -1.0], [0.0, 1.0]
    expected = torch.tensor([first + first, first + second, second + first, second + second])
    torch.testing.assert_close(position_grid(2, 2, 4), expected, rtol=0, atol=1e-5)


def test_sinusoids_are_sines_and_cosines_of_the_position() -> None:
    expected = [
        [0.0, 1.0, 0.0, 1.0],
        [0.841471, 0.540302, 0.0099998, 0.99995],
        [0.909297, -0.416147, 0.0199987, 0.9998],
    ]
    torch.testing.assert_close(sinusoids(3, 4), torch.tensor(expected), rtol=0, atol=1e-5)
