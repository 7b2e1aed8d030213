"""Pools and shares, against what SGLang's own functions said (``tests/cases/sglang_models.py``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.engines.sglang.engine import ENGINE, longest_of
from estimator.engines.sglang.pools import most_requests, pool_of, slots_of_request, state_bytes, tokens_of
from estimator.engines.sglang.serving_options import ServingOptions
from estimator.engines.sglang.share import static_share
from estimator.plans.models import load

RECORDED = json.loads((Path(__file__).parent.parent / "data" / "sglang_models.json").read_text(encoding="utf-8"))
AVAILABLE = 40 * 2**30
"""What was asked (``tests/cases/sglang_models.py``)."""
CASES = [(model, int(ranks)) for model, answers in RECORDED["models"].items() for ranks in answers]


@pytest.mark.share(12)
@pytest.mark.parametrize(("model", "ranks"), CASES, ids=["-".join(map(str, case)) for case in CASES])
def test_a_rank(model: str, ranks: int) -> None:
    """Witness: SGLang itself: the length, states and their bytes, tokens of the pools in 40 GiB, and requests."""
    said: dict[str, Any] = RECORDED["models"][model][str(ranks)]
    spec = load(model)
    config, raw, own = spec.config, spec.raw, range(spec.config.num_hidden_layers)
    length = longest_of(raw)
    options = ServingOptions(tp_size=ranks, dtype="bfloat16", context_length=length, page_size=1)
    found: dict[str, Any] = {"length": length}
    rest, states = AVAILABLE, None
    if state := sum(state_bytes(config, raw, options, own)):
        states, rest = ENGINE.states(state, rest, options, slots_of_request(config, options))
        found |= {"states": states, "state": state}
    pool = pool_of(tokens_of(config, raw, options, own), rest, options)
    found["tokens"] = pool.tokens
    if pool.windows:
        found["windows"] = pool.windows
    found["requests"] = most_requests(pool.tokens, states, slots_of_request(config, options), options)
    assert found == said


def test_shares() -> None:
    """Witness: SGLang itself: the share of 240 questions about cards, ranks, chunks, graphs and attention."""
    for asked in RECORDED["shares"]:
        groups = asked.get("attn_dp_size", 1)
        options = ServingOptions(
            tp_size=asked["tp_size"],
            pp_size=asked["pp_size"],
            dp_size=groups,
            enable_dp_attention=groups > 1,
            chunked_prefill_size=asked.get("chunked_prefill_size"),
            max_running_requests=asked.get("max_running_requests"),
            cuda_graph_max_bs_decode=asked.get("graph"),
            disable_decode_cuda_graph=asked.get("no_graphs", False),
            disable_prefill_cuda_graph=asked.get("no_graphs", False),
        )
        raw = {"kv_lora_rank": 512} if asked.get("latent") else {}
        assert static_share(options, raw, asked["memory"] * 2**20) == asked["share"], asked
    assert len(RECORDED["shares"]) == 240


def test_built_in_models_were_asked() -> None:
    """SGLang's functions answer for every one."""
    assert len(RECORDED["models"]) >= 178
    assert not [model for model, answers in RECORDED["models"].items() if "error" in str(answers)]
