"""How ``generate`` chooses tokens, and what its loop holds: ``_sample`` without sampling, and ``_beam_search``.

A name in the loop holds its tensor until the name is assigned again, so also during the next forward pass.
"""

from __future__ import annotations

from ..ledger import ITEMSIZE, Ledger, Size, Tensor


class Greedy:
    """``_sample`` with ``do_sample=False``: the likeliest token of each of ``rows`` sequences."""

    reorders = False
    """Whether the rows of the cache are reordered after each token."""

    def __init__(self, ledger: Ledger, rows: Size, vocab: Size) -> None:
        self.ledger, self.rows, self.vocab = ledger, rows, vocab
        self.names: dict[str, Tensor] = {}

    def sequences(self, tokens: Size) -> Tensor | None:
        """The ids of the ``tokens`` tokens so far, [rows, tokens]. ``None`` where they are the prompts themselves."""
        return self.names.get("input_ids")

    def start(self) -> None:
        """Make what the loop holds before the prefill, the prompts left out."""
        self.names = {"unfinished_sequences": self.ledger.empty((self.rows,), "int64")}

    def resume(self, tokens: Size) -> None:
        """Make what the loop holds before the forward pass over the last of ``tokens`` tokens."""
        self.start()
        self.names["input_ids"] = self.ledger.empty((self.rows, tokens), "int64")
        self.names["next_token_logits"] = self.ledger.empty((self.rows, self.vocab), "float32")
        self.names["next_tokens"] = self.ledger.empty((self.rows,), "int64")

    def choose(self, outputs: list[Tensor], tokens: Size) -> None:
        """Choose the token after ``tokens`` tokens, by the logits in ``outputs``, which alone holds them."""
        names, ledger = self.names, self.ledger
        names["next_token_logits"] = ledger.empty((self.rows, self.vocab), "float32")
        names["next_tokens"] = ledger.empty((self.rows,), "int64")
        names["input_ids"] = ledger.empty((self.rows, tokens + 1), "int64")
        ended = ledger.empty((self.rows,), "bool")
        widened = ledger.empty(ended.shape, "int64")
        names["unfinished_sequences"] = ledger.empty(ended.shape, "int64")  # & ~ended
        del ended, widened
        outputs.clear()


class BeamSearch(Greedy):
    """``_beam_search`` for ``rows / beams`` prompts of ``seq`` tokens. No beam ends before it has ``new`` more tokens.

    Sequences are views of tensors that have room for all tokens.
    """

    reorders = True

    def __init__(self, ledger: Ledger, rows: int, vocab: int, beams: int, seq: int, new: int) -> None:
        super().__init__(ledger, rows, vocab)
        self.beams, self.seq, self.new = beams, seq, new

    def sequences(self, tokens: Size) -> Tensor | None:
        if tokens == self.seq:
            return super().sequences(tokens)
        running = self.names["running_sequences"]
        return Tensor(running.storage, (self.rows, tokens), running.dtype, (running.shape[1], 1))

    def start(self) -> None:
        scores = 2 * self.rows * ITEMSIZE["float32"]  # of the running and of the finished beams
        # is_sent_finished and next_token_hits_stopping_criteria, is_early_stop_heuristic_unsatisfied, top_num_beam_mask
        flags = 2 * self.rows + self.rows // self.beams + 2 * self.beams
        self.names = {
            "input_ids": self.ledger.empty((self.rows, self.seq), "int64"),
            "scores": self.ledger.empty((scores + flags,), "uint8"),
        }
        for kind in ("running", "finished"):
            self._beams(kind, 1)

    def resume(self, tokens: Size) -> None:
        self.start()
        for name in ("logits", "log_probs"):
            self.names[name] = self.ledger.empty((self.rows, self.vocab), "float32")
        self._beams("top", 2)
        self.names["top_log_probs"] = self.ledger.empty((2 * self.rows,), "float32")
        self.names["top_ended"] = self.ledger.empty((self.rows,), "bool")  # for twice as many candidates

    def _beams(self, kind: str, times: int) -> None:
        """Token sequences of ``times`` times ``rows`` beams, and for each new token the beam that it was added to."""
        rows = times * self.rows
        self.names[f"{kind}_sequences"] = self.ledger.empty((rows, self.seq + self.new), "int64")
        self.names[f"{kind}_beam_indices"] = self.ledger.empty((rows, self.new), "int32")

    def choose(self, outputs: list[Tensor], tokens: Size) -> None:
        names, ledger, shape = self.names, self.ledger, (self.rows, self.vocab)
        names["logits"] = ledger.empty(shape, "float32")
        names["log_probs"] = ledger.empty(shape, "float32")  # log_softmax
        outputs.clear()
        names["log_probs"] = ledger.empty(shape, "float32")  # + running_beam_scores
        self._beams("top", 2)
        self._beams("running", 1)
        merged = ledger.empty((3 * self.rows, self.seq + self.new), "int64")
        self._beams("finished", 1)
        del merged
