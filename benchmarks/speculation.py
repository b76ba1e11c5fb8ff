"""Compare decoding with and without prompt lookup, ours and transformers'.

    python benchmarks/speculation.py [--guesses 8] [--rounds 5] [--threads 2]

There are two texts: in "ocr" the answer repeats much of the prompt, in "description" hardly anything. A model with
random weights would produce neither answer, so the answer is given: both sides compute all logits (with the same
weights, see small_llava.py) and then take the given token, as a trained model with this answer would. Each word is a
token, as frequent words are in a vocabulary of this size. Ours is an engine with `SamplingParams(lookup=...)`. The time
is that of the tokens after the first one. Candidates alternate within each round; ratios are of medians.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time

from peers import OURS, THEIRS, Peer, compare_peers, parse, print_processor
from small_llava import load_ours, load_theirs, model_folder

INVOICE = """Invoice number 20417 of 12 March. Seller: Northwind Timber and Stone, 14 Harbour Road, Lower Haven.
Buyer: the parish of Saint Anne, 3 Church Lane, Upper Haven. Oak boards, planed, 40 mm: 12 pieces at 18.50, 222.00.
Oak boards, rough, 60 mm: 8 pieces at 21.00, 168.00. Slate tiles, grey, 30 by 20 cm: 400 pieces at 1.15, 460.00.
Copper nails, 50 mm: 6 boxes at 9.80, 58.80. Delivery to Upper Haven by cart: 45.00. Total before tax: 953.80. Tax at
20 percent: 190.76. Total to pay: 1144.56. Payable within 30 days to the account of Northwind Timber and Stone."""
TEXTS = {  # prompt, answer
    "ocr": (
        f"Text read from the picture: {INVOICE} What did the parish order, what does each line cost, and what is to "
        "be paid to whom?",
        """The invoice number 20417 of 12 March lists these goods for the parish of Saint Anne: 1. Oak boards, planed,
40 mm: 12 pieces at 18.50, 222.00. 2. Oak boards, rough, 60 mm: 8 pieces at 21.00, 168.00. 3. Slate tiles, grey, 30 by
20 cm: 400 pieces at 1.15, 460.00. 4. Copper nails, 50 mm: 6 boxes at 9.80, 58.80. 5. Delivery to Upper Haven by cart:
45.00. The total before tax is 953.80, the tax at 20 percent is 190.76, and the total to pay is 1144.56, within 30 days
to the account of Northwind Timber and Stone, 14 Harbour Road, Lower Haven.""",
    ),
    "description": (
        "Describe the picture in detail, with what stands in front and what can be seen behind it.",
        """In the middle of the picture an old woman in a blue coat crosses a wet square with a basket of apples under
