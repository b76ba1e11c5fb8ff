"""Compare decoding with llama.cpp: tokens per second of one row, both with quantized weights.

    python benchmarks/against_llama_cpp.py --python VENV/bin/python [--context 600] [--steps 48] [--rounds 5]

--python is the interpreter of another environment with `pip install llama-cpp-python gguf`, which builds llama.cpp for
this machine. The decoder of small_llava.py is written as a GGUF file in float32, and llama.cpp quantizes it to Q8_0 and
Q4_0, its embeddings and head included. Ours are int8 and NF4, with embeddings and head in float32. First the logits of
both float32 models after a short prompt and the greedy tokens that follow are compared, which shows that they are the
same model. The embeddings of this model are its head, so that it repeats tokens: the logits say more.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from peers import Peer, median, parse, print_processor, serve
from small_llava import DECODER, model_folder, text_ids

OURS, LLAMA = ROLES = ("ours", "llama.cpp")
KINDS = {OURS: ("float32", "int8", "nf4"), LLAMA: ("F32", "Q8_0", "Q4_0")}
PAIRS = tuple(zip(KINDS[OURS], KINDS[LLAMA], strict=True))
FILE_TYPES = {"Q8_0": 7, "Q4_0": 2}  # LLAMA_FTYPE_MOSTLY_* in llama.h
SHORT = 24  # tokens of the prompt after which logits and greedy tokens are compared
NUM_COMPARED = 1000  # logits
EPSILON, ROPE_BASE = 1e-5, 10_000.0  # defaults of LanguageConfig


def main() -> int:
    arguments = parse(__doc__, add_options, ROLES)
    if arguments.role:
        return serve({OURS: ours, LLAMA: llama}[arguments.role](arguments))
    print_processor(arguments)
    with model_folder(arguments.folder) as folder:
        pythons = {OURS: sys.executable, LLAMA: arguments.python}
        peers = {role: Peer(__file__, role, folder, arguments.threads, pythons[role]) for role in ROLES}
        for mine, other in PAIRS:
            compare(peers, mine, other, arguments)
        for peer in peers.values():
            peer.close()
    return 0


def add_options(parser) -> None:
    parser.add_argument("--python", default=sys.executable, help="of an environment with llama-cpp-python and gguf")
    parser.add_argument("--context", type=int, default=600)
    parser.add_argument("--steps", type=int, default=48)


def compare(peers: dict[str, Peer], mine: str, other: str, arguments) -> None:
    """Print the speed of a pair of kinds of weights. Raises SystemExit if the float32 models are not the same."""
    kinds = {OURS: mine, LLAMA: other}
    if mine == "float32":
        check_equal(*(peers[role].ask(kind=kinds[role], context=SHORT, steps=16) for role in ROLES))
    found = {role: [] for role in ROLES}
    for number in range(arguments.rounds + 1):
        for role in ROLES if number % 2 else reversed(ROLES):
            answer = peers[role].ask(kind=kinds[role], context=arguments.context, steps=arguments.steps)
            found[role] += [answer] if number else []  # the first round is a warm-up
    speed = {role: (arguments.steps - 1) / median(found[role]) for role in ROLES}
    for role in ROLES:
        print(f"{role:9} {kinds[role]:7} {speed[role]:6.1f} tokens/s after {arguments.context}")
    print(f"decoding, {mine} to {other} of llama.cpp: {speed[OURS] / speed[LLAMA]:.2f}", flush=True)


def check_equal(mine: dict, other: dict) -> None:
    """Raise SystemExit unless logits and greedy tokens of both sides are equal."""
    logits = np.array(mine["logits"]), np.array(other["logits"])
    difference = float(np.abs(logits[0] - logits[1]).max() / np.abs(logits[0]).max())
    if mine["ids"] != other["ids"] or difference > 1e-3:
        raise SystemExit(f"not the same model: logits differ by {difference}, tokens {mine['ids']}, {other['ids']}")
    print(f"float32 after {SHORT} tokens: equal greedy tokens, logits differ by {difference:.0e} of the greatest")


def ours(arguments):
    from paddlemix.device import prepare_environment

    prepare_environment("cpu")
    from paddlemix.checkpoints.load import load_model
    from paddlemix.generate.engine import Engine
    from paddlemix.generate.sampling import SamplingParams
    from paddlemix.generate.sequence import Ending, Sequence

    engines = {}

    def answer(kind: str, context: int, steps: int) -> dict:
        if kind not in engines:
            engines.clear()
            quantization = None if kind == "float32" else kind
            model = load_model(arguments.folder, device="cpu", dtype="float32", quantization=quantization)
            engines[kind] = Engine(model, prefix_bytes=0)
        engine = engines[kind]
        sampling = SamplingParams(max_new_tokens=steps, ignore_eos=True)
        sequence = Sequence(text_ids(context), {}, sampling, steps, Ending())
        logits, usual = [], sequence.choose

        def choose(row) -> int:
            if not logits:
                logits.extend(row[:NUM_COMPARED].tolist())
            return usual(row)

        sequence.choose = choose
        engine.add(sequence)
        while not sequence.num_generated:
            engine.step()
        start = time.perf_counter()
        while sequence.is_open:
            engine.step()
        return {"seconds": time.perf_counter() - start, "ids": sequence.answer_ids, "logits": logits}

    return answer


def llama(arguments):
    import llama_cpp

    folder = Path(arguments.folder)
    write_gguf(folder, folder / "F32.gguf")
    for kind, file_type in FILE_TYPES.items():
        options = llama_cpp.llama_model_quantize_default_params()
        options.ftype, options.nthread = file_type, arguments.threads
        paths = (str(folder / f"{name}.gguf").encode() for name in ("F32", kind))
        assert llama_cpp.llama_model_quantize(*paths, options) == 0, kind
    models = {}

    def answer(kind: str, context: int, steps: int) -> dict:
        if kind not in models:
            models.clear()
            threads = {"n_threads": arguments.threads, "n_threads_batch": arguments.threads}
            models[kind] = llama_cpp.Llama(str(folder / f"{kind}.gguf"), n_ctx=1024, verbose=False, **threads)
        model = models[kind]
        model.reset()
        model.eval(text_ids(context))
        first = last_logits(llama_cpp, model)
        logits, ids = first[:NUM_COMPARED].tolist(), [int(first.argmax())]
        start = time.perf_counter()
        while len(ids) < steps:
            model.eval(ids[-1:])
            ids.append(int(last_logits(llama_cpp, model).argmax()))
        return {"seconds": time.perf_counter() - start, "ids": ids, "logits": logits}

    return answer


def last_logits(llama_cpp, model) -> np.ndarray:
    return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(model.ctx, -1), shape=[DECODER["vocab_size"]])


def write_gguf(folder: Path, path: Path) -> None:
    """Write the decoder of a folder in transformers' layout as a GGUF file of the architecture "llama" in float32."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(DECODER["num_hidden_layers"])
    writer.add_context_length(DECODER["max_position_embeddings"])
    writer.add_embedding_length(DECODER["hidden_size"])
    writer.add_feed_forward_length(DECODER["intermediate_size"])
    writer.add_head_count(DECODER["num_attention_heads"])
    writer.add_head_count_kv(DECODER["num_key_value_heads"])
    writer.add_rope_dimension_count(DECODER["hidden_size"] // DECODER["num_attention_heads"])
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_vocab_size(DECODER["vocab_size"])
    writer.add_tokenizer_model("llama")  # llama.cpp wants a vocabulary; these tokens are never shown
    writer.add_token_list([f"<{number}>" for number in range(DECODER["vocab_size"])])
    writer.add_token_scores([0.0] * DECODER["vocab_size"])
    writer.add_token_types([int(gguf.TokenType.NORMAL)] * DECODER["vocab_size"])
    for name, values in decoder_tensors(folder):
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def decoder_tensors(folder: Path):
    """Yield llama.cpp's name and the values of each of the decoder's tensors."""
    names = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    names |= {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    names |= {"self_attn.o_proj": "attn_output"}
    names |= {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    whole = {"embed_tokens": "token_embd", "norm": "output_norm"}
    heads = {"attn_q": DECODER["num_attention_heads"], "attn_k": DECODER["num_key_value_heads"]}
    for name, values in stored_tensors(folder):
        name = name.partition("language_model.")[2].removeprefix("model.").removesuffix(".weight")
        if name in whole:
            yield f"{whole[name]}.weight", values[: DECODER["vocab_size"]]  # the file also has rows of padding
        elif name.startswith("layers."):
            _, number, part = name.split(".", 2)
            if names[part] in heads:
                values = in_pairs(values, heads[names[part]])
            yield f"blk.{number}.{names[part]}.weight", values


def in_pairs(values: np.ndarray, num_heads: int) -> np.ndarray:
    """Return the rows of queries or keys in the order in which llama.cpp rotates neighbors, not halves."""
    rows, width = values.shape
    halves = values.reshape(num_heads, 2, rows // num_heads // 2, width)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, width))


def stored_tensors(folder: Path):
    """Yield the name and the values of each float32 tensor of the safetensors files of a folder."""
    for path in sorted(folder.glob("*.safetensors")):
        data = np.memmap(path, np.uint8, "r")
        length = int(data[:8].view("<u8")[0])
        for name, entry in json.loads(bytes(data[8 : 8 + length])).items():
            if name != "__metadata__":
                start, end = (8 + length + offset for offset in entry["data_offsets"])
                yield name, np.frombuffer(data[start:end].tobytes(), "<f4").reshape(entry["shape"])


if __name__ == "__main__":
    sys.exit(main())
