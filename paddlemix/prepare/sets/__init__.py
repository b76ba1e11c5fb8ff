"""The converters, one file a data set or tool, each with a CONVERTER that table.py lists."""