her arm. Behind her a tram has just stopped, and three children in yellow boots jump from its step into a puddle. To the
right there is a flower stall under a striped roof, whose owner ties a bunch of tulips and looks up at the clouds. On
the left a dog sleeps beside a bicycle that leans against a lamp post. The houses around the square are narrow and
painted in faded colours, with laundry between two of the windows. Far away, above the roofs, the tower of a church
can be seen in the mist, and a flock of pigeons flies around it. The light is soft, as on an early morning in autumn
after a night of rain, and the mood of the scene is calm and a little tired.""",
    ),
}
CANDIDATES = {  # name: (process, uses prompt lookup)
    "ours": (OURS, False),
    "ours guessing": (OURS, True),
    "transformers": (THEIRS, False),
    "transformers guessing": (THEIRS, True),
}
RATIOS = (("ours guessing", "ours"), ("ours guessing", "transformers"), ("ours guessing", "transformers guessing"))


def main() -> int:
    return compare_peers(__file__, parse(__doc__, add_options), ours, theirs, compare_texts, model_folder)


def compare_texts(peers: dict[str, Peer], arguments) -> None:
    print_processor(arguments)
    ratios = [line for name in TEXTS for line in compare(name, peers, arguments)]
    print(*ratios, sep="\n")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--guesses", type=int, default=8, help="tokens proposed at once")
    parser.add_argument("--new", type=int, default=1000, help="maximum number of tokens of each answer")


def compare(text: str, peers: dict[str, Peer], arguments: argparse.Namespace) -> list[str]:
    """Time the candidates on a text; return a line for each ratio."""
    seconds: dict[str, list[float]] = {name: [] for name in CANDIDATES}
    passes: dict[str, int] = {}
    num_new = min(len(ids_of(text)[1]), arguments.new)
    for number in range(arguments.rounds + 1):
        names = list(CANDIDATES)
        for name in names if number % 2 else reversed(names):
            role, is_guessing = CANDIDATES[name]
            guesses = arguments.guesses if is_guessing else 0
            # The first round is a warm-up, for which a few tokens are enough.
            result = peers[role].ask(text=text, guesses=guesses, new=num_new if number else 8)
            if number:
                seconds[name].append(result["seconds"])
                passes[name] = result["passes"]
    speed = {name: (num_new - 1) / statistics.median(times) for name, times in seconds.items()}
    for name, tokens in speed.items():
        print(f"{text:11} {name:21} {tokens:6.1f} tokens/s  {num_new} tokens in {passes[name]} passes", flush=True)
    return [f"{text}: {one} to {other}: {speed[one] / speed[other]:.2f}" for one, other in RATIOS]


def ids_of(text: str) -> tuple[list[int], list[int]]:
    """Return the ids of prompt and answer: each word, number and punctuation mark is one token."""
    numbers: dict[str, int] = {}
    prompt, answer = (re.findall(r"\w+|[^\w\s]", part) for part in TEXTS[text])
    prompt, answer = ([numbers.setdefault(word, 3 + len(numbers)) for word in words] for words in (prompt, answer))
    return [1, *prompt], answer


def ours(arguments: argparse.Namespace):
    model = load_ours(arguments.folder, arguments.threads)
    from paddlemix.generate.engine import Engine
    from paddlemix.generate.sampler import Sampler
    from paddlemix.generate.sampling import SamplingParams
    from paddlemix.generate.sequence import Ending, Sequence

    def answer_text(text: str, guesses: int, new: int) -> dict:
        prompt, answer = ids_of(text)
        sampling = SamplingParams(max_new_tokens=new, lookup=guesses)
        sequence, usual = Sequence(list(prompt), {}, sampling, new, Ending()), Sampler(sampling)

        def give(logits) -> int:
            usual(logits)  # part of every step, although its choice is replaced
            return answer[sequence.num_generated]

        sequence.choose = give
        engine = Engine(model, prefix_bytes=0)
        engine.add(sequence)
        while not sequence.num_generated:
            engine.step()
        start, before = time.perf_counter(), sequence.num_passes
        while sequence.is_open:
            engine.step()
        assert sequence.answer_ids == answer[:new], "ours did not take the given answer"
        return {"seconds": time.perf_counter() - start, "passes": sequence.num_passes - before}

    return answer_text


def theirs(arguments: argparse.Namespace):
    model = load_theirs(arguments.folder, arguments.threads)
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList

    passes: list[float] = []
    model.register_forward_hook(lambda *_: passes.append(time.perf_counter()))

    class Given(LogitsProcessor):
        """Allows only the given token at each position."""

        def __init__(self, prompt: list[int], answer: list[int]):
            self.start, self.answer = len(prompt), answer

        def __call__(self, input_ids, scores):
            position = min(input_ids.shape[1] - self.start, len(self.answer) - 1)
            chosen = torch.full_like(scores, float("-inf"))
            chosen[:, self.answer[position]] = 0.0
            return chosen

    def answer_text(text: str, guesses: int, new: int) -> dict:
        prompt, answer = ids_of(text)
        passes.clear()
        options = {"prompt_lookup_num_tokens": guesses} if guesses else {}
        ids = torch.tensor([prompt])
        with torch.no_grad():
            found = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=2,  # prompt lookup fails without one; the answer does not contain it
                logits_processor=LogitsProcessorList([Given(prompt, answer)]),
                **options,
            )
        end = time.perf_counter()
        assert found[0, len(prompt) :].tolist() == answer[:new], "transformers did not take the given answer"
        return {"seconds": end - passes[0], "passes": len(passes) - 1}

    return answer_text


if __name__ == "__main__":
    sys.exit(main())
