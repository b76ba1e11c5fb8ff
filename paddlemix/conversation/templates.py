"""Chat formats as data: the texts and special tokens around each message.

A checkpoint only answers well to the format it was trained with. So LLaVA's formats have the strings of LLaVA
(llava/conversation.py), and the format of a backbone has those of the Jinja template in its tokenizer_config.json.
Texts keep the white space around them, although the templates of Llama 3 and Gemma remove it. A new format is one more
row of the table.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace

IMAGE_MARKS = ("<im_start>", "<im_end>")  # special tokens around each image, in LLaVA's first versions


@dataclass(frozen=True)
class ChatTemplate:
    """The strings around the texts of a conversation.

    A conversation is: start [system block] [examples] turn, turn, ..., and a turn is
    user_prefix QUESTION user_suffix answer_prefix | answer_lead ANSWER answer_tail answer_end
    with turn_separator before every turn but the first. The part after the bar is trained; chat prompts end at the bar.

    start: the start of the text, without the BOS token that a tokenizer adds.
    system: system text for conversations without one. If it is empty, they have no system block.
    is_system_in_user: the system block is part of the first question, after its user_prefix.
    examples: (question, answer) pairs before the first turn, never trained.
    is_prompt_text_dropped: render only images and answers (stage 1).
    special_tokens: the marks in the other fields that are one token of the vocabulary; everything else is text.
    extra_stop_tokens: special tokens that end an answer besides answer_end.
    has_image_marks: IMAGE_MARKS are around each image. It belongs to the model, not to the format (see `get_template`).
    """

    name: str
    system: str = ""
    system_prefix: str = ""
    system_suffix: str = ""
    user_prefix: str = ""
    user_suffix: str = ""
    answer_prefix: str = ""
    answer_lead: str = ""
    answer_tail: str = ""
    answer_end: str = "</s>"
    turn_separator: str = ""
    is_system_in_user: bool = False
    is_prompt_text_dropped: bool = False
    examples: tuple[tuple[str, str], ...] = ()
    special_tokens: tuple[str, ...] = ("</s>",)
    extra_stop_tokens: tuple[str, ...] = ()
    start: str = ""
    # Without it in repr, token caches of models without marks stay valid, see `encoding_facts`.
    has_image_marks: bool = field(default=False, repr=False)

    def __post_init__(self):
        assert self.answer_end, f"template {self.name}: an answer must have an end"
        is_mixed = not self.is_end_special and any(token in self.answer_end for token in self.special_tokens)
        assert not is_mixed, f"template {self.name}: answer_end is one special token or plain text"
        assert not (self.examples and self.is_system_in_user), f"template {self.name}: no place for the system text"

    @property
    def is_end_special(self) -> bool:
        """Whether an answer ends with a special token, not with text."""
        return self.answer_end in self.special_tokens

    @property
    def stop_tokens(self) -> tuple[str, ...]:
        """Special tokens that end a generated answer."""
        return ((self.answer_end,) if self.is_end_special else ()) + self.extra_stop_tokens

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end a generated answer."""
        return () if self.is_end_special else (self.answer_end,)


_POLITE = "The assistant gives helpful, detailed, and polite answers to the"
_USER_SYSTEM = f"A chat between a curious user and an artificial intelligence assistant. {_POLITE} user's questions."
_HUMAN_SYSTEM = f"A chat between a curious human and an artificial intelligence assistant. {_POLITE} human's questions."

