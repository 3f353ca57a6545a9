"""Byte-pair encoding: start from bytes, and merge the most frequent pair, again and again.

    repeat until the vocabulary is full:
        count all pairs of neighbouring tokens in the training text
        give the most frequent pair a new id, and replace it everywhere by that id

Frequent words end as one token, rare ones as a few pieces, and since the first 256 entries are the
bytes themselves there is nothing that cannot be encoded. So is GPT-2's tokenizer made, with 50,000
merges. As there, text is first cut into words (a regular expression that keeps a space together
with the word after it), and no merge crosses the border of a word: otherwise frequent phrases
would eat the vocabulary.

Papers: Gage 1994, "A New Algorithm for Data Compression"; Sennrich, Haddow and Birch 2016, "Neural
Machine Translation of Rare Words with Subword Units" (arXiv:1508.07909); Radford et al. 2019,
"Language Models are Unsupervised Multitask Learners" (the byte-level variant).

The counting runs in the `tokenizers` library. One version of it makes the same merges from the
same text every time; the merges travel in the checkpoint, so that another version never has to
make them again.
"""

import json

from baremetal.data.library_tokenizer import LibraryTokenizer, tokenizers_library
from baremetal.errors import BaremetalError

BYTES = 256


class BPETokenizer(LibraryTokenizer):
    """Byte-level BPE; make one with `BPETokenizer.train`."""

    kind = "bpe"

    @classmethod
    def train(cls, text: str, vocab_size: int) -> "BPETokenizer":
        """Learn merges from `text`.

        Args:
            text: the training text, and only that: merges learned from the validation text would
                make it look easier than it is.
            vocab_size: 256 bytes plus the number of merges. A short text may run out of pairs
                earlier; the `vocab_size` of the result is what came of it.

        Raises:
            BaremetalError: a vocabulary without room for the bytes, or the library is missing.
        """
        if vocab_size <= BYTES:
            raise BaremetalError(
                f"a BPE vocabulary of {vocab_size:,} leaves no room for merges: it holds the "
                f"{BYTES} bytes first, so ask for more, such as bpe:512"
            )
        library = tokenizers_library()
        byte_level = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = byte_level
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            # All 256, seen or not; sorted, for the library hands them out in any order.
            initial_alphabet=sorted(byte_level.alphabet()),
            special_tokens=[],
            show_progress=False,
        )
        tokenizer.train_from_iterator([text], trainer)
        return cls(json.loads(tokenizer.to_str()), f"bpe:{vocab_size}")
