"""Judges: another model reads the answers to a task, and what it writes becomes a score.

ask.py asks about all answers and keeps what was written, rules.py has what is asked, judge.py is the client of a
server, journal.py the file of judgements, review_files.py the files of LLaVA's scripts.
"""
