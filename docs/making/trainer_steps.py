"""Writes ``model_specs/trainers``: steps of trainers that are answered without PyTorch. Needs TRL.

Give names of trainers to write those alone: ``python -m docs.making.trainer_steps trl-dpo``.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product

from docs.making.llama_factory import builder_of
from estimator.errors import InputError
from estimator.programs.program import Program
from estimator.programs.trainer_calls import TEACHER, Key
from estimator.programs.trainer_programs import folder, written
from estimator.recorder.trainer_family import record_family
from estimator.steps.trainers import DIVERGENCES, has_fused_head
from estimator.steps.trainers import TRAINERS as STEPS

DPO = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip
OF_REFERENCE = ("copy", "adapter-off", "precomputed")
TRAINERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "trl-dpo": (DPO, OF_REFERENCE),
    "trl-kto": (("kto", "apo_zero_unpaired"), OF_REFERENCE),
    "trl-reward": (("",), ("none",)),
    "trl-orpo": (("",), ("none",)),
    "trl-cpo": (("sigmoid", "hinge", "ipo", "simpo", "alphapo"), ("none",)),
    "trl-grpo": (("dapo", "grpo", "bnpo", "dr_grpo"), ("none", "copy", "adapter-off")),
    "trl-rloo": (("",), ("none", "copy", "adapter-off")),
    "trl-gkd": ((*DIVERGENCES,), ("none",)),
    "trl-distillation": ((*DIVERGENCES,), ("none",)),
}
"""For each trainer, its losses and what its reference may be."""
OLDER: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "trl-dpo": (("sigmoid", "ipo"), OF_REFERENCE),
    "trl-kto": (("kto",), OF_REFERENCE),
    "trl-reward": (("",), ("none",)),
    "trl-orpo": (("",), ("none",)),
    "trl-cpo": (("sigmoid", "simpo"), ("none",)),
}
"""Those of TRL 1.9 and 1.14, which have no fused head in these. Its other losses are recorded where it is installed."""
FACTORY: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "llama-factory-dpo": (("sigmoid", "hinge", "ipo", "kto_pair", "orpo", "simpo"), ("copy", "adapter-off", "none")),
    "llama-factory-kto": (("kto",), ("copy", "adapter-off")),
}
"""Those of LLaMA-Factory. ORPO and SimPO have no reference, the others have one."""
GENERATING: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "trl-grpo": (("dapo", "grpo"), ("none", "copy", "adapter-off")),
    "trl-rloo": (("",), ("none", "copy", "adapter-off")),
}
"""Those of 1.14, beside these."""
EMBEDDING: dict[str, tuple[int, ...]] = {
    "MultipleNegativesRankingLoss": (0, 1, 2, 3, 4),
    "CosineSimilarityLoss": (0,),
    "CoSENTLoss": (0,),
    "AnglELoss": (0,),
    "ContrastiveLoss": (0,),
    "TripletLoss": (1,),
}
"""Losses of sentence-transformers, and how many negatives a row has."""
NESTED = (0, 2, 3, 4, 5, 6)
"""How many lengths of an embedding ``MatryoshkaLoss`` takes the first of them of, with a negative and without."""
PACKAGES = ("trl", "transformers", "accelerate", "peft", "torch")


def keys(trainer: str, release: str) -> Iterator[Key]:
    """The steps of a trainer under a release. All others that a model scores follow from one."""
    if STEPS[trainer].embeds:
        yield from _of_embeddings()
        return
    losses, references = of_release(release)[trainer]
    fused, generates = has_fused_head(trainer, release), STEPS[trainer].num_generations > 0
    without = STEPS[trainer].without
    for loss_type in losses:
        for reference in references:
            if without and (loss_type in without) != (reference == "none"):
                continue
            for autocast in (False, True):
                for wide in (None,) if fused or generates or STEPS[trainer].has_teacher else (True, False):
                    for compact in (False, True) if fused else (False,):
                        for old in (False, True) if trainer == "trl-grpo" else (False,):
                            yield Key(loss_type, reference, autocast, wide, compact, old)
                        for which in ("model", TEACHER) if trainer == "trl-gkd" else ():
                            yield Key(loss_type, reference, autocast, wide, compact, generates=which)
                        if STEPS[trainer].scores and loss_type in losses[:2]:
                            yield Key(loss_type, reference, autocast, wide, compact, vllm=True)
                        if STEPS[trainer].scores and loss_type == losses[0]:
                            if reference == "none" and not compact:
                                yield Key(loss_type, reference, autocast, wide, compact, rewards=1)
                            if release == "1.16":
                                yield Key(loss_type, reference, autocast, wide, compact, rewards=2)


def _of_embeddings() -> Iterator[Key]:
    """The steps of sentence-transformers' trainer: in float32, in 16 bits, and under autocast."""
    for autocast, wide in ((False, True), (False, False), (True, True)):
        for pooling, normalize, (loss_type, several) in product(("mean", "cls"), (False, True), EMBEDDING.items()):
            for negatives in several:
                nested = loss_type == "MultipleNegativesRankingLoss" and negatives < 2
                for dims in NESTED if nested else (0,):
                    yield Key(
                        loss_type, "none", autocast, wide, pooling=pooling, normalize=normalize,
                        negatives=negatives, dims=dims,
                    )  # fmt: skip


def of_release(release: str) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """``TRAINERS``, what there is of them under an older release, or those of another library that is installed."""
    if find_spec("sentence_transformers") is not None:
        return {"sentence-transformers": ((), ())}
    if release.startswith("0."):
        return FACTORY
    return {"1.16": TRAINERS, "1.14": {**OLDER, **GENERATING}}.get(release, OLDER)


def main(only: list[str]) -> None:
    """Record and write."""
    libraries = [one for one in ("llamafactory", "sentence_transformers", "trl") if find_spec(one) is not None]
    release = version(libraries[0])
    release = release if release.startswith("0.") else ".".join(release.split(".")[:2])
    packages = [one.replace("_", "-") for one in libraries] + [*PACKAGES[1:]]
    gc.collect()
    gc.freeze()  # accelerate collects garbage whenever a trainer starts
    for trainer in only or of_release(release):
        started, found = time.monotonic(), dict[Key, Program]()
        for key in keys(trainer, release):
            try:
                found[key] = record_family(trainer, key, builder_of(trainer))
            except (InputError, ValueError) as error:
                print(f"{trainer} {key}: {error}", flush=True)
        path = folder() / f"{trainer}-{release}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            written(release, {name: version(name) for name in packages}, found),
            encoding="utf-8",
        )
        seconds = time.monotonic() - started
        print(f"{path.name}: {len(found)} steps, {path.stat().st_size:,} bytes, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    main(sys.argv[1:])
