"""What is saved for backward, held in the host's memory."""

from __future__ import annotations

from tests.cases.kinds import Refused

OFFLOADED, ON_HOST = {"checkpointing": "offloaded"}, {"saved_activations": "on-host"}
REFUSED: list[Refused] = [
    ({}, {"model": "llama-3.2-1b", "method": "lora", **keys}, says)
    for keys, says in (
        (OFFLOADED, "on runtime torch-cpu the model is there itself"),
        (ON_HOST, "on runtime torch-cpu the model is there itself"),
        ({**ON_HOST, "runtime": "torch-cuda", "dtype": "gptq"}, "no rule for a base in gptq"),
        ({**ON_HOST, "runtime": "torch-cuda", "mlp_chunks": 2}, "set mlp_chunks to 1"),
        ({**ON_HOST, "runtime": "torch-cuda", "activation_group_size": 32}, "int8 or int4"),
        ({**OFFLOADED, "runtime": "torch-cuda", "method": "psoft"}, "does not move what is saved"),
        ({**OFFLOADED, "runtime": "torch-cuda", "method": "mezo"}, "set checkpointing: none"),
    )
]
