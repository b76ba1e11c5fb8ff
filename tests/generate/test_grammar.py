"""Answers that match a schema, from the bundled model, and from drawn logits with other tokenizers."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from test_stream import byte_level_folder, sentencepiece_folder

from paddlemix import ChatSession, LlavaForConditionalGeneration, LlavaProcessor
from paddlemix.conversation.load_tokenizer import load_tokenizer
from paddlemix.generate.grammar import Guide
from paddlemix.generate.sampler import Sampler
from paddlemix.generate.sampling import Grammar, SamplingParams
from paddlemix.generate.sequence import Sequence
from paddlemix.generate.turn import ending_of, new_turn, sequence_of

pytest.importorskip("llguidance", reason="is optional")

MODEL = Path(__file__).parents[2] / "paddlemix/examples/llava/tiny/model"
QUESTION = "How many shapes are there?"
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
NESTED = {
    "type": "object",
    "properties": {
        "number": {"type": "integer"},
        "shape": {"enum": ["circle", 'sq"uare\\', "圆形\n", None, 3]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 6}, "minItems": 1, "maxItems": 3},
        "inner": {
            "type": "object",
            "properties": {"is_red": {"type": "boolean"}, "none": {"type": "null"}},
            "required": ["is_red"],
            "additionalProperties": False,
        },
    },
    "required": ["number", "shape", "tags", "inner"],
    "additionalProperties": False,
}
SCHEMAS = (
    NESTED,
    {"enum": ["red circle", "蓝色", 'a"b']},
    {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}, "maxItems": 3},
    {"type": "string", "maxLength": 20},
    {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}}},
)


def matches(schema: dict, value, root: dict) -> bool:
    """Return whether a value matches a schema of the keywords above."""
    if "$ref" in schema:
        return matches(root["$defs"][schema["$ref"].rpartition("/")[2]], value, root)
    if "enum" in schema:
        return value in schema["enum"]
    if type(value) is not TYPES[schema["type"]]:
        return False
    if isinstance(value, dict):
        known = schema.get("properties", {})
        is_closed = schema.get("additionalProperties", True) is False
        has_all = set(schema.get("required", ())) <= set(value)
        good = all(matches(known[name], each, root) for name, each in value.items() if name in known)
        return has_all and good and not (is_closed and set(value) - set(known))
    if isinstance(value, list):
        is_right_size = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 99)
        return is_right_size and all(matches(schema["items"], each, root) for each in value)
    return not isinstance(value, str) or len(value) <= schema.get("maxLength", 99)


@pytest.fixture(scope="module")
def parts():
    return LlavaForConditionalGeneration.from_pretrained(MODEL), LlavaProcessor.from_pretrained(MODEL)


@pytest.fixture(scope="module", params=[sentencepiece_folder, byte_level_folder], ids=["sentencepiece", "byte-level"])
def tokenizer(request, tmp_path_factory):
    return load_tokenizer(request.param(tmp_path_factory.mktemp("tokenizer")))


def params_for(schema, **options) -> SamplingParams:
    grammar = Grammar(None if schema is None else json.dumps(schema, ensure_ascii=False))
    return SamplingParams(**{"max_new_tokens": 400, "grammar": grammar, **options})


def drawn_text(tokenizer, schema, rng) -> tuple[str, list[int]]:
    """Return an answer of drawn tokens that are allowed, quotes, brackets and end tokens often."""
    guide = Guide(tokenizer, params_for(schema).grammar, [tokenizer.eos_id])
    often = [number for number in range(tokenizer.vocab_size) if tokenizer.token_bytes(number) in (b'"', b"}", b"]")]
    sampler, ids = Sampler(params_for(schema, temperature=1.0, seed=int(rng.integers(99)))), []
    while not guide.is_complete:
        logits = rng.normal(0, 1, tokenizer.vocab_size).astype(np.float32)
        logits[[*often, tokenizer.eos_id]] += 5
        token = sampler(logits, guide.allowed())
        if token == tokenizer.eos_id:
            break
        ids.append(token)
        guide.append(token)
    return tokenizer.decode(ids, skip_special=False).strip(), ids


@pytest.mark.parametrize("number", range(len(SCHEMAS)))
def test_any_allowed_tokens_of_any_tokenizer_make_text_that_matches(number, tokenizer):
    rng = np.random.default_rng(number)
    for _ in range(6):
        text, ids = drawn_text(tokenizer, SCHEMAS[number], rng)
        assert matches(SCHEMAS[number], json.loads(text), SCHEMAS[number]), text
        assert not tokenizer.hidden_ids & set(ids)


def test_any_allowed_tokens_of_any_tokenizer_make_a_json_object(tokenizer):
    rng = np.random.default_rng(0)
    texts = [drawn_text(tokenizer, None, rng)[0] for _ in range(12)]
    assert all(isinstance(json.loads(text), dict) for text in texts)
    assert len(set(texts)) > 4


@pytest.mark.parametrize(
    "value", [{"a": [1, -2.5e3, True, None]}, {"é": '图 "\n\t\\'}, {}, {"</s>": "<image>"}], ids=str
)
def test_text_that_matches_is_allowed_token_by_token_after_a_space_too(value, tokenizer):
    for start in ("", " "):
        ids = tokenizer.encode(start + json.dumps(value, ensure_ascii=False), is_start=False)
        guide = Guide(tokenizer, Grammar(), [tokenizer.eos_id])
        for token in ids:
            assert guide.allowed()[token] and not guide.allowed()[tokenizer.eos_id]
            guide.append(token)
        assert guide.is_complete


def test_copies_of_a_guide_go_on_by_themselves_and_as_the_first_does(tokenizer):
    grammar = Grammar(json.dumps({"enum": ["red", "rose", "blue"]}))
    first = Guide(tokenizer, grammar, [tokenizer.eos_id])
    guides = [first, first.copy(), first.copy().copy()]
    for guide, word in zip(guides, ("red", "rose", "blue"), strict=True):
        alone = Guide(tokenizer, grammar, [tokenizer.eos_id])
        for token in tokenizer.encode(json.dumps(word), is_start=False):
            assert (guide.allowed() == alone.allowed()).all() and guide.allowed()[token]
            guide.append(token)
            alone.append(token)
        assert guide.is_complete


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("number", range(len(SCHEMAS) - 1))  # the last one is nested without end by a greedy model
def test_answers_of_a_model_match_their_schema_and_end_by_themselves(number, temperature, parts):
    for seed in range(3):
        session = ChatSession(*parts, sampling=params_for(SCHEMAS[number], temperature=temperature, seed=seed))
        answer = session.ask(QUESTION)
        assert session.turns[-1].finish_reason == "stop"
        assert matches(SCHEMAS[number], json.loads(answer), SCHEMAS[number]), answer


def test_answers_of_a_model_are_json_objects_on_request(parts):
    tokenizer = parts[1].tokenizer
    # The tiny model does not know JSON: without a push its texts between quotes would be long.
    marks = (b'"', b"}", b"]")
    pushed = tuple((token, 14.0) for token in range(tokenizer.vocab_size) if tokenizer.token_bytes(token) in marks)
    answers = set()
    for seed in range(4):
        sampling = params_for(None, temperature=2.0, seed=seed, logit_bias=pushed)
        session = ChatSession(*parts, sampling=sampling)
        answers.add(session.ask(QUESTION))
        assert session.turns[-1].finish_reason == "stop"
    assert all(isinstance(json.loads(answer), dict) for answer in answers)
    assert len(answers) > 1


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 3, "frequency_penalty": 0.5}], ids=str)
def test_guessed_tokens_change_no_answer_with_a_grammar_or_penalties(options, parts):
    for schema in (NESTED, None):
        sampling = params_for(schema, max_new_tokens=80, **options)
        if schema is None:
            sampling = dataclasses.replace(sampling, grammar=None, presence_penalty=0.2, num_logprobs=2)
        plain, guessing = (run(parts, dataclasses.replace(sampling, lookup=lookup)) for lookup in (0, 4))
        assert guessing.answer_ids == plain.answer_ids and guessing.finish_reason == plain.finish_reason
        assert [each.token for each in guessing.logprobs] == [each.token for each in plain.logprobs]


def run(parts, sampling: SamplingParams, text: str = QUESTION) -> Sequence:
    """Return the ended sequence of a question."""
    from paddlemix.generate.engine import Engine

    sequence = sequence_of(parts[1], [new_turn(parts[1], text, [])], sampling, parts[0].config)
    Engine(parts[0]).run([sequence])
    return sequence


def test_stop_strings_of_a_template_do_not_cut_an_answer_with_a_grammar(parts):
    processor = parts[1].with_template("v0")
    assert processor.template.stop_strings
    text = f"a{processor.template.stop_strings[0]}b"
    sequence = run((parts[0], processor), params_for({"enum": [text]}))
    assert json.loads(sequence.text) == text
    cut = run((parts[0], processor), params_for({"enum": [text]}, stop=("b",)))
    assert cut.stop_reason == "b" and cut.text == '"' + text[:-1]


def test_a_conversation_goes_on_after_an_answer_with_a_grammar(parts):
    session = ChatSession(*parts, sampling=SamplingParams(max_new_tokens=20))
    session.ask(QUESTION, sampling=params_for(NESTED))
    first = session.turns[0]
    fresh = ChatSession(*parts, sampling=session.sampling)
    fresh.turns = [dataclasses.replace(first)]
    assert session.ask("And now?") == fresh.ask("And now?")
    assert not first.is_closed and session.turns[1].prompt_ids == fresh.turns[1].prompt_ids


def test_end_tokens_come_only_where_the_answer_matches(parts):
    tokenizer = parts[1].tokenizer
    ending = ending_of(parts[1], params_for({"type": "integer"}), [tokenizer.eos_id, 7])
    assert ending.stop_ids == {tokenizer.eos_id, 7}
    assert not ending.guide.allowed()[[tokenizer.eos_id, 7]].any()
    ending.guide.append(tokenizer.encode("4", is_start=False)[-1])
    assert ending.guide.allowed()[[tokenizer.eos_id, 7]].all()
    other = Guide(tokenizer, Grammar('{"type": "integer"}'), [7])
    other.append(tokenizer.encode("4", is_start=False)[-1])
    assert not other.allowed()[tokenizer.eos_id] and other.allowed()[7]


def test_a_token_that_the_grammar_excludes_raises(parts):
    guide = Guide(parts[1].tokenizer, Grammar(), [])
    with pytest.raises(ValueError, match="cannot be followed after token"):
        guide.append(parts[1].tokenizer.encode("x", is_start=False)[-1])


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected an object"),
        ('{"type": "strin"}', "Invalid type: strin$"),
        ('{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ('{"not": {"type": "string"}}', "not"),
        ('{"not": {"type": "string"}, "x-guidance": {"lenient": true}}', "not"),
        ('{"$ref": "https://example.com/schema"}', "https://example.com/schema"),
        ('{"type": "string", "pattern": "(?=a)b"}', "regex"),
        ('{"enum": []}', "Unsatisfiable"),
        ('{"type": "integer", "minimum": 5, "maximum": 3}', "Unsatisfiable"),
        ('{"items": ' * 300 + "{}" + "}" * 300, "recursion"),
        ('{"items": ' * 100_000 + "{}" + "}" * 100_000, "not valid JSON"),
    ],
    ids=lambda value: value[:30],
)
def test_a_schema_that_cannot_be_followed_is_refused_with_the_reason(schema, reason, parts):
    with pytest.raises(ValueError, match=f"(?s)JSON schema.*{reason}"):
        Guide(parts[1].tokenizer, Grammar(schema), [])


def test_without_llguidance_a_grammar_is_refused_with_what_to_install(parts, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ValueError, match=r"llguidance: pip install .*structured"):
        ChatSession(*parts).ask(QUESTION, sampling=params_for(None))
    assert ChatSession(*parts).ask(QUESTION)


def test_a_grammar_without_a_tokenizer_and_with_ignore_eos_is_refused(parts):
    with pytest.raises(ValueError, match="needs the text of tokens"):
        Sequence([5, 6], {}, params_for(None), 100, ending_of(parts[1], SamplingParams(), [2]))
    with pytest.raises(ValueError, match="ignore_eos is True"):
        params_for(None, ignore_eos=True)
