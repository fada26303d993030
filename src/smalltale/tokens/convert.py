"""Convert a pre-trained tokenizer to a smalltale Tokenizer.

Input: a folder, a tokenizer.json, a SentencePiece .model, the name of a tiktoken encoding, or a Hub id.
Output: a Tokenizer, which `save` writes for smalltale and transformers.
Pitfall: a SentencePiece model normalizes text; if that loses characters, `tokens encode` refuses the tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, models

from smalltale.errors import FileProblem, SmalltaleError, first_line
from smalltale.files import END_OF_STORY, read_json
from smalltale.tokens.sentencepiece import read_sentencepiece
from smalltale.tokens.tokenizer import PADDING, Tokenizer, make_byte_level, read_engine, token_names

TIKTOKEN_NAMES = ("gpt2", "r50k_base", "p50k_base", "p50k_edit", "cl100k_base", "o200k_base", "o200k_harmony")


def open_tokenizer(source: str, *, end_token: str | None = None) -> Tokenizer:
    """Open the tokenizer that `source` names.

    The end-of-story token is `end_token`, added if the tokenizer lacks it; by default it is the tokenizer's own.
    A padding token is added if the tokenizer has none, or pads with its end token.
    Raises FileProblem for a missing tokenizer or end token, SmalltaleError for a failed download.
    """
    engine, config = open_engine(source)
    names = token_names(config)
    end = end_token or names["eos_token"] or (END_OF_STORY if has_token(engine, END_OF_STORY) else None)
    if end is None or (end_token is None and not has_token(engine, end)):
        raise FileProblem(
            f"{source} has no end-of-story token{f' {end}' if end else ''}; name one, which is added if it is "
            f"missing: --end-token '{END_OF_STORY}'"
        )
    padding = names["pad_token"]
    if padding is None or padding == end or not has_token(engine, padding):
        padding = PADDING
    # A token that the vocabulary has keeps its id; only its flags may change.
    engine.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (end, padding)])
    return Tokenizer(engine, end_token=end, padding_token=padding)


def has_token(engine: tokenizers.Tokenizer, token: str) -> bool:
    return engine.token_to_id(token) is not None


def open_engine(source: str) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Return the engine that `source` names, and its tokenizer_config.json or the part of it that is known."""
    path = Path(source)
    if path.is_dir():
        return open_folder(path)
    if path.suffix == ".json":
        config = path.with_name("tokenizer_config.json")
        return read_engine(path), read_json(config) if config.exists() else {}
    if path.suffix == ".model":
        return read_sentencepiece(path)
    if source in TIKTOKEN_NAMES:
        return from_tiktoken(source), {"eos_token": END_OF_STORY}
    if source.count("/") <= 1 and not source.startswith((".", "/")):
        return open_folder(download_tokenizer(source))
    raise FileProblem(
        f"{source} does not exist; give a folder, a tokenizer.json, a SentencePiece .model, a Hub id, or one of: "
        f"{', '.join(TIKTOKEN_NAMES)}"
    )


def open_folder(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Open the tokenizer.json of a folder, else its SentencePiece model."""
    if (folder / "tokenizer.json").exists():
        return open_engine(str(folder / "tokenizer.json"))
    for name in ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"):
        if (folder / name).exists():
            return read_sentencepiece(folder / name)
    raise FileProblem(f"{folder} has neither tokenizer.json nor tokenizer.model; give a tokenizer's folder")


def download_tokenizer(hub_id: str) -> Path:
    """Return the folder in the Hub's cache with a repository's tokenizer files, downloaded if needed."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        patterns = ["tokenizer.json", "tokenizer_config.json", "*.model"]
        return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise SmalltaleError(
            f"{hub_id} could not be downloaded from the Hugging Face Hub ({first_line(error)}); check the name and "
            "the network, or give a folder"
        ) from error


def from_tiktoken(name: str) -> tokenizers.Tokenizer:
    """Convert a tiktoken encoding, keeping its ids. Raises SmalltaleError if its ranks cannot be downloaded."""
    try:
        import tiktoken
    except ImportError as error:
        raise SmalltaleError(
            f"{name} needs the package tiktoken, which is not installed; install it with: pip install tiktoken"
        ) from error
    try:
        encoding = tiktoken.get_encoding(name)
    except (OSError, ValueError) as error:
        raise SmalltaleError(
            f"the ranks of {name} could not be downloaded ({first_line(error)}); check the network, or give a "
            "tokenizer.json"
        ) from error
    return from_ranks(encoding._mergeable_ranks, encoding._pat_str, encoding._special_tokens)


def from_ranks(ranks: dict[bytes, int], pattern: str, special_tokens: dict[str, int]) -> tokenizers.Tokenizer:
    """Build a byte-level BPE with the ids of tiktoken's ranked byte strings."""
    letters = byte_letters()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [
        (spelled[left], spelled[right])
        for token, rank in sorted(ranks.items(), key=lambda entry: entry[1])
        if len(token) > 1
        for left, right in [split_by_merges(token, rank, ranks)]
    ]
    vocabulary = {spelled[token]: rank for token, rank in ranks.items()}
    model = models.BPE(vocab={**vocabulary, **special_tokens}, merges=merges)
    engine = make_byte_level(model, to_oniguruma(pattern))
    by_id = sorted(special_tokens, key=special_tokens.__getitem__)
    engine.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in by_id])
    return engine


def split_by_merges(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Return the two parts that the merge of this rank joins: the result of the earlier merges on the token."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        merges = [(ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1)]
        best, i = min(merges)
        if best >= rank:
            raise FileProblem(f"the ranks are incomplete: no merges give {token!r}; download them again")
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


def to_oniguruma(pattern: str) -> str:
    """Translate a pattern for Oniguruma, the engine of tokenizers, in which {1,3}+ repeats {1,3} and $ ends a line.

    A plain {1,3} matches the same text as the possessive one: nothing after it can match a digit.
    """
    return pattern.replace("}+", "}").replace("$", r"\z")


def byte_letters() -> list[str]:
    """Return the character for each byte in a byte-level vocabulary: itself if printable, else one from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    substitutes = iter(range(256, 512))
    return [chr(byte if byte in printable else next(substitutes)) for byte in range(256)]


def describe_tokenizer(tokenizer: Tokenizer) -> str:
    """Return one line about a tokenizer."""
    kind = json.loads(tokenizer.engine.to_str())["model"]["type"]
    return f"{kind}, {tokenizer.vocabulary_size:,} tokens, ends stories with {tokenizer.end_token}"