_VICUNA_V1 = ChatTemplate(
    name="vicuna_v1",
    system=_USER_SYSTEM,
    system_suffix=" ",
    user_prefix="USER: ",
    user_suffix=" ",
    answer_prefix="ASSISTANT:",
    answer_lead=" ",
)
_LLAVA_V0 = ChatTemplate(
    name="llava_v0",
    system=_HUMAN_SYSTEM,
    system_suffix="###",
    user_prefix="Human: ",
    user_suffix="###",
    answer_prefix="Assistant:",
    answer_lead=" ",
    answer_end="###",
    special_tokens=(),
)
_LLAMA_2 = ChatTemplate(
    name="llama_2",
    system=(
        "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe. "
        " Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content."
        " Please ensure that your responses are socially unbiased and positive in nature.\n\n"
        "If a question does not make any sense, or is not factually coherent, explain why instead of answering "
        "something not correct. If you don't know the answer to a question, please don't share false information."
    ),
    system_prefix="<<SYS>>\n",
    system_suffix="\n<</SYS>>\n\n",
    is_system_in_user=True,
    user_prefix="[INST] ",
    user_suffix=" [/INST]",
    answer_lead=" ",
    answer_tail=" ",
    turn_separator="<s>",
    special_tokens=("<s>", "</s>"),
)
_CHATML = ChatTemplate(
    name="chatml_direct",
    system="Answer the questions.",
    system_prefix="<|im_start|>system\n",
    system_suffix="<|im_end|>",
    user_prefix="<|im_start|>user\n",
    user_suffix="<|im_end|>",
    answer_prefix="<|im_start|>assistant\n",
    answer_end="<|im_end|>",
    special_tokens=("<|im_start|>", "<|im_end|>"),
)
_LLAMA_3 = ChatTemplate(
    name="llama_3",
    system_prefix="<|start_header_id|>system<|end_header_id|>\n\n",
    system_suffix="<|eot_id|>",
    user_prefix="<|start_header_id|>user<|end_header_id|>\n\n",
    user_suffix="<|eot_id|>",
    answer_prefix="<|start_header_id|>assistant<|end_header_id|>\n\n",
    answer_end="<|eot_id|>",
    special_tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    extra_stop_tokens=("<|end_of_text|>",),
)
# Here and below, a line break follows the end of an answer. Models do not write it, so it belongs to the next turn.
_QWEN_2 = replace(
    _CHATML,
    name="qwen_2",
    system="You are a helpful assistant.",
    system_suffix="<|im_end|>\n",
    user_suffix="<|im_end|>\n",
    turn_separator="\n",
    extra_stop_tokens=("<|endoftext|>",),
)
_PHI_3 = ChatTemplate(
    name="phi_3",
    system_prefix="<|system|>\n",
    system_suffix="<|end|>\n",
    user_prefix="<|user|>\n",
    user_suffix="<|end|>\n",
    answer_prefix="<|assistant|>\n",
    answer_end="<|end|>",
    turn_separator="\n",
    special_tokens=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    extra_stop_tokens=("<|endoftext|>", "<|assistant|>"),
)
# InternLM 1 has no Jinja template. These are the strings of xtuner, which trained LLaVA with it. The role names are
# text, only the two ends are tokens.
_INTERNLM = ChatTemplate(
    name="internlm_chat",
    system_prefix="<|System|>:",
    system_suffix="\n",
    user_prefix="<|User|>:",
    user_suffix="<eoh>\n",
    answer_prefix="<|Bot|>:",
    answer_end="<eoa>",
    turn_separator="\n",
    special_tokens=("<eoh>", "<eoa>"),
    extra_stop_tokens=("</s>",),
)
# Gemma's template refuses a system text. It is placed as in Gemma 3: before the first question.
_GEMMA = ChatTemplate(
    name="gemma",
    system_suffix="\n\n",
    is_system_in_user=True,
    user_prefix="<start_of_turn>user\n",
    user_suffix="<end_of_turn>\n",
    answer_prefix="<start_of_turn>model\n",
    answer_end="<end_of_turn>",
    turn_separator="\n",
    special_tokens=("<start_of_turn>", "<end_of_turn>"),
    extra_stop_tokens=("<eos>",),
)
# The role names are not tokens of Zephyr's vocabulary, which is Mistral's.
_ZEPHYR = ChatTemplate(
    name="zephyr",
    system_prefix="<|system|>\n",
    system_suffix="</s>\n",
    user_prefix="<|user|>\n",
    user_suffix="</s>\n",
    answer_prefix="<|assistant|>\n",
    turn_separator="\n",
)
# ERNIE 4.5's tokenizer adds no BOS token. The released models end their last answer with </s>.
_ERNIE = ChatTemplate(
    name="ernie",
    start="<|begin_of_sentence|>",
    system_suffix="\n",
    user_prefix="User: ",
    user_suffix="\n",
    answer_prefix="Assistant: ",
    answer_end="<|end_of_sentence|>",
    special_tokens=("<|begin_of_sentence|>", "<|end_of_sentence|>"),
    extra_stop_tokens=("</s>",),
)
_V0_EXAMPLE = (
    "What are the key differences between renewable and non-renewable energy sources?",
    "Renewable energy sources are those that can be replenished naturally in a relatively short amount of time, such "
    "as solar, wind, hydro, geothermal, and biomass. Non-renewable energy sources, on the other hand, are finite and "
    "will eventually be depleted, such as coal, oil, and natural gas. Here are some key differences between renewable "
    "and non-renewable energy sources:\n"
    "1. Availability: Renewable energy sources are virtually inexhaustible, while non-renewable energy sources are "
    "finite and will eventually run out.\n"
    "2. Environmental impact: Renewable energy sources have a much lower environmental impact than non-renewable "
    "sources, which can lead to air and water pollution, greenhouse gas emissions, and other negative effects.\n"
    "3. Cost: Renewable energy sources can be more expensive to initially set up, but they typically have lower "
    "operational costs than non-renewable sources.\n"
    "4. Reliability: Renewable energy sources are often more reliable and can be used in more remote locations than "
    "non-renewable sources.\n"
    "5. Flexibility: Renewable energy sources are often more flexible and can be adapted to different situations and "
    "needs, while non-renewable sources are more rigid and inflexible.\n"
    "6. Sustainability: Renewable energy sources are more sustainable over the long term, while non-renewable sources "
    "are not, and their depletion can lead to economic and social instability.\n",
)

