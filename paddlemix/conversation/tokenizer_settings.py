"""Read the settings files of a tokenizer: roles, added tokens, and how text is encoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..foreign_json import FLAG, OBJECT, TEXT, KeyRules, Kind, check_keys, check_values, shown, stated_but_unused
from .added_tokens import MAX_ID, NEVER_READ, AddedToken, check_number, parse_token
from .tokenizer_files import ADDED_FILE, CONFIG_FILE, PADDLE_FILE, ROLES, SPECIALS_FILE, TokenizerFiles

LISTED = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")
BARE_CLASSES = ("Ernie4_5_Tokenizer", "Ernie4_5Tokenizer")  # without add_bos_token, these add no BOS token
# Slow classes of transformers whose ids differ from the ids of their SentencePiece model.
MOVED_IDS = ("XLMRobertaTokenizer", "CamembertTokenizer", "MBartTokenizer", "MBart50Tokenizer", "BarthezTokenizer")
MOVED_IDS += ("NllbTokenizer", "M2M100Tokenizer", "XGLMTokenizer", "DebertaV2Tokenizer", "PegasusTokenizer")
RULES = KeyRules(
    used=frozenset((*LISTED, "added_tokens_decoder", "add_bos_token", "add_prefix_space", "legacy", "tokenizer_class"))
    | {"chat_template"},  # read with the model
    # The origin of the tokenizer, options of calls that are not made here, and settings of other classes that the
    # classes of LLaMA, Gemma, Qwen2, Phi-3 and PreTrainedTokenizerFast keep and never use.
    inert=frozenset(
        """auto_map backend cache_dir device_map files_loaded force_download from_slow init_inputs is_fast is_local
        local_files_only max_len max_length merges_file model_input_names model_max_length name_or_path
        pad_to_multiple_of pad_token_type_id pad_token_type padding padding_side processor_class response_schema
        response_template revision special_tokens_map_file stride subfolder tokenizer_file token_type_ids
        tokenizer_type transformers_version trust_remote_code truncation truncation_side truncation_strategy
        use_auth_token use_fast use_default_system_prompt verbose version vocab_file vocab_size
        add_generation_prompt chat_control_tokens errors from_flax gguf_file mode padding_strategy
        return_token_type_ids tokenize_chinese_chars do_basic_tokenize never_split trim_offsets wordpieces_prefix
        keep_accents suffix_first added_tokens_file add_special_tokens attn_implementation bos_token_id cls_token_id
        dtype eos_token_id load_in_4bit load_in_8bit low_cpu_mem_usage mask_token_id max_model_input_sizes
        model_type pad_token_id proxies resume_download return_special_tokens_mask return_tensors sep_token_id token
        torch_dtype unk_token_id use_cache _commit_hash _name_or_path tokenizer_version tool_parser_type
        image_token_id image_token_index patch_size image_size image_seq_length num_additional_image_tokens
        vision_feature_select_strategy""".split()
    ),
    fixed={
        **dict.fromkeys(("add_eos_token", "split_special_tokens", "fix_mistral_regex"), (False, None)),
        **dict.fromkeys(("do_lower_case", "strip_accents"), (False, None)),
        "sp_model_kwargs": ({}, None),
    },
    ignored=frozenset(
        """clean_up_tokenization_spaces spaces_between_special_tokens
        clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output""".split()
    ),
)
DECODER = Kind(lambda value: isinstance(value, dict), "an object of ids and tokens").or_null()
CHAT = Kind(lambda value: isinstance(value, str | list | dict), "a text, or several with their names").or_null()
KINDS = {"added_tokens_decoder": DECODER, "tokenizer_class": TEXT.or_null(), "chat_template": CHAT}
KINDS |= dict.fromkeys(("add_bos_token", "add_prefix_space", "legacy"), FLAG.or_null())
TOKENS = Kind(lambda value: isinstance(value, list | dict), "a list of tokens").or_null()
KINDS |= {"additional_special_tokens": TOKENS, "extra_special_tokens": TOKENS}
KINDS |= {"model_specific_special_tokens": OBJECT.or_null()}
# Of a token that is an object under its role.
TOKEN_FLAGS = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized", "special"), FLAG)


@dataclass(frozen=True)
class TokenizerSettings:
    """The contents of the settings files, with the defaults of LlamaTokenizer.

    bos, eos, unk, pad: token texts or None. added: the added tokens by their texts; is_special is also set for tokens
    that always stay text in a text. named: texts with a role (bos, additional_special_tokens ...). specials: these and
    the special added tokens. add_bos, add_prefix_space: None if not stated. has_no_end: whether the settings state that
    no EOS token is added to a text. unused: keys without effect here whose effect a user could expect, with their
    values.
    """

    bos: str | None
    eos: str | None
    unk: str | None
    pad: str | None
    added: dict[str, AddedToken]
    named: frozenset[str]
    specials: frozenset[str]
    add_bos: bool | None
    has_no_end: bool
    is_legacy: bool
    add_prefix_space: bool | None
    unused: dict[str, Any]


def read_settings(files: TokenizerFiles) -> TokenizerSettings:
    """Return the settings. tokenizer_config.json has priority over special_tokens_map.json and added_tokens.json.

    Raises ValueError for keys and values that would change the ids in an unsupported way.
    """
    config, special_map = files.read_json(CONFIG_FILE), files.read_json(SPECIALS_FILE)
    where, beside = (f"{name} in {files.folder}" for name in (CONFIG_FILE, SPECIALS_FILE))
    _check(config, where)
    _check(special_map, beside)
    named = frozenset({*_named(config, where), *_named(special_map, beside)} - {None})
    names = {key: _text(config.get(key, special_map.get(key)), key, where) for key in ROLES}
    added = _read_added(files, config, named)
    if config.get("tokenizer_class") in MOVED_IDS and files.is_sentencepiece:
        name = config["tokenizer_class"]
        raise ValueError(f"{where} names {name}, whose ids differ from {files.vocabulary}: expected LlamaTokenizer")
    return TokenizerSettings(
        bos=names["bos_token"],
        eos=names["eos_token"],
        unk=names["unk_token"],
        pad=names["pad_token"],
        added=added,
        named=named,
        specials=named.union(text for text, token in added.items() if token.is_special),
        add_bos=config.get("add_bos_token", False if config.get("tokenizer_class") in BARE_CLASSES else None),
        has_no_end=config.get("add_eos_token") is False,
        # PaddleMIX's tokenizer ignores the `legacy` key and always behaves like legacy = true.
        is_legacy=files.vocabulary == PADDLE_FILE or config.get("legacy") in (None, True),
        add_prefix_space=config.get("add_prefix_space"),
        unused=stated_but_unused(config, RULES),
    )


def choose_bos(files: TokenizerFiles, bos_id: int | None, add_bos: bool) -> bool:
    """Return add_bos; raise ValueError if it is true but the vocabulary has no BOS token."""
    if add_bos and bos_id is None:
        raise ValueError(
            f"{CONFIG_FILE} in {files.folder} asks for a BOS token, but bos_token is not in the vocabulary"
        )
    return add_bos


def _check(values: Mapping[str, Any], where: str) -> None:
    """Raise ValueError for unknown keys and invalid values. Roles may have any key."""
    check_keys({key: value for key, value in values.items() if not _is_role(key)}, RULES, where)
    check_values(values, KINDS, where)


def _is_role(key: str) -> bool:
    """Return whether a key names a token, like bos_token or, in other models, image_token."""
    return key.endswith("_token") and not key.startswith("add_")


def _named(values: Mapping[str, Any], where: str) -> set[str | None]:
    """Return the texts to which an object gives a role, by the keys of transformers 4 and 5."""
    found: list[tuple[str, Any]] = []
    for key in LISTED:
        tokens = values.get(key) or ()
        found += [(key, token) for token in (tokens.values() if isinstance(tokens, Mapping) else tokens)]
    found += [(key, token) for key, token in values.items() if _is_role(key)]
    return {_text(token, key, where) for key, token in found}


def _read_added(files: TokenizerFiles, config: Mapping[str, Any], named: frozenset[str]) -> dict[str, AddedToken]:
    """Return the added tokens by their texts.

    As in transformers, added_tokens.json alone counts if there is no added_tokens_decoder, and its tokens are ordinary
    unless they have a role. With a decoder, a token that only added_tokens.json has keeps its id, but is special.
    """
    where = f"added_tokens_decoder of {CONFIG_FILE} in {files.folder}"
    decoder = config.get("added_tokens_decoder")
    check_number(len(decoder or {}), where)
    tokens = [parse_token(token, _number(number, where), where) for number, token in (decoder or {}).items()]
    found = {token.text: token for token in tokens}
    if len(found) < len(tokens):
        raise ValueError(f"{where} has a token twice")
    where = f"{ADDED_FILE} in {files.folder}"
    listed = files.read_json(ADDED_FILE)
    check_number(len(listed), where)
    for text, number in listed.items():
        token = parse_token({"content": text, "special": decoder is not None}, _number(number, where), where)
        other = found.setdefault(text, token)
        if other.token_id != token.token_id:
            raise ValueError(f"{where} gives {text!r} the id {number}, added_tokens_decoder gives it {other.token_id}")
    fixed = named | NEVER_READ
    return {
        text: dataclasses.replace(token, is_special=token.is_special or text in fixed) for text, token in found.items()
    }


def _number(value: Any, where: str) -> Any:
    """Return an id that is a key or a number; any other value is returned as it is, for `parse_token` to refuse."""
    is_short = isinstance(value, str) and len(value) <= len(str(MAX_ID)) and value.isascii()
    return int(value) if is_short and value.isdecimal() else value


def _text(token: Any, key: str, where: str) -> str | None:
    """Return the text of a token that is a string or an object with `content`."""
    text = token.get("content", token) if isinstance(token, Mapping) else token
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{where}: {key} is {shown(token)}, expected a string or an object with 'content'")
    if isinstance(token, Mapping):
        check_values(token, TOKEN_FLAGS, f"{where}, {key}")
    return text or None
