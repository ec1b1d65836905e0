"""CLIP's byte-pair tokenizer, as Stable Diffusion 2.x's text tower wants it."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MERGES = Path(__file__).resolve().parent / "data" / "clip_merges.txt.gz"
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
"""What merges never cross: English endings, words, single digits, runs of other signs."""


def tokenize(texts: Sequence[str], context_length: int = 77) -> Tensor:
    """Token ids of texts by CLIP's vocabulary (Radford et al. 2021, section 2.4).

    The ids are those of ComfyUI and Hugging Face: case and the width of white space are ignored;
    OpenCLIP's own repairs of text from web pages (HTML entities, curly quotes) are not made.

    Args:
        texts: any strings; what is too long loses its end.
        context_length: ids of each text, start and end included.
    Returns:
        int64 [len(texts), context_length]: start (49406), the text, end (49407), zeros.
    Raises:
        ImportError: the library `tokenizers` is not installed.
        TypeError: one string instead of a sequence of them.
        ValueError: a context length without place for start and end.
    """
    if isinstance(texts, str):
        raise TypeError(f"texts must be a sequence of strings, got the string {texts!r}: put it in a list.")
    if context_length < 2:
        raise ValueError(f"context_length must be at least 2 (start and end), got {context_length}.")
    encodings = _tokenizer(context_length).encode_batch(list(texts))
    ids = [encoding.ids for encoding in encodings]
    return torch.tensor(ids, dtype=torch.int64).reshape(len(ids), context_length)


@cache
def _tokenizer(context_length: int) -> Tokenizer:
    try:
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    except ImportError as error:
        raise ImportError(
            'Prompts need the library "tokenizers", which is not installed: pip install tokenizers'
        ) from error
    lines = gzip.decompress(MERGES.read_bytes()).decode("utf-8").splitlines()
    merges = [(left, right) for left, right in (line.split() for line in lines[1:])]
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [
        *characters,
        *(f"{character}</w>" for character in characters),
        *(left + right for left, right in merges),
        START,
        END,
    ]
    ids = {entry: index for index, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $0 {END}", special_tokens=[(START, ids[START]), (END, ids[END])]
    )
    tokenizer.enable_truncation(context_length)
    tokenizer.enable_padding(length=context_length, pad_id=0, pad_token=entries[0])
    return tokenizer
