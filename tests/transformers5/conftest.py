"""Tests against the newest transformers and peft, which need an environment of their own: `make test-transformers5`."""

import transformers

IS_NEWEST = int(transformers.__version__.split(".")[0]) >= 5
collect_ignore_glob = [] if IS_NEWEST else ["test_*.py"]
