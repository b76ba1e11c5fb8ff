"""Compare the time to the first token of every turn of a chat about a LLaVA 1.6 image with transformers.

    python benchmarks/turns.py [--turns 5] [--rounds 5] [--threads 2]

Uses the model of small_llava.py with the tokenizer of the bundled tiny model, in float32. Ours is a ChatSession as it
is by default. transformers gets the whole history each time, as its users do it, with the ids of our session and a
preprocessed image. Answers of 16 tokens go into the history, and both must choose the same ones in every turn. Each
round has a different image.
"""

from __future__ import annotations

import statistics
import sys
import time

from peers import OURS, ROLES, THEIRS, Peer, compare_peers, parse, print_processor
from small_llava import load_ours, load_theirs, model_folder, noise, noise_tiles

NUM_ANSWERED = 16
QUESTIONS = ("What is in the image?", "Which colors are there?", "How many circles are there?", "Is it a circle?")


def main() -> int:
    return compare_peers(__file__, parse(__doc__, add_options), ours, theirs, compare, model_folder)


def compare(peers: dict[str, Peer], arguments) -> None:
    print_processor(arguments)
    seconds = {role: [[] for _ in range(arguments.turns)] for role in ROLES}
    for number in range(arguments.rounds + 1):
        for turn in range(arguments.turns):
            found = ask(peers, number, turn)
            for role in ROLES if number else ():  # the first round is a warm-up
                seconds[role][turn].append(found[role])
    for turn in range(arguments.turns):
        times = {role: statistics.median(seconds[role][turn]) for role in ROLES}
        text = "  ".join(f"{role} {times[role] * 1e3:8.1f} ms" for role in ROLES)
        print(f"turn {turn + 1}: {text}  {times[THEIRS] / times[OURS]:.1f} times as fast")
    later = {role: statistics.median(found for turn in seconds[role][1:] for found in turn) for role in ROLES}
    print(f"first token of later turns, ours to transformers': {later[THEIRS] / later[OURS]:.2f}, equal answers")


def add_options(parser) -> None:
    parser.add_argument("--turns", type=int, default=5, help="turns of each conversation, at least 2")


def ask(peers: dict[str, Peer], number: int, turn: int) -> dict[str, float]:
    """Return the seconds of both sides for a turn. Raises SystemExit if their answers differ."""
    mine = peers[OURS].ask(number=number, turn=turn)
    other = peers[THEIRS].ask(number=number, ids=mine["ids"], num_known=mine["num_known"])
    if mine["answer"] != other["answer"]:
        raise SystemExit(f"turn {turn + 1}: ours answered {mine['answer']}, transformers {other['answer']}")
    return {OURS: mine["seconds"], THEIRS: other["seconds"]}


def ours(arguments):
    model = load_ours(arguments.folder, arguments.threads)
    from paddlemix import ChatSession, LlavaProcessor, SamplingParams
    from paddlemix.constants import BUNDLED_MODEL

    tiny = LlavaProcessor.from_pretrained(BUNDLED_MODEL)
    processor = LlavaProcessor(tiny.tokenizer, tiny.template, model.config.image)
    sessions = {}
    first, whole = (SamplingParams(max_new_tokens=most, ignore_eos=True) for most in (1, NUM_ANSWERED))

    def answer(number: int, turn: int) -> dict:
        if turn == 0:
            sessions.clear()
            sessions[number] = ChatSession(model, processor)
        session = sessions[number]
        question = (QUESTIONS[turn % len(QUESTIONS)], [noise(number)] if turn == 0 else [])
        start = time.perf_counter()
        session.ask(*question, first)
        seconds = time.perf_counter() - start
        last = session.turns[-1]
        ids = [token for past in session.turns[:-1] for token in past.prompt_ids + past.answer_ids] + last.prompt_ids
        session.turns.pop()
        session.ask(*question, whole)  # for the history; only the first token is timed
        answer_ids = session.turns[-1].answer_ids
        return {"seconds": seconds, "ids": ids, "answer": answer_ids, "num_known": tiny.tokenizer.vocab_size}

    return answer


def theirs(arguments):
    model = load_theirs(arguments.folder, arguments.threads)
    import torch

    from paddlemix.constants import IMAGE_TOKEN_ID

    def answer(number: int, ids: list[int], num_known: int) -> dict:
        tiles = noise_tiles(number)
        ids = [model.config.image_token_id if token == IMAGE_TOKEN_ID else token for token in ids]
        start = time.perf_counter()
        out = model(
            input_ids=torch.tensor([ids]),
            pixel_values=torch.tensor(tiles.pixels)[None],
            image_sizes=torch.tensor([tiles.size[::-1]]),  # (height, width)
            use_cache=True,
            logits_to_keep=1,
        )
        found = [int(out.logits[0, -1, :num_known].argmax())]
        seconds = time.perf_counter() - start
        while len(found) < NUM_ANSWERED:  # to compare the whole answer; only the first token is timed
            step = torch.tensor([found[-1:]])
            out = model(input_ids=step, past_key_values=out.past_key_values, use_cache=True)
            found.append(int(out.logits[0, -1, :num_known].argmax()))
        return {"seconds": seconds, "answer": found}

    return answer


if __name__ == "__main__":
    sys.exit(main())
