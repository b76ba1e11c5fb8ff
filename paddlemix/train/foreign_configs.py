"""Names of xtuner's configs, answered with the recipe that has their values. Needs no paddle."""

from __future__ import annotations

import re
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "config" / "llava"
NAME = re.compile(r"llava_(vicuna|internlm2|internlm|phi3|llama3)_\w+_(pretrain|finetune)(?:_copy)?(?:\.py)?")
FOLDERS = {"vicuna": "v1_5"}


def config_hint(name: str) -> str:
    """Return what a config of xtuner is here, "" for another name.

    name: as `xtuner train` takes it: a name, or the path of a copy.
    """
    found = NAME.fullmatch(Path(name).name)
    if found is None:
        return ""
    folder, is_first = FOLDERS.get(found[1], found[1]), found[2] == "pretrain"
    method = "pretrain" if is_first else "qlora" if "qlora" in name else "full"
    data = next((data for data in ("sharegpt4v", "internvl") if data in name), "")
    parts = [method, data, "one_card" if "gpu1_" in name else ""]
    path = RECIPES / folder / f"recipe_{'_'.join(filter(None, parts))}.json"
    if not path.is_file():
        return f"; it is a config of xtuner: use one of paddlemix/config/llava/{folder}/recipe_*.json"
    return f"; it is a config of xtuner: use paddlemix/config/llava/{folder}/{path.name}"
