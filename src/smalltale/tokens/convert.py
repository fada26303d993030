"""Any pre-trained tokenizer becomes a tokenizer folder.

In: a folder, a tokenizer.json, a SentencePiece .model, the name of a tiktoken encoding, or a Hub id.
Out: a Tokenizer that `save` writes for smalltale and transformers alike.
Beware: a SentencePiece model normalises text as it was trained to; where that loses text, `tokens encode` refuses it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from smalltale.errors import FileProblem, SmalltaleError, first_line
from smalltale.files import END_OF_STORY, read_json
from smalltale.tokens.sentencepiece import read_sentencepiece
from smalltale.tokens.tokenizer import PADDING, Tokenizer, read_engine, token_names

TIKTOKEN_NAMES = ("gpt2", "r50k_base", "p50k_base", "p50k_edit", "cl100k_base", "o200k_base", "o200k_harmony")


def open_tokenizer(source: str, *, end_token: str | None = None) -> Tokenizer:
    """The tokenizer that `source` names.

    `end_token` names the end-of-story token, and adds it where the tokenizer lacks it; without it the tokenizer's
    own is taken. A padding token of its own is added where it has none, or pads with the end token.
    Raises FileProblem where there is no tokenizer or it has no end token, SmalltaleError where it cannot be fetched.
    """
    engine, config = find(source)
    names = token_names(config)
    end = end_token or names["eos_token"] or (END_OF_STORY if has(engine, END_OF_STORY) else None)
    if end is None or (end_token is None and not has(engine, end)):
        raise FileProblem(
            f"{source} has no end-of-story token{f' {end}' if end else ''}; name one, which is added where it is "
            f"missing: --end-token '{END_OF_STORY}'"
        )
    padding = names["pad_token"]
    if padding is None or padding == end or not has(engine, padding):
        padding = PADDING
    # Only what is missing is added: adding a known token again may change its id's flags.
    engine.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in (end, padding)])
    return Tokenizer(engine, end_token=end, padding_token=padding)


def has(engine: tokenizers.Tokenizer, token: str) -> bool:
    """Whether a tokenizer knows a token."""
    return engine.token_to_id(token) is not None


def find(source: str) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The engine that `source` names, and the tokenizer_config.json beside it."""
    path = Path(source)
    if path.is_dir():
        return in_folder(path)
    if path.suffix == ".json":
        beside = path.with_name("tokenizer_config.json")
        return read_engine(path), read_json(beside) if beside.exists() else {}
    if path.suffix == ".model":
        return read_sentencepiece(path)
    if source in TIKTOKEN_NAMES:
        return from_tiktoken(source), {"eos_token": END_OF_STORY}
    if source.count("/") <= 1 and not source.startswith((".", "/")):
        return in_folder(fetched(source))
    raise FileProblem(
        f"{source} does not exist; give a folder, a tokenizer.json, a SentencePiece .model, a Hub id, or one of: "
        f"{', '.join(TIKTOKEN_NAMES)}"
    )


def in_folder(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The tokenizer of a folder: its tokenizer.json, else its SentencePiece model."""
    if (folder / "tokenizer.json").exists():
        return find(str(folder / "tokenizer.json"))
    for name in ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"):
        if (folder / name).exists():
            return read_sentencepiece(folder / name)
    raise FileProblem(f"{folder} has neither tokenizer.json nor tokenizer.model; give a tokenizer's folder")


def fetched(hub_id: str) -> Path:
    """The folder in the Hub's cache that holds a repository's tokenizer files."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(
            snapshot_download(hub_id, allow_patterns=["tokenizer.json", "tokenizer_config.json", "*.model"])
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        first = first_line(error)
        raise SmalltaleError(
            f"{hub_id} could not be fetched from the Hugging Face Hub ({first}); check the name and the network, "
            "or give a folder"
        ) from error


def from_tiktoken(name: str) -> tokenizers.Tokenizer:
    """A tiktoken encoding, with its own ids. Raises SmalltaleError where its ranks cannot be fetched."""
    try:
        import tiktoken
    except ImportError as error:
        raise SmalltaleError(
            f"{name} needs the package tiktoken, which is not installed; install it with: pip install tiktoken"
        ) from error
    try:
        encoding = tiktoken.get_encoding(name)
    except (OSError, ValueError) as error:
        first = first_line(error)
        raise SmalltaleError(
            f"the ranks of {name} could not be fetched ({first}); check the network, or give a tokenizer.json"
        ) from error
    return from_ranks(encoding._mergeable_ranks, encoding._pat_str, encoding._special_tokens)


def from_ranks(ranks: dict[bytes, int], pattern: str, specials: dict[str, int]) -> tokenizers.Tokenizer:
    """A byte-level BPE from ranked byte strings, as tiktoken has them, with the same ids."""
    letters = byte_letters()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [
        (spelled[left], spelled[right])
        for token, rank in sorted(ranks.items(), key=lambda each: each[1])
        if len(token) > 1
        for left, right in [halves(token, rank, ranks)]
    ]
    vocabulary = {spelled[token]: rank for token, rank in ranks.items()}
    engine = tokenizers.Tokenizer(models.BPE(vocab={**vocabulary, **specials}, merges=merges))
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(for_oniguruma(pattern)), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens(
        [
            AddedToken(each, special=True, normalized=False)
            for each in sorted(specials, key=specials.__getitem__)
        ]
    )
    return engine


def halves(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts that the merge of this rank joins: what the earlier merges make of the token."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        joined = [(ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1)]
        best, at = min(joined)
        if best >= rank:
            raise FileProblem(f"the ranks hold {token!r}, which no earlier merges make; they are not whole")
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def for_oniguruma(pattern: str) -> str:
    """The same pattern for the library's engine, where {1,3}+ is a loop and $ ends a line.

    Without its possessive mark {1,3} matches the same here: nothing after it can take back a digit.
    """
    return pattern.replace("}+", "}").replace("$", r"\z")


def byte_letters() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary: itself where it prints, else from 256 on."""
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printing else next(others)) for byte in range(256)]


def describe_tokenizer(tokenizer: Tokenizer) -> str:
    """One line about a tokenizer."""
    kind = json.loads(tokenizer.engine.to_str())["model"]["type"]
    return f"{kind}, {tokenizer.vocabulary_size:,} tokens, ends stories with {tokenizer.end_token}"
