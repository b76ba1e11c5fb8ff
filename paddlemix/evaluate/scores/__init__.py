"""Scorers of benchmarks: pure functions from answers to figures, one file a metric.

Nothing here reads files, knows a model or imports anything but the standard library. Every file has

- RULES: the names of its rules, the default first. A rule with the name of a project (llava, lmms, vlmevalkit, xtuner,
  official) gives that project's figures, quirks included. "strict" is our own: it never guesses.
- parse(text, ...): what a rule reads in an answer; None if it finds no answer.
- judge(item, rule) -> Verdict: what one answer is worth, where the metric scores answers one by one.
- score(items, rule) -> Scores: the figures of a set. The order of the items never matters.

result.py has the types. letters.py and yes_no.py read answers for several metrics; vqa_text.py and ptb_tokens.py
normalize texts.

An item is a mapping with the keys that the file names in `score`; "prediction" is always the model's text. Further keys
(prompts, images) are ignored. An answer in which a rule finds nothing is wrong and counted in `Scores.num_failed`.
"""
