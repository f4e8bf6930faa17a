"""Data sets to token arrays on disk, once.

    data = load_data(config, folder, tokenizer)
    tokens, targets = data.train.sample(17)

A source is read, checked row by row, rendered and tokenised once; the result is kept under a name
that is the hash of everything it depends on, so concurrent runs share it and a changed file is
never mistaken for an old one. Reading it back maps it into memory.

    sources.py   rows of files, folders and the hub      chat.py        tokens and targets
    messages.py  a row as a checked conversation         rendering.py   what a template makes of it
    shards.py    samples on disk and in memory           pieces.py      tokens by place in the text
    cache.py     what processes share

Importing this package imports neither torch nor transformers.
"""

from __future__ import annotations

from trainer.data.loading import FORMAT, Loader, RunData, cache_dir, load_data
from trainer.data.shards import TokenSet

__all__ = ["FORMAT", "Loader", "RunData", "TokenSet", "cache_dir", "load_data"]
