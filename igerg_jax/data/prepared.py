"""A prepared dataset, opened."""

import json
import pathlib
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from igerg_jax.data import folders, pipeline, store, tokenizers
from igerg_jax.data.windows import Split


class Prepared:
    """A prepared dataset: `igerg_jax.data.datasets.Dataset`.

    Attributes:
      dataset: its name.
      tokenizer: the one its text was tokenised with.
      folder: of the tokens; the turns are in the folder `turns` beside it.
      summary: {"splits": {split: counts}, ...}, as `igerg_jax.data.writer.turns` wrote it.
      split_names: in the order of the summary.
      datasets: {name: Prepared}, all that the config names, including this one.
    """

    def __init__(self, dataset: str, folder: pathlib.Path, data: ConfigDict):
        """Opens `folder` with the settings `config.data`."""
        self.dataset = dataset
        self.folder = folder
        self.tokenizer = tokenizers.load(data.tokenizer.kind, folder / "tokenizer.model")
        self.turns_folder = folder.parent / "turns"
        self.summary = json.loads((self.turns_folder / "summary.json").read_text())
        self.split_names = tuple(self.summary["splits"])
        self.datasets: dict[str, Prepared] = {dataset: self}
        self._context_turns = data.context_turns
        self._response_tokens = data.response_tokens
        self._splits: dict[str, Split] = {}

    def describe(self, config: ConfigDict) -> str:
        split = config.data.train_split
        windows = {name: each.split(split).num_windows for name, each in self.datasets.items()}
        said = f"{self.dataset}, {windows.pop(self.dataset):,} training windows in {self.folder}"
        return said + "".join(f"; {name}, {number:,}" for name, number in windows.items())

    def train_batches(
        self, config: ConfigDict, start_step: int, rows_b: np.ndarray
    ) -> Iterator[dict[str, np.ndarray]]:
        return pipeline.train_batches(self, config, start_step, rows_b)

    def check_split(self, name: str, key: str = "") -> None:
        """Raises UserError, as `folders.check_split`, if there is no such split."""
        folders.check_split(self.dataset, name, self.split_names, self.folder.parent, key)

    def split(self, name: str) -> Split:
        """Returns a split by name. Raises UserError if there is no such split."""
        self.check_split(name)
        if name not in self._splits:
            turns = store.TurnStore(self.turns_folder / name, self.folder / name)
            standalone = self.summary["splits"][name]["standalone"]
            self._splits[name] = Split(name, turns, standalone, self._context_turns)
        return self._splits[name]

    def response_token_counts(self, name: str) -> np.ndarray:
        """Returns int64[V]: the number of occurrences of each id in a split's responses.

        Responses are truncated as in a batch: to `response_tokens`, including the final EOS.
        """
        split = self.split(name)
        turns, starts = split.turns, split.turns.token_offsets[:-1]
        lengths = np.minimum(turns.token_counts(), self._response_tokens - 1)
        counts_V = np.zeros(self.tokenizer.vocab_size, np.int64)
        for ends in np.array_split(split.response_turn, max(1, split.num_windows // 100_000)):
            # The tokens of these responses, concatenated.
            kept = lengths[ends]
            first = np.repeat(starts[ends] - (np.cumsum(kept) - kept), kept)
            chosen = turns.token_ids[first + np.arange(kept.sum())]
            counts_V += np.bincount(chosen, minlength=len(counts_V))
        counts_V[self.tokenizer.special.eos] += split.num_windows
        return counts_V
