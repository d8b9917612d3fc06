"""The config of the three steps on a robot arm; every field has a range and a line that says what it does."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from tercet.config.fit import FitConfig
from tercet.config.functions import PERSON
from tercet.config.ppo import LoopConfig
from tercet.config.section import LARGEST_INT, MOST_ROWS, Section, check_product

MOST_STEPS = 100_000
MOST_AT_ONCE = 50_000_000  # steps of episodes that are played side by side


class RandomisationConfig(Section):
    """Domain randomisation of the built-in arm: ranges that every episode draws its own values from."""

    mass: list[float] = Field(default=[1.0, 1.0], min_length=2, max_length=2, description="Of the cube, as a factor: least and most.")
    friction: list[float] = Field(default=[1.0, 1.0], min_length=2, max_length=2, description="Of cube and fingers, as a factor: least and most.")
    latency: list[int] = Field(default=[0, 0], min_length=2, max_length=2, description="Of actions, in steps: least and most.")
    camera: float = Field(default=0.0, ge=0, lt=10, description="Metres that a camera may stand aside.")
    sensor_noise: float = Field(default=0.0, ge=0, lt=10, description="Deviation of the noise on each entry of an observation.")


class PolicyConfig(Section):
    """The networks: what kind of policy, and how large it and the critic, a perceptron with tanh, are."""

    kind: Literal["gaussian", "act", "tokens", "diffusion"] = Field(default="gaussian", description="A perceptron with a Gaussian; action chunks by a transformer (ACT); tokens of a small Llama (as OpenVLA); denoising (as RDT).")
    hidden_size: int = Field(default=128, ge=1, le=4096, description="Units of each hidden layer of policy and critic; the width of a transformer.")
    num_layers: int = Field(default=2, ge=1, le=64, description="Their hidden layers; the layers of a transformer.")
    num_heads: int = Field(default=4, ge=1, le=4096, description="Attention heads of `act`; they divide hidden_size.")
    chunk_size: int = Field(default=4, ge=1, le=1000, description="Actions that `act` and `diffusion` decide on and execute at a time.")
    latent_size: int = Field(default=32, ge=1, le=4096, description="Numbers of the latent of `act`.")
    kl_weight: float = Field(default=10.0, ge=0, le=1e6, description="Weight of the latent's divergence in the loss of `act`.")
    cameras: list[str] = Field(default=[], description="Of `act`: cameras that it sees by, such as [front, wrist] (of the built-in arm `front`, `top`, `wrist`); none: no pictures are drawn.")
    image_size: list[int] = Field(default=[96, 96], min_length=2, max_length=2, description="Height and width of its pictures; a recording's and a robot's are cut to this shape and resized.")
    sees: Literal["everything", "itself"] = Field(default="everything", description="Of `act`: the whole observation, or only what the arm measures on itself: where cube and goal are, its cameras must tell. Critic and reward model see everything either way.")
    backbone: str = Field(default="", description="Of `act` with cameras: a file of weights of torchvision's resnet18 (.pth or .safetensors) to begin with; empty: drawn at random, nothing is downloaded.")
    log_std: float = Field(default=-1.2, ge=-5, le=2, description="Logarithm of the deviation with which PPO begins to explore; `tokens` is cloned from actions with so much noise, and explores by its own probabilities.")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.kind == "act" and self.hidden_size % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} must divide hidden_size={self.hidden_size}")
        if self.kind != "act" and (self.cameras or self.sees != "everything"):
            raise ValueError(f"cameras and sees are for kind=act, not {self.kind}")
        if self.cameras and (self.hidden_size % 4 or len(set(self.cameras)) < len(self.cameras)):
            raise ValueError(f"cameras={self.cameras} must differ, and hidden_size={self.hidden_size} be a multiple of 4")
        if not all(32 <= side <= 960 for side in self.image_size):
            raise ValueError(f"image_size={self.image_size}: each side must be from 32 to 960")
        if self.kind == "tokens" and self.hidden_size % (2 * max(1, self.hidden_size // 64)):
            raise ValueError(f"hidden_size={self.hidden_size} must be even, and from 64 on a multiple of 64, for tokens")
        return self


class BcConfig(FitConfig):
    """Step 1, imitate: behaviour cloning from demonstrations."""

    demonstrations: str = Field(default="expert", description="`expert` (the scripted one), module:function (yours: an observation to an action in the environment's own units), `none` (start from a fresh policy), or a recording: a folder in LeRobot's format, or an .npz file.")
    num_demonstrations: int = Field(default=3, ge=1, le=MOST_ROWS, description="Demonstrations to learn from; of a recording, the first so many.")
    task: str = Field(default="", description="Of a recording of several tasks: the one to learn from, in its own words.")
    action_units: Literal["stated", "scaled", "environment"] = Field(default="stated", description="In which units a recording's actions are: `scaled` (-1 to 1), the `environment`'s own, or as it says itself; where it says nothing, the ones that they fit.")
    cut_idle: bool = Field(default=False, description="Leave out a recording's steps in which nothing moves, but for the rest at the end; `tercet arm data` counts them.")
    whole_episodes: bool = Field(default=False, description="Learn from the whole episodes of a recording that was broken off, or that lacks files.")
    num_eval: int = Field(default=64, ge=1, le=MOST_ROWS, description="Starts on which the clone is tried when it is made.")
    noise: float = Field(default=0.1, ge=0, le=100, description="Deviation of the noise on what the expert does, while the clean action is what is learned.")


class RewardConfig(FitConfig):
    """Step 2, judge: an ensemble of reward models from feedback on segments."""

    judge: str = Field(default="tercet.arm.judge:nearer_the_target", description="module:function (segments -> scores) in place of a teacher; the higher score is preferred. Or `person`: the run stops, and `tercet label DIR` asks.")
    look_for: str = Field(default="", description="What a person is told to look for; empty: the task's own line.")
    feedback: Literal["pairs", "steps"] = Field(default="pairs", description="Which of two segments is better; or of single steps, whether each was good or bad: a person says so while an episode plays.")
    num_pairs: int = Field(default=450, ge=1, le=MOST_ROWS, description="Judgements to learn from before PPO begins.")
    num_eval: int = Field(default=50, ge=1, le=MOST_ROWS, description="More judgements, about other episodes, on which it is measured.")
    segment_length: int = Field(default=15, ge=1, le=MOST_STEPS, description="Steps of a segment that is judged as a whole.")
    same_episode: float = Field(default=0.0, ge=0, le=1, description="Share of the comparisons whose two segments are of one episode: they differ by what was done, not by where it began.")
    noises: list[float] = Field(default=[0.2, 0.5, 1.0], min_length=1, description="Deviations of the noise on the policy whose segments are judged.")
    num_episodes: int = Field(default=64, ge=2, le=MOST_ROWS, description="Episodes with each noise, from which segments are cut.")
    num_models: int = Field(default=3, ge=1, le=100, description="Reward models in the ensemble; its mean pays, its disagreement asks.")
    hidden_size: int = Field(default=64, ge=1, le=4096, description="Units of each of their two hidden layers.")
    num_rounds: int = Field(default=0, ge=0, le=MOST_ROWS, description="How often PPO asks again, about segments of the policy as it then is.")
    round_every: int = Field(default=20, ge=1, le=MOST_ROWS, description="PPO updates from one round to the next.")
    pairs_per_round: int = Field(default=100, ge=1, le=MOST_ROWS, description="Judgements in a round, chosen from ten times as many where the ensemble disagrees most.")

    @field_validator("noises")
    @classmethod
    def _are_deviations(cls, value: list[float]) -> list[float]:
        if not all(0 <= noise <= 100 for noise in value) or len(value) > 100:
            raise ValueError("give at most 100 numbers from 0 to 100")
        return value

    @field_validator("judge")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value != PERSON and ":" not in value:
            raise ValueError(f"must be {PERSON}, or a function as module:function")
        return value


class PpoConfig(LoopConfig):
    """Step 3, improve: PPO with actor, critic, reference and reward."""

    reward: dict[str, float] = Field(default={"reward_model": 0.3}, description="Weighted sum, a step, of `reward_model` (this run's), `dense` and `success` (the environment's), penalties (`jerk`, `force`, `outside`: give them weights below 0), other numbers of an environment's infos by their names, and module:function.")
    num_envs: int = Field(default=32, ge=1, le=65536, description="Environments side by side; a rollout is one episode in each.")
    kl_coef: float = Field(default=0.005, ge=0, le=1e6, description="Price of one nat from the reference, at the start.")
    kl_anneal_updates: int = Field(default=60, ge=0, le=MOST_ROWS, description="Updates over which that price falls to 0; 0: it stays.")
    num_eval_states: int = Field(default=64, ge=1, le=MOST_ROWS, description="Starts of the validation that chooses the best checkpoint.")

    @model_validator(mode="after")
    def _batch_is_large_enough(self) -> Self:
        if self.num_minibatches > self.num_envs:
            raise ValueError(f"num_minibatches={self.num_minibatches} of num_envs={self.num_envs} would be empty")
        return self


class EvalConfig(Section):
    """What is measured and shown at the end."""

    num_states: int = Field(default=256, ge=2, le=MOST_ROWS, description="Fresh starts on which every stage is tried.")
    noise: float = Field(default=0.1, ge=0, le=100, description="Deviation of the noise of `bc_noise`, the clone that shakes a little.")
    num_videos: int = Field(default=3, ge=0, le=1000, description="Starts of which a video is made, BC and PPO side by side.")


class ArmConfig(Section):
    """The three steps on a robot arm."""

    seed: int = Field(default=0, ge=0, le=LARGEST_INT, description="Everything that chance decides follows from it.")
    threads: int = Field(default=2, ge=1, le=1024, description="CPU threads that step the simulation; the networks are small, and take one.")
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default=[], description="Where metrics go besides metrics.jsonl.")
    env: str = Field(default="lift", description="`reach`, `lift`, `place` or `push` of the built-in arm, or another environment: an id of Gymnasium's, module:Id-v0 or module:function; see docs/arm-environment.md.")
    horizon: int = Field(default=60, ge=2, le=MOST_STEPS, description="Steps of an episode, 20 a second on the built-in arm.")
    randomisation: RandomisationConfig = RandomisationConfig()
    policy: PolicyConfig = PolicyConfig()
    bc: BcConfig = BcConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PpoConfig = PpoConfig()
    eval: EvalConfig = EvalConfig()

    @model_validator(mode="after")
    def _episodes_fit(self) -> Self:
        for name, number in (
            ("bc.num_demonstrations", self.bc.num_demonstrations),
            ("bc.num_eval", self.bc.num_eval),
            ("reward.num_episodes", self.reward.num_episodes * len(self.reward.noises)),
            ("reward.num_pairs", self.reward.num_pairs),
            ("ppo.num_envs", self.ppo.num_envs),
            ("ppo.num_eval_states", self.ppo.num_eval_states),
            ("eval.num_states", self.eval.num_states),
        ):
            check_product(MOST_AT_ONCE, **{name: number, "horizon": self.horizon})
        if self.reward.segment_length > self.horizon:
            raise ValueError(f"segment_length={self.reward.segment_length} must be at most horizon={self.horizon}")
        return self