TEMPLATES = {
    template.name: template
    for template in (
        _VICUNA_V1,
        replace(_VICUNA_V1, name="llava_v1", system=_HUMAN_SYSTEM),
        _LLAVA_V0,
        replace(_LLAVA_V0, name="v0", examples=(_V0_EXAMPLE,)),
        replace(_LLAVA_V0, name="simple", examples=(("Hi!", "Hi there! How can I help you today?"),)),
        ChatTemplate(name="plain", answer_end="\n", special_tokens=(), is_prompt_text_dropped=True),
        _LLAMA_2,
        replace(
            _LLAMA_2,
            name="llava_llama_2",
            system="You are a helpful language and vision assistant. You are able to understand the visual content "
            "that the user provides, and assist the user with a variety of tasks using natural language.",
        ),
        # The released Mistral checkpoint was trained without a <<SYS>> block and without <s> between the turns.
        replace(_LLAMA_2, name="mistral_instruct", system="", turn_separator="", special_tokens=("</s>",)),
        _CHATML,
        replace(
            _CHATML,
            name="mpt",
            system="A conversation between a user and an LLM-based AI assistant. "
            "The assistant gives helpful and honest answers.",
        ),
        _LLAMA_3,
        _QWEN_2,
        _PHI_3,
        _INTERNLM,
        replace(_QWEN_2, name="internlm2_chat", system="", extra_stop_tokens=("</s>",)),
        _GEMMA,
        _ZEPHYR,
        _ERNIE,
    )
}
ALIASES = {
    "v1": "vicuna_v1",
    "v0_plain": "plain",
    "vicuna_v0": "v0",
    "llava_mistral_instruct": "mistral_instruct",
    "mistral_direct": "chatml_direct",
}


def get_template(name: str, *, has_image_marks: bool = False) -> ChatTemplate:
    """Return the template by name or alias; raise ValueError with all names and the nearest one.

    has_image_marks: of the model.
    """
    template = TEMPLATES.get(ALIASES.get(name, name))
    if template is not None:
        return replace(template, has_image_marks=True) if has_image_marks else template
    names = [*TEMPLATES, *ALIASES]
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown chat template {name!r}: expected one of {', '.join(sorted(names))}{hint}")
