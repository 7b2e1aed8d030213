"""How ``generate`` chooses tokens, and what its loop holds: ``_sample`` without sampling, and ``_beam_search``.

A name in the loop holds its tensor until the name is assigned again, so also during the next forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

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

    def begin(self) -> None:
        """Take the sequences so far for a forward pass."""

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

    def begin(self) -> None:
        self.names["flat_running_sequences"] = self.names["running_sequences"]

    def sequences(self, tokens: Size) -> Tensor | None:
        if tokens == self.seq:
            return super().sequences(tokens)
        flat = self.names["flat_running_sequences"]
        return Tensor(flat.storage, (self.rows, tokens), flat.dtype, (flat.shape[1], 1))

    def start(self) -> None:
        scores = 2 * self.rows * ITEMSIZE["float32"]  # of the running and of the finished beams
        # is_sent_finished and next_token_hits_stopping_criteria, is_early_stop_heuristic_unsatisfied, top_num_beam_mask
        flags = 2 * self.rows + self.rows // self.beams + 2 * self.beams
        self.names = {
            "input_ids": self.ledger.empty((self.rows, self.seq), "int64"),
            "scores": self.ledger.empty((scores + flags,), "uint8"),
        }
        for kind in ("running", "finished"):
            for name, (width, dtype) in self._kinds().items():
                self.names[f"{kind}_{name}"] = self.ledger.empty((self.rows, width), dtype)

    def resume(self, tokens: Size) -> None:
        self.start()
        for name in ("logits", "log_probs"):
            self.names[name] = self.ledger.empty((self.rows, self.vocab), "float32")
        for name, (width, dtype) in self._kinds().items():
            self.names[f"top_{name}"] = self.ledger.empty((2 * self.rows, width), dtype)
        self.names["top_log_probs"] = self.ledger.empty((2 * self.rows,), "float32")
        self.names["top_ended"] = self.ledger.empty((self.rows,), "bool")  # for twice as many candidates
        width, dtype = self._kinds()["sequences"]
        self.names["flat_running_sequences"] = self.ledger.empty((self.rows, width), dtype)  # of the pass before
        self.names["beam_idx"] = self._column()

    def _column(self) -> Tensor:
        """A view [rows] of the beams that each beam's last token was added to."""
        indices = self.names["running_beam_indices"]
        return Tensor(indices.storage, (self.rows,), indices.dtype, None if self.new == 1 else (self.new,))

    def _kinds(self) -> dict[str, tuple[int, str]]:
        """Of each beam the tokens, and for each new one the beam that it was added to: how many, and the dtype."""
        return {"beam_indices": (self.new, "int32"), "sequences": (self.seq + self.new, "int64")}

    def _gathered(self, kind: str, rows: Size, names: Sequence[str]) -> dict[str, Tensor]:
        """``_gather_beams``: rows chosen by indices [rows, width], which ``take_along_dim`` makes whole."""
        found: dict[str, Tensor] = {}
        for name in names:
            width, dtype = self._kinds()[name]
            index = self.ledger.empty((rows, width), "int64")
            found[f"{kind}_{name}"] = self.ledger.empty((rows, width), dtype)
            del index
        return found

    def choose(self, outputs: list[Tensor], tokens: Size) -> None:
        names, ledger, shape, rows = self.names, self.ledger, (self.rows, self.vocab), self.rows
        names["logits"] = ledger.empty(shape, "float32")
        names["log_probs"] = ledger.empty(shape, "float32")  # log_softmax
        outputs.clear()
        names["log_probs"] = ledger.empty(shape, "float32")  # + running_beam_scores
        names.update(self._gathered("top", 2 * rows, ("beam_indices", "sequences")))
        names.update(self._gathered("running", rows, ("sequences", "beam_indices")))
        merged = [ledger.empty((3 * rows, width), dtype) for width, dtype in reversed(self._kinds().values())]
        finished = self._gathered("finished", rows, ("sequences", "beam_indices"))
        del merged
        names.update(finished)
        names["beam_idx"] = self._column()
