"""The trainers whose steps are recorded, and what a plan says of them in their own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..errors import InputError
from ..programs.trainer_calls import TEACHER, Key


class Trainer(NamedTuple):
    """What a plan of a trainer means."""

    pairs: bool = False
    """A batch is so many pairs, of which a model gets both halves: twice as many rows."""
    loss_type: str = ""
    """The default. Empty where there is one loss."""
    has_reference: bool = False
    beta: float = 0.1
    """The default. Without a penalty by it there is no reference, where a trainer generates."""
    num_generations: int = 0
    """The default, where a trainer generates completions for an update; 1 where it makes one of each prompt."""
    has_teacher: bool = False
    """It learns another model's next tokens. Its loss is a divergence, which ``beta`` says."""
    drops_dropout: bool = True
    """``disable_dropout`` by default, of adapters, too."""
    fused: bool = True
    """Its log-probabilities come from a fused head."""
    precomputes: bool = False
    """The reference's log-probabilities may come with the batch."""
    without: tuple[str, ...] = ()
    """Losses that have no reference."""
    steps: str = ""
    """The trainer of TRL whose step it runs, where it is a tool's."""
    release: str = ""
    """The release that it runs, where the plan's key ``trl`` does not say it."""
    embeds: bool = False
    """It trains a model without a head, and its loss compares embeddings of a row's texts."""

    @property
    def scores(self) -> bool:
        """Whether rewards compare several completions of a prompt."""
        return self.num_generations > 1


_TRL: Mapping[str, Trainer] = {
    "trl-dpo": Trainer(True, "sigmoid", True, precomputes=True),
    "trl-kto": Trainer(False, "kto", True, precomputes=True),
    "trl-reward": Trainer(True, fused=False),
    "trl-orpo": Trainer(True, fused=False),
    "trl-cpo": Trainer(True, "sigmoid", fused=False),
    "trl-grpo": Trainer(False, "dapo", True, 0.0, 8, drops_dropout=False),
    "trl-rloo": Trainer(False, "", True, 0.05, 2, drops_dropout=False),
    "trl-gkd": Trainer(beta=0.5, has_teacher=True, fused=False),
    "trl-distillation": Trainer(beta=1.0, num_generations=1, has_teacher=True, drops_dropout=False),
}


def _by_axolotl(steps: str, loss_type: str = "") -> Trainer:
    """A trainer of TRL 1.9, which Axolotl 0.19 requires and whose step it leaves as it is (``core/trainers``)."""
    own = _TRL[steps]
    return own._replace(steps=steps, release="1.9", fused=False, loss_type=loss_type or own.loss_type)


TRAINERS: Mapping[str, Trainer] = {
    **_TRL,
    "axolotl-dpo": _by_axolotl("trl-dpo"),
    "axolotl-kto": _by_axolotl("trl-kto"),
    "axolotl-orpo": _by_axolotl("trl-orpo"),
    "axolotl-simpo": _by_axolotl("trl-cpo", "simpo"),
    "llama-factory-dpo": Trainer(True, "sigmoid", True, fused=False, without=("orpo", "simpo"), release="0.9.5"),
    "llama-factory-kto": Trainer(False, "kto", True, fused=False, release="0.9.5"),
    "sentence-transformers": Trainer(
        loss_type="MultipleNegativesRankingLoss", drops_dropout=False, fused=False, release="6.2", embeds=True
    ),
}
"""By the plan's ``trainer``. Defaults are those of the config classes of TRL 1.16, and of the tools."""
OF_TEXTS = {"TripletLoss": 1}
"""The negatives of a row, of losses that take so many and no others."""


DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout", "hidden_dropout_prob", "classifier_dropout")
"""Rates of a config that modules of the class ``nn.Dropout`` have, which ``disable_dropout_in_model`` sets to zero."""


