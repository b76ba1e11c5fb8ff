"""Readers of benchmarks' own files, one file a format.

A reader gets the paths of its files by role ("questions", "images" ...). It yields records in the order of the file,
and a problem for each row that cannot be asked. It raises ValueError for a file that is not of its format.
"""
