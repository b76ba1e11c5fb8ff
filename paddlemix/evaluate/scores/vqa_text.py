"""Normalize short answers as the scorers of VQA do. Three projects have three versions; each is under its name.

Tables: vqaEval.py of GT-Vision-Lab/VQA; those of LLaVA, lmms-eval and VLMEvalKit are the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

# Pairs of a word without its apostrophe and the right form. NOTE: pairs with a capital letter never match, as text is
# lower-case by then; "somebody'd" even loses its apostrophe.
_PAIRS = """
aint ain't arent aren't cant can't couldve could've couldnt couldn't couldn'tve couldn't've couldnt've couldn't've
didnt didn't doesnt doesn't dont don't hadnt hadn't hadnt've hadn't've hadn'tve hadn't've hasnt hasn't havent haven't
hed he'd hed've he'd've he'dve he'd've hes he's howd how'd howll how'll hows how's Id've I'd've I'dve I'd've Im I'm
Ive I've isnt isn't itd it'd itd've it'd've it'dve it'd've itll it'll let's let's maam ma'am mightnt mightn't
mightnt've mightn't've mightn'tve mightn't've mightve might've mustnt mustn't mustve must've neednt needn't
notve not've oclock o'clock oughtnt oughtn't ow's'at 'ow's'at 'ows'at 'ow's'at 'ow'sat 'ow's'at shant shan't
shed've she'd've she'dve she'd've she's she's shouldve should've shouldnt shouldn't shouldnt've shouldn't've
shouldn'tve shouldn't've somebody'd somebodyd somebodyd've somebody'd've somebody'dve somebody'd've
somebodyll somebody'll somebodys somebody's someoned someone'd someoned've someone'd've someone'dve someone'd've
someonell someone'll someones someone's somethingd something'd somethingd've something'd've
something'dve something'd've somethingll something'll thats that's thered there'd thered've there'd've
there'dve there'd've therere there're theres there's theyd they'd theyd've they'd've they'dve they'd've
theyll they'll theyre they're theyve they've twas 'twas wasnt wasn't wed've we'd've we'dve we'd've weve we've
werent weren't whatll what'll whatre what're whats what's whatve what've whens when's whered where'd wheres where's
whereve where've whod who'd whod've who'd've who'dve who'd've wholl who'll whos who's whove who've whyll why'll
whyre why're whys why's wont won't wouldve would've wouldnt wouldn't wouldnt've wouldn't've wouldn'tve wouldn't've
yall y'all yall'll y'all'll y'allll y'all'll yall'd've y'all'd've y'alld've y'all'd've y'all'dve y'all'd've
youd you'd youd've you'd've you'dve you'd've youll you'll youre you're youve you've
""".split()
CONTRACTIONS: Mapping[str, str] = MappingProxyType(dict(zip(_PAIRS[::2], _PAIRS[1::2], strict=True)))
_NUMBERS = "zero one two three four five six seven eight nine ten".split()
DIGITS: Mapping[str, str] = MappingProxyType({"none": "0", **{word: str(n) for n, word in enumerate(_NUMBERS)}})
ARTICLES = ("a", "an", "the")
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'

# NOTE: the published pattern means to spare periods between digits, but its look-behind is misspelled ((?!<=\d)), so
# only the digit after the period counts. Its call passes re.UNICODE, which is 32, as the number of replacements.
_PERIOD = re.compile(r"\.(?!\d)")
_PERIOD_VLMEVALKIT = re.compile(r"(?<!\d)\.(?!\d)")
_MAX_PERIODS = 32
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_COMMAS_IN_NUMBER = re.compile(r"\d,+\d")


def normalize_evalai(text: str) -> str:
    """Normalize as EvalAIAnswerProcessor does (LLaVA's m4c_evaluator.py, lmms-eval, and what uploads of LLaVA hold)."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return normalize_evalai_tail(text)


def normalize_evalai_tail(text: str) -> str:
    """Normalize as EvalAIAnswerProcessor does after its first step, which is what lmms-eval applies to VQAv2."""
    return _words(_without_marks(on_one_line(text), _COMMAS_IN_NUMBER, _PERIOD))


def normalize_official(text: str) -> str:
    """Normalize as vqaEval.py of GT-Vision-Lab/VQA does."""
    return _words(_without_marks(on_one_line(text), _COMMA_IN_NUMBER, _PERIOD))


def normalize_vlmevalkit(text: str) -> str:
    """Normalize as vqa_eval.py of VLMEvalKit does: a period after a digit stays."""
    return _words(without_marks_vlmevalkit(on_one_line(text)))


def without_marks_vlmevalkit(text: str) -> str:
    """Remove punctuation as VLMEvalKit's process_punctuation does; its reading of yes and no uses it too."""
    return _without_marks(text, _COMMA_IN_NUMBER, _PERIOD_VLMEVALKIT)


NORMALIZERS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {"evalai": normalize_evalai, "official": normalize_official, "vlmevalkit": normalize_vlmevalkit}
)


def on_one_line(text: str) -> str:
    """Replace line breaks and tabs by spaces, and strip."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_marks(text: str, comma_in_number: re.Pattern, period: re.Pattern) -> str:
    """Delete a mark that stands next to a space somewhere in the text, or any in a text with 1,000; else space it."""
    has_number = comma_in_number.search(text) is not None
    result = text
    for mark in PUNCTUATION:
        is_deleted = has_number or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if is_deleted else " ")
    return period.sub("", result, count=_MAX_PERIODS)


def _words(text: str) -> str:
    """Replace number words and contractions, drop articles, and join words by one space."""
    words = [DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
