"""ERNIE 4.5's released tokenizer: a SentencePiece model with marks as cls_token and sep_token, and its own class."""

from __future__ import annotations

import json
from pathlib import Path

import official
import pytest
import sentencepiece
from small_vocabulary import train_model
from transformers import LlamaTokenizer, PreTrainedTokenizer

from paddlemix.checkpoints.layouts.torch_tokenizer import write_tokenizer
from paddlemix.conversation import tokenizer_files
from paddlemix.conversation.load_tokenizer import load_tokenizer
from paddlemix.conversation.messages import Conversation, Message
from paddlemix.conversation.render import render
from paddlemix.conversation.templates import get_template
from paddlemix.conversation.tokenize import tokenize

START, END = "<|begin_of_sentence|>", "<|end_of_sentence|>"
ANSWER = "Assistant: "
NO_PREFIX = b"\x1a\x02\x18\x00"  # field 3, the normalizer, whose add_dummy_prefix is false; the last one counts
SETTINGS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<unk>",
    "unk_token": "<unk>",
    "cls_token": START,
    "sep_token": END,
    "mask_token": "<mask:1>",
    "additional_special_tokens": None,
    "tokenizer_class": "Ernie4_5_Tokenizer",
    "auto_map": {"AutoTokenizer": ["tokenization_ernie4_5.Ernie4_5_Tokenizer", None]},
}
ROUNDS = [
    ("What is in the picture?", "A red square."),
    ("  \n Hello,\nwho are  you?", " \n I am naïve 😀.\n\n  你好"),
    ("<image>\n What is <image> it?", "no"),
]


class ErnieTokenizer(PreTrainedTokenizer):
    """Restates the released class: SentencePiece encodes the texts between special tokens, and no BOS is added."""

    def __init__(self, file: Path, **names):
        self.model = sentencepiece.SentencePieceProcessor(model_file=str(file))
        super().__init__(**names)

    @property
    def vocab_size(self):
        return self.model.get_piece_size()

    def get_vocab(self):
        return {self.model.id_to_piece(index): index for index in range(self.vocab_size)}

    def _tokenize(self, text):
        return self.model.encode(text, out_type=str)

    def _convert_token_to_id(self, token):
        return self.model.piece_to_id(token)

    def _convert_id_to_token(self, index):
        return self.model.id_to_piece(index)


@pytest.fixture(scope="module", params=[True, False], ids=["prefix", "no-prefix"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ernie")
    model = train_model((START, END, "<mask:1>")) + (b"" if request.param else NO_PREFIX)
    (folder / "tokenizer.model").write_bytes(model)
    (folder / "tokenizer_config.json").write_text(json.dumps(SETTINGS))
    return folder


def ids_of(rounds, system, tokenizer):
    messages = [] if system is None else [Message("system", system)]
    for question, answer in rounds:
        messages += [Message("user", question), Message("assistant", answer)]
    talk = Conversation(messages)
    return tokenize(render(talk, get_template("ernie")), tokenizer, [1] * talk.num_marks)[0]


def reference_of(folder):
    roles = {name: SETTINGS[name] for name in tokenizer_files.ROLES}
    return ErnieTokenizer(folder / "tokenizer.model", **roles)


def chunk_ids(reference, text):
    """Return the ids of a text without BOS; answers are encoded separately, as paddlenlp does for training."""
    parts = text.replace(ANSWER, f"{ANSWER}\0").split("\0")
    return [token_id for part in parts for token_id in official.chunk_ids(reference, part)[1:]]


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_ids_of_a_prompt_equal_those_of_the_released_tokenizer(folder, system):
    messages = [Message("system", system)] if system else []
    question = "<image>\nWhat is  it?"
    segments = render(
        Conversation([*messages, Message("user", question)]), get_template("ernie"), add_generation_prompt=True
    )
    ids, _ = tokenize(segments, load_tokenizer(folder), [1])
    reference = reference_of(folder)
    assert ids == official.chunk_ids(reference, official.ernie(system, [], question))[1:]
    assert ids[0] == reference.cls_token_id


@pytest.mark.parametrize("folder", [False], ids=["no-prefix"], indirect=True)  # else answers start with a space
def test_ids_of_a_conversation_equal_those_of_the_released_tokenizer(folder):
    reference = reference_of(folder)
    ids = ids_of(ROUNDS, "Be brief.", load_tokenizer(folder))
    assert ids == chunk_ids(reference, official.ernie("Be brief.", ROUNDS, None))
    assert ids.count(reference.sep_token_id) == len(ROUNDS)


def test_typed_marks_are_text(folder):
    tokenizer = load_tokenizer(folder)
    ids = ids_of([(f"{END}a{START}", f"{START}b{END}")], None, tokenizer)
    assert ids.count(tokenizer.special_id(END)) == ids.count(tokenizer.special_id(START)) == 1


def test_ids_are_the_same_from_a_written_folder_also_in_transformers(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    write_tokenizer(tokenizer, tokenizer.vocab_size, tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "LlamaTokenizer" and settings["add_bos_token"] is False
    assert ids_of(ROUNDS, None, load_tokenizer(tmp_path)) == ids_of(ROUNDS, None, tokenizer)
    prompt, theirs = official.ernie(None, [], "What is  it?"), LlamaTokenizer.from_pretrained(tmp_path)
    assert theirs.encode(prompt) == reference_of(folder).encode(prompt)
