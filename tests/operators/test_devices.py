"""Which devices are alike, and numbers of a device that rules ask for."""

from __future__ import annotations

import numpy as np
import pytest

from estimator.operators import Cpu, Cuda
from estimator.operators.attention import _query_block
from estimator.operators.cuda.cublas import workspaces
from estimator.operators.device import Answers, noting

AMPERE, ADA, TURING, HOPPER = (8, 0), (8, 9), (7, 5), (9, 0)


def answers_of(device: Cuda) -> Answers:
    """What a device is asked by a rule that adds products in place."""
    with noting({}) as answers:
        assert device.adds_products_in_place == (device.capability >= AMPERE)
    return answers


def test_a_device_is_like_one_that_answers_alike() -> None:
    answers = answers_of(Cuda(AMPERE))
    assert Cuda(ADA).is_alike(Cuda(AMPERE), answers)
    assert not Cuda(TURING).is_alike(Cuda(AMPERE), answers)
    assert Cuda(TURING).is_alike(Cuda(AMPERE), {}), "nothing was asked that they differ in"
    assert not Cuda(ADA, multiprocessors=142).is_alike(Cuda(AMPERE), answers)
    assert not Cuda(ADA, sdpa_kernel="math").is_alike(Cuda(AMPERE), answers)
    assert not Cuda(AMPERE).is_alike(Cpu(), answers)
    assert not Cpu().is_alike(Cuda(AMPERE), {})
    assert Cpu().is_alike(Cpu(), {})
    assert not Cpu(onednn_bfloat16=False).is_alike(Cpu(), {})


def test_what_is_asked_is_noted_within_alone() -> None:
    with noting({}) as outer:
        with noting({}) as inner:
            assert Cuda(HOPPER).runs_flash_attn
        assert len(inner) == 1
        assert not outer
        assert not Cuda(TURING).runs_flash_attn
    assert [*outer.values()] == [False]
    assert Cuda(TURING).runs_flash_attn is False
    assert len(outer) == 1


def test_a_process_has_a_workspace_of_each_thread() -> None:
    """cuBLAS has one for each handle, and backward runs in a thread of its own (``CublasHandlePool.cpp``)."""
    assert [workspaces(runs_backward) for runs_backward in (False, True)] == [1, 2]
    assert Cuda(HOPPER).cublas_workspace == 32 * 1024 * 1024
    assert Cuda(AMPERE).cublas_workspace == Cuda(TURING).cublas_workspace == 8_519_680


@pytest.mark.parametrize("seq", [1, 31, 32, 33, 191, 192, 193, 767, 768, 769])
def test_rows_of_a_query_block(seq: int) -> None:
    """By hand from ``FlashAttentionKernel.cpp: flash_attention_kernel_impl``; of many lengths as of each."""
    wanted = 256 if seq > 767 else 64 if seq > 191 else 32 if seq > 31 else seq
    assert _query_block(seq) == wanted
    assert _query_block(np.array([seq, 5])).tolist() == [wanted, 5]
