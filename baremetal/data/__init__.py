"""Data: from raw text to batches of token ids.

corpora, text_files     text with a name, from Python itself or from files
tokenizer, *_tokenizer  text to ids and back; `tokenizers` is the menu
tokens                  ids on disk, mapped into memory
batches                 which windows, in which order; a position that can be saved
text_data               all of it in one call
track                   what a bar is told meanwhile
"""

from baremetal.data.batches import EpochSampler, RandomSampler, evaluation_batches, make_sampler
from baremetal.data.bpe_tokenizer import BPETokenizer
from baremetal.data.byte_tokenizer import ByteTokenizer
from baremetal.data.char_tokenizer import CharTokenizer
from baremetal.data.corpora import Corpus, load_corpus
from baremetal.data.library_tokenizer import LibraryTokenizer
from baremetal.data.text_data import TextData, split_text
from baremetal.data.tokenizer import Tokenizer, bits_per_byte, bytes_per_token
from baremetal.data.tokenizers import make_tokenizer, tokenizer_from_json
from baremetal.data.tokens import TokenHeader, open_tokens, read_token_header, write_tokens

__all__ = [
    "BPETokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "Corpus",
    "EpochSampler",
    "LibraryTokenizer",
    "RandomSampler",
    "TextData",
    "TokenHeader",
    "Tokenizer",
    "bits_per_byte",
    "bytes_per_token",
    "evaluation_batches",
    "load_corpus",
    "make_sampler",
    "make_tokenizer",
    "open_tokens",
    "read_token_header",
    "split_text",
    "tokenizer_from_json",
    "write_tokens",
]
