"""LLaVA's prompts and labels, restated from llava/conversation.py and llava/train/train.py to compare with.

The prompts of the backbones' own formats are restated from the sources that test_backbone_templates.py names.
"""

from __future__ import annotations

IMAGE = "<image>"
USER_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
HUMAN_SYSTEM = USER_SYSTEM.replace("user", "human")
VISION_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
MPT_SYSTEM = (
    "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."
)


def two(system, rounds, open_question):
    """Separator style TWO: a space after a question, </s> after an answer."""
    text = system + " " + "".join(f"USER: {q} ASSISTANT: {a}</s>" for q, a in rounds)
    return text + (f"USER: {open_question} ASSISTANT:" if open_question is not None else "")


def single(system, rounds, open_question):
    text = system + "###" + "".join(f"Human: {q}###Assistant: {a}###" for q, a in rounds)
    return text + (f"Human: {open_question}###Assistant:" if open_question is not None else "")


def mpt(system, rounds, open_question):
    text = f"<|im_start|>system\n{system}<|im_end|>"
    for q, a in rounds:
        text += f"<|im_start|>user\n{q}<|im_end|><|im_start|>assistant\n{a}<|im_end|>"
    last = f"<|im_start|>user\n{open_question}<|im_end|><|im_start|>assistant\n"
    return text + (last if open_question is not None else "")


def llama_2(system, rounds, open_question, bos="<s>"):
    """The BOS before the first turn is added by the tokenizer, not part of the text."""
    questions = [q for q, _ in rounds] + ([open_question] if open_question is not None else [])
    questions[0] = (f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else "") + questions[0]
    asked = [f"[INST] {q} [/INST]" for q in questions]
    answered = [f" {a} </s>" for _, a in rounds] + [""] * (open_question is not None)
    return bos.join(q + a for q, a in zip(asked, answered, strict=True))


def mistral(system, rounds, open_question):
    return llama_2(system, rounds, open_question, bos="")


def plain(system, rounds, open_question):
    """Only images and captions."""
    text = "".join(IMAGE * q.count(IMAGE) + a + "\n" for q, a in rounds)
    return text + (IMAGE * open_question.count(IMAGE) if open_question is not None else "")


def marked(system_block, question, answer_end, between=""):
    """A format by its texts, with {} in place of a message."""

    def style(system, rounds, open_question):
        rounds_text = [question.replace("{}", q) + a + answer_end for q, a in rounds]
        rounds_text += [] if open_question is None else [question.replace("{}", open_question)]
        return (system_block.replace("{}", system) if system else "") + between.join(rounds_text)

    return style


def gemma(system, rounds, open_question):
    """The system text is before the first question, with an empty line in between."""
    asked = [q for q, _ in rounds] + ([] if open_question is None else [open_question])
    asked[0] = f"{system}\n\n{asked[0]}" if system else asked[0]
    text = "".join(
        f"<start_of_turn>user\n{q}<end_of_turn>\n<start_of_turn>model\n{a}<end_of_turn>\n"
        for q, (_, a) in zip(asked, rounds, strict=False)
    )
    if open_question is None:
        return text.removesuffix("\n")
    return f"{text}<start_of_turn>user\n{asked[-1]}<end_of_turn>\n<start_of_turn>model\n"


def ernie(system, rounds, open_question):
    """The text itself starts with a mark."""
    turns = marked("{}\n", "User: {}\nAssistant: ", "<|end_of_sentence|>")
    return "<|begin_of_sentence|>" + turns(system, rounds, open_question)


LLAMA_3 = [f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("system", "user", "assistant")]
CHATML = [f"<|im_start|>{role}\n" for role in ("system", "user", "assistant")]
ROLES = [f"<|{role}|>\n" for role in ("system", "user", "assistant")]


def in_blocks(starts, end, gap):
    """Each text is a separate block with the same end; `gap` is between the blocks."""
    system, user, assistant = starts
    return marked(f"{system}{{}}{end}{gap}", f"{user}{{}}{end}{gap}{assistant}", end, gap)


STYLES = {
    "vicuna_v1": (two, USER_SYSTEM),
    "llava_v1": (two, HUMAN_SYSTEM),
    "llava_v0": (single, HUMAN_SYSTEM),
    "v0": (single, HUMAN_SYSTEM),
    "simple": (single, HUMAN_SYSTEM),
    "plain": (plain, ""),
    "llama_2": (llama_2, None),  # None: the long text of the table, checked by its hash
    "llava_llama_2": (llama_2, VISION_SYSTEM),
    "mistral_instruct": (mistral, ""),
    "chatml_direct": (mpt, "Answer the questions."),
    "mpt": (mpt, MPT_SYSTEM),
    "llama_3": (in_blocks(LLAMA_3, "<|eot_id|>", ""), ""),
    "qwen_2": (in_blocks(CHATML, "<|im_end|>", "\n"), "You are a helpful assistant."),
    "internlm2_chat": (in_blocks(CHATML, "<|im_end|>", "\n"), ""),
    "phi_3": (in_blocks(ROLES, "<|end|>", "\n"), ""),
    "zephyr": (in_blocks(ROLES, "</s>", "\n"), ""),
    "internlm_chat": (marked("<|System|>:{}\n", "<|User|>:{}<eoh>\n<|Bot|>:", "<eoa>", "\n"), ""),
    "gemma": (gemma, ""),
    "ernie": (ernie, ""),
}
# The end of a trained answer, if it is not just </s>.
ENDS = {
    "llama_2": " </s>",
    "llava_llama_2": " </s>",
    "mistral_instruct": " </s>",
    "plain": "\n",
    "chatml_direct": "<|im_end|>",
    "mpt": "<|im_end|>",
    "llava_v0": "###",
    "v0": "###",
    "simple": "###",
    "llama_3": "<|eot_id|>",
    "qwen_2": "<|im_end|>",
    "internlm2_chat": "<|im_end|>",
    "phi_3": "<|end|>",
    "internlm_chat": "<eoa>",
    "gemma": "<end_of_turn>",
    "ernie": "<|end_of_sentence|>",
}


def chunk_ids(tokenizer, text, image_id=-200):
    """Return the ids of a prompt as tokenizer_image_token does: the texts around an image are separate."""
    ids = []
    for index, chunk in enumerate(text.split(IMAGE)):
        ids += [image_id] * (index > 0) + tokenizer.encode(chunk, add_special_tokens=False)
    return [tokenizer.bos_token_id, *ids]


def v1_labels(tokenizer, prompt, ids):
    """Return the labels of preprocess_v1, which counts the tokens of every round again (legacy tokenizers)."""
    labels = list(ids)
    labels[0] = -100
    position = 1
    for text in prompt.split("</s>"):
        if not text:
            break
        asked = text.split(" ASSISTANT: ")[0] + " ASSISTANT: "
        num_round = len(chunk_ids(tokenizer, text))
        num_asked = len(chunk_ids(tokenizer, asked)) - 2
        labels[position : position + num_asked] = [-100] * num_asked
        position += num_round
    assert position == len(ids), "the official algorithm would drop this sample"
    return labels
