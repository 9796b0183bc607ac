"""A SentencePiece model as a tokenizer of the `tokenizers` library, with the same ids.

transformers reads its tokenizer.json as it is. (Its own conversion of a SentencePiece model puts
its own special tokens first, which moves every id.) Text that spells a special token or a byte
piece, such as "</s>" or "<0x41>", is read as that token there, and as its characters here.
"""

import pathlib

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

SPACE = "▁"
BPE = 2  # trainer_spec.model_type


def of_sentencepiece(path: pathlib.Path) -> Tokenizer:
    """The tokenizer of a SentencePiece model's file, as `data.tokenizers` trains them."""
    from sentencepiece import sentencepiece_model_pb2  # needs protobuf, as TensorFlow does

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(path.read_bytes())
    found = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
    make = _bpe if proto.trainer_spec.model_type == BPE else _unigram
    tokenizer = Tokenizer(make(found))
    charsmap = proto.normalizer_spec.precompiled_charsmap
    tokenizer.normalizer = normalizers.Sequence(
        [
            *([normalizers.Precompiled(charsmap)] if charsmap else []),
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=SPACE, prepend_scheme="always", split=False
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def _unigram(found: sentencepiece.SentencePieceProcessor) -> models.Unigram:
    ids = range(found.get_piece_size())
    pieces = [(found.id_to_piece(i), found.get_score(i)) for i in ids]
    return models.Unigram(pieces, found.unk_id(), _has_bytes(found))


def _bpe(found: sentencepiece.SentencePieceProcessor) -> models.BPE:
    """SentencePiece knows no list of merges: any two pieces merge whose sum is a piece, the one of
    the best score first."""
    vocabulary = {found.id_to_piece(i): i for i in range(found.get_piece_size())}
    words = {piece for piece, i in vocabulary.items() if not _has_role(found, i)}
    merges = []
    for piece in sorted(words, key=lambda piece: -found.get_score(vocabulary[piece])):
        halves = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        own = [pair for pair in halves if words.issuperset(pair)]
        merges += sorted(own, key=lambda pair: [vocabulary[half] for half in pair])
    unknown = found.id_to_piece(found.unk_id())
    return models.BPE(
        vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=_has_bytes(found)
    )


def _has_role(found: sentencepiece.SentencePieceProcessor, i: int) -> bool:
    return found.is_control(i) or found.is_unknown(i) or found.is_byte(i)


def _has_bytes(found: sentencepiece.SentencePieceProcessor) -> bool:
    return any(found.is_byte(i) for i in range(found.get_piece_size()))
