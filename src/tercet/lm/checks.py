"""Check a config before training, without loading other weights than those of ready models."""

from collections.abc import Sequence

from tercet.config.functions import PERSON
from tercet.config.lm import BASE_MODEL, LmConfig
from tercet.errors import InputError
from tercet.lm import dpo
from tercet.lm import eval as evaluation
from tercet.lm.data.columns import Takes, check_columns, columns_of, columns_of_run
from tercet.lm.data.splits import STEPS, StepExamples, StepName, flat, require_pairs, step_examples
from tercet.lm.engines.server import words_of
from tercet.lm.models.configs import config_at, fresh, named_by_key
from tercet.lm.models.four_bits import check_installed
from tercet.lm.models.roles import check_logits, load_policy, load_score_model
from tercet.lm.pair_batches import samples_pairs
from tercet.lm.ppo.step import NO_VALIDATION
from tercet.lm.preferences.foreign import ForeignRewardModel, check_foreign
from tercet.lm.preferences.functions import call_function, load_score_function
from tercet.lm.preferences.pairs import NO_JUDGE, no_prompts, round_set
from tercet.lm.sampling.model_check import check_policy
from tercet.lm.scoring import NO_REWARD, REWARD_MODEL, is_from_tercet
from tercet.lm.text.encoder import Encoder, check_conversations, check_tokenizers
from tercet.runs.progress import say
from tercet.runs.ranks import share
from tercet.train.device import device_of, multiplies_bf16

_RESPONSE = "Yes, I think so."  # to try a function on data without responses


def check(config: LmConfig, steps: Sequence[str]) -> None:
    """Raise InputError (or a function's FailedError) if one of these steps could not run."""
    if config.cuda_graphs and device_of(config.device).type != "cuda":
        raise InputError("cuda_graphs=true, but torch sees no NVIDIA GPU; set cuda_graphs=false")
    if config.lora.backbone == "nf4":
        check_installed("lora.backbone=nf4")
    if config.optimizer == "adamw8bit":
        check_installed("optimizer=adamw8bit")
    if config.precision == "bf16" and not multiplies_bf16(device_of(config.device)):
        say("precision=bf16: this GPU only emulates products of bf16, which is slow; set precision=fp16")
    encoder = Encoder.of(config)
    columns = columns_of_run(config)
    if "ppo" in steps:
        if config.ppo.sampler == "vllm" and not config.ppo.engine_url:
            words_of(config.ppo.engine_command)
        for judge in (*config.ppo.reward, *config.ppo.watch):
            _check_judge(judge, config, encoder)
        if not any(config.ppo.reward.values()):
            raise InputError(NO_REWARD)
        if not any(step_examples(config.data, "ppo", columns).validation.values()):
            raise InputError(NO_VALIDATION)
    if "dpo" in steps and not any(step_examples(config.data, "ppo", columns).validation.values()):
        raise InputError(dpo.NO_VALIDATION)
    if "reward" in steps or "dpo" in steps:
        _check_pairs(config, step_examples(config.data, "reward", columns))
    if "reward" in steps:
        _check_rounds(config, step_examples(config.data, "reward", columns))
    if {"reward", "ppo", "dpo"} & {*steps}:
        check_tokenizers(config)
        learns_from_scores = "ppo" in steps and (config.ppo.has_critic or REWARD_MODEL in config.ppo.reward)
        scores = "reward" in steps or learns_from_scores
        _check_models(config, encoder, scores=scores)
    if "reward" in steps and config.ppo.policy:  # otherwise the step that loads the policy is the first to train
        with named_by_key(config, config.ppo.policy):
            check_policy(load_policy(config, path=config.ppo.policy, learns=True))
    read = {*steps, *(["reward"] if "dpo" in steps else [])}  # DPO reads the pairs of the reward model
    check_conversations(encoder, config.data, [name for name in STEPS if name in read], columns)
    if "sft" in steps and config.sft.best_fraction < 1:
        _check_function(config.judge, config, "sft")
    if "eval" in steps or "compare" in steps:
        _check_function(config.judge, config)
        for judge in config.eval.unseen_judges:
            _check_judge(judge, config, encoder)
        evaluation.check(config, encoder)


def _check_judge(name: str, config: LmConfig, encoder: Encoder) -> None:
    """Call a function, or load a reward model; this run's reward model and the base model need no check."""
    if ":" in name:
        _check_function(name, config)
    elif name in (BASE_MODEL, REWARD_MODEL):
        return
    elif is_from_tercet(name, config):
        model = load_score_model(config, path=name, trained=True).model
        with named_by_key(config, name):
            encoder.with_tokenizer_at(name, config).check_window(model)
    else:
        foreign = ForeignRewardModel.load(name, config, encoder.style, batch_size=config.ppo.micro_batch_size)
        examples = step_examples(config.data, "ppo", columns_of_run(config))
        check_foreign(foreign, encoder, [*flat(examples.train), *flat(examples.validation), *flat(examples.test)])


def _check_function(spec: str, config: LmConfig, step: StepName = "ppo") -> None:
    """Call a function once, on two responses of that step's data, which must have the columns that it takes."""
    if spec in ("", PERSON):
        return
    function = load_score_function(spec)
    examples = step_examples(config.data, step, columns_of_run(config))
    parts = (examples.train, examples.held_out)
    sets = {name: [e for part in parts for e in part.get(name, [])] for part in parts for name in part}
    share(lambda: check_columns(spec, Takes.of(function), sets))
    two = flat(examples.train)[:2]
    prompts, responses = [e.prompt for e in two], [e.chosen or _RESPONSE for e in two]
    timeout = config.function_timeout_seconds
    call_function(function, prompts, responses, columns_of(two), timeout_seconds=timeout)


def _check_pairs(config: LmConfig, examples: StepExamples) -> None:
    if not samples_pairs(examples, config.reward.num_sampled_pairs):
        require_pairs(examples)
    elif not config.judge:
        raise InputError(NO_JUDGE)
    else:
        _check_function(config.judge, config, "reward")


def _check_rounds(config: LmConfig, examples: StepExamples) -> None:
    """Call the judge of the rounds, and check that there are test prompts and that the names of their sets are free."""
    if not config.reward.num_rounds:
        return
    _check_function(config.judge, config, "reward")
    test, names = examples.test, {round_set(1 + i) for i in range(config.reward.num_rounds)}
    if not any(test.values()):
        raise InputError(no_prompts("test"))
    if taken := names & test.keys():
        raise InputError(f"data: the set {min(taken)} has the name of a round; rename its file, or set its name")


def _check_models(config: LmConfig, encoder: Encoder, *, scores: bool) -> None:
    """Check shapes and context windows of the policy and, with `scores`, of the start of critic and reward model."""
    with named_by_key(config, config.ppo.policy):
        hf_config = config_at(config.model, config.ppo.policy)
        check_logits(hf_config)
        encoder.check_window(fresh(hf_config, scores=False))
    if not scores:
        return
    start = config.reward.model or (config.ppo.policy if config.lora.shared_backbone else "")
    with named_by_key(config, start):
        scorer = fresh(config_at(config.model, start), scores=True, num_layers=config.reward.num_layers)
        encoder.check_window(scorer)
