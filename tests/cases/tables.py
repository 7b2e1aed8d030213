"""The tables of this folder by subject: what is measured, what is refused, and which plans' formulas are asked."""

from __future__ import annotations

from tests.cases import (
    activations_and_gradients,
    beft,
    factors_and_rotations,
    inference,
    lars,
    lora_variants,
    memory_savings,
    offloading,
    optimizers,
    prompts_and_subsets,
    quantised_bases,
    sharding,
    sharding_fsdp1,
    small_models,
    structured_updates,
    tensor_parallel,
    trainer_loops,
)
from tests.cases.kinds import Case, Formulas, Refused

MEASURED: dict[str, list[Case]] = {
    "small_models": small_models.all_cases(),
    "lars": lars.MEASURED,
    "lora_variants": lora_variants.MEASURED,
    "factors_and_rotations": factors_and_rotations.MEASURED,
    "structured_updates": structured_updates.MEASURED,
    "prompts_and_subsets": prompts_and_subsets.MEASURED,
    "memory_savings": memory_savings.MEASURED,
    "activations_and_gradients": activations_and_gradients.MEASURED,
    "quantised_bases": quantised_bases.MEASURED,
    "optimizers": optimizers.MEASURED,
    "beft": beft.MEASURED,
    "trainer_loops": trainer_loops.MEASURED,
    "sharding": sharding.MEASURED,
    "sharding_fsdp1": sharding_fsdp1.MEASURED,
    "tensor_parallel": tensor_parallel.MEASURED,
}
REFUSED: dict[str, list[Refused]] = {
    "lora_variants": lora_variants.REFUSED,
    "factors_and_rotations": factors_and_rotations.REFUSED,
    "structured_updates": structured_updates.REFUSED,
    "prompts_and_subsets": prompts_and_subsets.REFUSED,
    "beft": beft.REFUSED,
    "memory_savings": memory_savings.REFUSED,
    "offloading": offloading.REFUSED,
    "activations_and_gradients": activations_and_gradients.REFUSED,
    "quantised_bases": quantised_bases.REFUSED,
    "optimizers": optimizers.REFUSED,
    "inference": inference.REFUSED,
    "trainer_loops": trainer_loops.REFUSED,
    "sharding": sharding.REFUSED,
    "sharding_fsdp1": sharding_fsdp1.REFUSED,
    "tensor_parallel": tensor_parallel.REFUSED,
}
FORMULAS: dict[str, list[Formulas]] = {
    "lora_variants": lora_variants.FORMULAS,
    "factors_and_rotations": factors_and_rotations.FORMULAS,
    "structured_updates": structured_updates.FORMULAS,
    "prompts_and_subsets": prompts_and_subsets.FORMULAS,
    "beft": beft.FORMULAS,
    "memory_savings": memory_savings.FORMULAS,
    "activations_and_gradients": activations_and_gradients.FORMULAS,
    "quantised_bases": quantised_bases.FORMULAS,
    "inference": inference.FORMULAS,
    "trainer_loops": trainer_loops.FORMULAS,
    "sharding": sharding.FORMULAS,
    "tensor_parallel": tensor_parallel.FORMULAS,
}
