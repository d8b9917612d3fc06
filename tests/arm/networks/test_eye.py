"""The encoder of pictures: its features say where something is."""

import torch

from tercet.arm.networks.eye import NUM_CHANNELS, NUM_FEATURES, Eye


def spot(x: int, y: int) -> torch.Tensor:
    """A grey picture (1, 64, 64, 3) with a blue square whose upper left corner is at x, y."""
    picture = torch.full((1, 64, 64, 3), 128, dtype=torch.uint8)
    picture[:, y : y + 8, x : x + 8] = torch.tensor([0, 0, 255], dtype=torch.uint8)
    return picture


def sharp_eye() -> Eye:
    """An encoder whose first channel is large where a picture is blue, and whose other features are constant."""
    eye = Eye()
    with torch.no_grad():
        for parameter in eye.parameters():
            parameter.zero_()
        eye.conv1.weight[0, 2, 2, 2] = 4.0
        eye.conv2.weight[0, 0, 1, 1] = 4.0
        eye.conv3.weight[0, 0, 1, 1] = 4.0
    return eye


@torch.no_grad()
def test_the_place_of_a_channel_is_where_its_activation_is() -> None:
    eye = sharp_eye()
    features = eye(torch.cat([spot(28, 28), spot(4, 28), spot(28, 48)]))
    assert features.shape == (3, NUM_FEATURES)
    x, y, strength = (features[:, number * NUM_CHANNELS] for number in range(3))
    # cells of 4 pixels, the middles of the first and last are at -1 and 1
    assert abs(x[0]) < 0.2 and abs(y[0]) < 0.2
    assert x[1] < -0.7 and abs(y[1] - y[0]) < 0.01
    assert y[2] > 0.5 and abs(x[2] - x[0]) < 0.01
    assert (strength > 0.9).all()
    # a channel without an activation is everywhere alike: in the middle, and weak
    assert features[:, [1, NUM_CHANNELS + 1, 2 * NUM_CHANNELS + 1]].abs().max() < 1e-5


@torch.no_grad()
def test_features_of_a_picture_do_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    eye, pictures = Eye(), torch.randint(0, 256, (5, 32, 48, 3), dtype=torch.uint8)
    torch.testing.assert_close(eye(pictures)[3:4], eye(pictures[3:4]), rtol=1e-5, atol=1e-6)
