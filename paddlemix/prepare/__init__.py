"""Converters of public data sets to LLaVA's rows, one file a set in sets/. The other files here serve all of them.

Raw files are streamed, a row at a time. Output appears complete under its name or not at all.
"""
