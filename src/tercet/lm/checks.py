"""What can be known before anything is trained, without loading more than reward models from elsewhere."""

from collections.abc import Sequence

from tercet.config.functions import PERSON
from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.lm import eval as evaluation
from tercet.lm import ppo
from tercet.lm.data.splits import STEPS, StepName, flat, require_pairs, step_examples
from tercet.lm.models.roles import check_logits, load_policy, load_score_model
from tercet.lm.models.weights import config_at, fresh, named_by_key
from tercet.lm.preferences.foreign import check_judge
from tercet.lm.preferences.functions import call_function, load_score_function
from tercet.lm.preferences.pairs import NO_JUDGE
from tercet.lm.reward import samples_pairs
from tercet.lm.sampling.model_check import check_policy
from tercet.lm.scoring import NO_REWARD, OWN, is_ours
from tercet.lm.text.encoder import Encoder, check_conversations, check_tokenizers

_ANSWER = "Yes, I think so."  # where the data holds no answers that a function could be tried on


def check(config: LmConfig, steps: Sequence[str]) -> None:
    """InputError, or a function's FailedError, where one of these steps would stop for want of input."""
    if "ppo" in steps:
        _check_rewards(config)
        if not any(step_examples(config.data, "ppo").validation.values()):
            raise InputError(ppo.NO_VALIDATION)
    if "reward" in steps:
        _check_pairs(config)
    if "reward" in steps or "ppo" in steps:
        check_tokenizers(config)
        _check_models(config)
    if "reward" in steps and config.ppo.policy:  # else the step that loads the policy is the first to train
        with named_by_key(config, config.ppo.policy):
            check_policy(load_policy(config, path=config.ppo.policy, learns=True))
    check_conversations(config, [name for name in STEPS if name in steps])
    if "eval" in steps:
        _check_function(config, config.judge)
        evaluation.check(config)


def _check_rewards(config: LmConfig) -> None:
    """Every name of ppo.reward but this run's reward model: functions are tried, models are looked at."""
    for name in config.ppo.reward:
        if ":" in name:
            _check_function(config, name)
        elif name == OWN:
            continue
        elif is_ours(name, config):
            model = load_score_model(config, path=name, trained=True).model
            with named_by_key(config, name):
                Encoder.of(config, name).check_window(model)
        else:
            examples = step_examples(config.data, "ppo")
            check_judge(name, config, [*flat(examples.train), *flat(examples.validation)])
    if not any(config.ppo.reward.values()):
        raise InputError(NO_REWARD)


def _check_function(config: LmConfig, spec: str, step: StepName = "ppo") -> None:
    """Call it once, on two answers of that step's data."""
    if spec in ("", PERSON):
        return
    function = load_score_function(spec)
    two = flat(step_examples(config.data, step).train)[:2]
    call_function(function, [e.prompt for e in two], [e.chosen or _ANSWER for e in two])


def _check_pairs(config: LmConfig) -> None:
    examples = step_examples(config.data, "reward")
    if not samples_pairs(config, examples):
        require_pairs(examples)
    elif not config.judge:
        raise InputError(NO_JUDGE)
    else:
        _check_function(config, config.judge, "reward")


def _check_models(config: LmConfig) -> None:
    """The policy and what critic and reward model are built from: their shapes, and the windows they read through."""
    encoder = Encoder.of(config)
    with named_by_key(config, config.ppo.policy):
        hf_config = config_at(config.model, config.ppo.policy)
        check_logits(hf_config)
        encoder.check_window(fresh(hf_config, scores=False))
    start = config.reward.model or (config.ppo.policy if config.lora.shared_backbone else "")
    with named_by_key(config, start):
        scorer = fresh(config_at(config.model, start), scores=True, num_layers=config.reward.num_layers)
        encoder.check_window(scorer)
