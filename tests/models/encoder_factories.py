"""Small text encoders for tests: real transformers models with random weights, and tokenizers trained on a few texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

TEXTS = (
    "what is a neural network",
    "who wrote the novel",
    "good movie",
    "bad film",
    "很好 的 电影",
    "größe m",
    "the sea and the river",
)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_tokenizer(folder: Path, texts: Sequence[str] = TEXTS) -> int:
    """`tokenizer.json` as BERT has it; returns the size of its vocabulary."""
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
    letters = set("".join(words))
    # not trained: the trainer's order changes from run to run, and what a network learns with it
    pieces = [*SPECIAL, *sorted(words | letters), *(f"##{letter}" for letter in sorted(letters))]
    tokenizer = Tokenizer(models.WordPiece({piece: k for k, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()


def write_encoder(
    folder: Path, texts: Sequence[str] = TEXTS, kind: str = "bert", seed: int = 0, width: int = 32
) -> Path:
    """The folder of a transformers model: `bert`, `roberta`, or `t5` (an encoder with a decoder)."""
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tokenizer(folder, texts)
    torch.manual_seed(seed)
    size = {"vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4}
    if kind == "bert":
        config = transformers.BertConfig(**size, intermediate_size=64, max_position_embeddings=64)
    elif kind == "roberta":
        config = transformers.RobertaConfig(**size, intermediate_size=64, max_position_embeddings=66, pad_token_id=0)
    else:
        config = transformers.T5Config(
            vocab_size=vocabulary, d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
        )
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    return folder
