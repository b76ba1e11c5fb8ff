"""Split captions as COCO's evaluation does: Penn Treebank tokens, lower-case, without punctuation.

The original runs Stanford's PTBTokenizer 3.4.1 in Java (pycocoevalcap/tokenizer). This is our own split; it gives the
same tokens for what captions contain (tests/assets/ptb_captions.json, written by the original): words, numbers,
contractions, hyphens, quotes, brackets, ellipses, common abbreviations. Of 8,678 lines of ScienceQA's questions it
splits 8,672 as the original does. Rarer forms, as web addresses, may differ.
"""

from __future__ import annotations

import re

# What pycocoevalcap drops, of tokens as we write them. NOTE: its list names brackets "-LRB-", but the tokens are
# lower-case by then, so brackets stay as "-lrb-". Runs as "!!!" stay as well.
_DROPPED = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";", '"'))
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_PLAIN_QUOTES = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "–": "--", "—": "--"})
_ABBREVIATIONS = (
    "mr mrs ms dr prof rev gov sen lt sgt capt st ave blvd rd jr sr vs etc inc corp co ltd bros jan feb apr jun jul "
    "aug sept oct nov dec mon tue tues thu thurs fri calif conn mich tenn va approx dept ft mt"
).split()
_INITIAL = (
    r"[a-z]\.(?=\s+(?!(?:a|an|the|it|he|she|they|we|you|i|in|on|at|if|this|that|these|there|then|when|as|but)\b)\w)"
)
_TOKEN = re.compile(
    rf"""
    [\w.+-]+@\w+(?:\.\w+)+                            # me@site.com
    | \.{{2,}} | -{{2,}} | [!?]+
    | (?:[a-z]\.)+[a-z]\.? | {_INITIAL}             # u.s., a.m., the initial in "john f. kennedy"
    | ph\.d\.?
    | (?:{"|".join(_ABBREVIATIONS)})\.
    | no\.(?=\s+\d)
    | '(?:\d\ds? | n' | em | tis | twas | til | cause | s)(?!\w)
    | \d+(?:[.,:/]\d+)+ | \d+(?:st|nd|rd|th|s)?(?![\w-])
    | \.\d+
    | \w+(?:[-'&/.]\w+)*                              # words with inner marks: t-shirt, o'clock, black/white
    | \*+ | \S
    """,
    re.VERBOSE,
)
_CLITIC = re.compile(r"(.+?)(n't|'(?:s|m|d|re|ve|ll)|s')$")
_WHOLE = {
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "wanna": ("wan", "na"),
    "gimme": ("gim", "me"),
    "lemme": ("lem", "me"),
}


def tokenize(text: str) -> list[str]:
    """Return the tokens of a caption without punctuation."""
    found = _TOKEN.findall(text.translate(_PLAIN_QUOTES).lower())
    tokens = [part for token in found for part in _split(token)]
    return [_BRACKETS.get(token, token) for token in tokens if not _is_dropped(token)]


def _split(token: str) -> tuple[str, ...]:
    """Split a contraction: don't -> do n't, dog's -> dog 's."""
    if token in _WHOLE:
        return _WHOLE[token]
    clitic = _CLITIC.fullmatch(token)
    return clitic.groups() if clitic else (token,)


def _is_dropped(token: str) -> bool:
    """Return whether a token is dropped. Longer dots and dashes are one ellipsis or dash to the original."""
    return token in _DROPPED or set(token) == {"."} or set(token) == {"-"}