def reference_of(
    name: str,
    reference: str | None,
    adapted: bool,
    precomputed: bool,
    beta: float | None,
    second: bool,
    loss_type: str | None,
) -> str:
    """What a trainer's reference is (``trainer_calls.Key``). Raises ``InputError`` where none goes, or not this one.

    ``adapted``: the method is PEFT's, so the model without its modules is the reference. ``second``: it is the name of
    another model, which answers as a copy would.
    """
    trainer = TRAINERS[name]
    own = "copy" if second or not adapted else "adapter-off"
    has_none = not trainer.has_reference or loss_type in trainer.without
    if has_none or (trainer.num_generations and not (trainer.beta if beta is None else beta)):
        if reference not in (None, "none"):
            why = "its loss has none" if has_none else "beta is 0"
            raise InputError(f"reference: {reference} does not go with trainer: {name}, since {why}; leave it out")
        return "none"
    if second and trainer.num_generations:
        raise InputError(f"trainer: {name} loads its reference by the policy's own name (TRL); leave reference out")
    if precomputed and reference == "none":
        raise InputError(
            "reference: none does not go with precompute_ref_log_probs: true, which asks the reference before the "
            "training; leave reference out"
        )
    if precomputed:
        return "precomputed"
    if reference == "none":
        raise InputError(f"trainer: {name} compares with a reference; leave reference out, or take {own}")
    if reference == "adapter-off" and not adapted:
        raise InputError(
            "reference: adapter-off is the model without a method of PEFT's, and there is none; take reference: copy"
        )
    return own if second else reference or own


def least_batch(name: str | None, loss_type: str | None) -> int:
    """The fewest rows of a batch. KTO's estimate of a divergence pairs each prompt with another row's completion."""
    return 2 if name in ("trl-kto", "axolotl-kto") and loss_type in (None, "kto") else 1


class Generation(NamedTuple):
    """What comes from one generation."""

    batches: int = 1
    every: int = 0
    """Batches that train until completions are generated anew; 0 if none are."""
    old: bool = False
    """They train more than one update, so their log-probabilities are scored before."""


def generation_of(
    name: str, steps_per_generation: int | None, iterations: int, accumulated: int, generations: int, batch: int
) -> Generation:
    """What a trainer makes of a generation: all batches of an update, unless ``steps_per_generation`` says how many.

    Raises ``InputError`` where a generation has no whole number of prompts, and where updates differ in more than
    whether they generate.
    """
    if not TRAINERS[name].num_generations:
        return Generation()
    batches = accumulated if steps_per_generation is None else steps_per_generation
    if batch * batches % generations:
        several = f"batch: {batch}" if batches == 1 else f"batch: {batch} in {batches} steps of a generation"
        raise InputError(
            f"{several} is not a multiple of num_generations: {generations} (TRL: generation_batch_size must be "
            "divisible by num_generations); give a multiple"
        )
    every = batches * iterations
    if every % accumulated and accumulated % every:
        raise InputError(
            f"completions are generated every {every} batches, of which gradient_accumulation_steps: {accumulated} is "
            "neither a multiple nor a part, so that updates generate at different places, which has no rule; give "
            "another steps_per_generation",
            "steps_per_generation",
        )
    return Generation(batches, every, bool(accumulated % every))


def has_fused_head(name: str, release: str) -> bool:
    """Whether a trainer's log-probabilities come from a fused head, which TRL has since 1.15."""
    return TRAINERS[name].fused and release == "1.16"


def key_of(
    name: str,
    release: str,
    loss_type: str | None,
    reference: str,
    autocast: bool,
    dtype: str,
    compact: bool,
    old: bool,
    rewards: int,
    vllm: bool,
    generates: str = "",
) -> Key:
    """Which step of a trainer it is."""
    fused = has_fused_head(name, release)
    wide = None if fused or TRAINERS[name].num_generations or TRAINERS[name].has_teacher else dtype == "float32"
    old = old and name == "trl-grpo" and not vllm  # the others score them always, or never
    loss = loss_type or TRAINERS[name].loss_type
    return Key(loss, reference, autocast, wide, compact and fused, old, rewards, vllm, generates)


DIVERGENCES = {"forward-kl": 0.0, "reverse-kl": 1.0, "jsd": 0.5}
"""What ``beta`` makes of a distillation's loss: a divergence from the student to the teacher, its reverse, or, between
0 and 1, that of a mixture of both."""


def generates(name: str, lmbda: float, seq_kd: bool) -> str:
    """The model that generates in GKD's largest step: itself if it ever does, else its teacher, or none."""
    if name != "trl-gkd":
        return ""
    return "model" if lmbda else TEACHER if seq_kd else ""


def divergence_of(name: str, beta: float | None) -> str:
    """The name of a trainer's divergence."""
    value = TRAINERS[name].beta if beta is None else beta
    return next((one for one, exact in DIVERGENCES.items() if value == exact), "jsd")
