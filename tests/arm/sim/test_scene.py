import mujoco
import numpy as np

from tercet.arm.sim import scene
from tercet.arm.sim.kinematics import JOINTS, inverse
from tercet.arm.sim.workspace import WORKSPACE


def test_joints_come_first_then_fingers_then_the_cube() -> None:
    model = scene.build(num_cubes=1)
    names = [mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_JOINT, k) for k in range(model.njnt)]
    assert names == [*JOINTS, "left", "right", "cube"]
    assert scene.build(num_cubes=0).nq == model.nq - 7


def test_it_weighs_about_what_an_so101_does() -> None:
    model = scene.build(num_cubes=0)
    # the moving links of the SO-101 in its own model: 0.1 + 0.103 + 0.104 + 0.079 + 0.087 + 0.012 kg
    assert abs(model.body_mass.sum() - 0.485) < 0.03


def test_fingers_end_above_the_table_at_the_lowest_tip() -> None:
    model = scene.build(num_cubes=0)
    data = mujoco.MjData(model)
    for x, y in [(0.14, -0.12), (0.24, 0.12), (0.19, 0.0)]:
        data.qpos[:5] = inverse(np.array([[x, y, WORKSPACE[2, 0]]]), np.zeros(1))[0]
        mujoco.mj_forward(model, data)
        for name in ("left", "right"):
            finger = data.geom(name)
            reach = np.abs(finger.xmat.reshape(3, 3)[2]) @ model.geom(name).size
            assert 0.002 < finger.xpos[2] - reach < 0.01


def test_fingers_touch_the_cube_and_not_each_other() -> None:
    model = scene.build(num_cubes=1)
    data = mujoco.MjData(model)
    data.qpos[:5] = inverse(np.array([[0.19, 0.0, 0.015]]), np.zeros(1))[0]
    for opening, touching in ((0.0, True), (0.03, False)):
        data.qpos[5:7] = opening
        mujoco.mj_forward(model, data)
        bodies = {tuple(sorted(model.geom(g).name for g in contact.geom)) for contact in data.contact}
        assert (("cube", "left") in bodies) == touching
        assert ("left", "right") not in bodies and ("left", "table") not in bodies


def test_people_see_the_whole_workspace_from_near_by() -> None:
    """In a picture of 4:3, and the cube at least a fifteenth of its height."""
    model = scene.build(num_cubes=1)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = model.camera(scene.VIEW)
    corners = np.stack(np.meshgrid(*WORKSPACE), -1).reshape(-1, 3)
    seen = (corners - data.cam_xpos[camera.id]) @ data.cam_xmat[camera.id].reshape(3, 3)
    half = np.tan(np.radians(camera.fovy[0]) / 2)
    assert (np.abs(seen[:, 1] / -seen[:, 2]) < half).all()
    assert (np.abs(seen[:, 0] / -seen[:, 2]) < half * 4 / 3).all()
    assert (scene.CUBE_HALF / -seen[:, 2] / half > 1 / 15).all()
