"""Encoded samples in Arrow files: made once from a training configuration, read by any number of runs.

A cache is a folder: `manifest.json` with what its samples depend on, `index.arrow` with the place and the length of
each row, and shards with the samples. The manifest is written last, so a folder without one is not finished.
"""
