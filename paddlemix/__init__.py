"""LLaVA v1.5 and v1.6 (AnyRes) on PaddlePaddle. Public names are imported on first use."""

import importlib

__version__ = "0.2.0"

_MODULES = {
    "LlavaForConditionalGeneration": "api",
    "LlavaConfig": "models.config",
    "LlavaProcessor": "checkpoints.processor",
    "ChatSession": "generate.session",
    "Engine": "generate.engine",
    "Request": "generate.requests",
    "answer_all": "generate.requests",
    "SamplingParams": "generate.sampling",
    "Conversation": "conversation.messages",
    "Message": "conversation.messages",
    "Batch": "data.sample",
    "Sample": "data.sample",
}
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module 'paddlemix' has no attribute {name!r}")
    if name in ("LlavaForConditionalGeneration", "LlavaProcessor", "ChatSession", "Engine", "Request", "answer_all"):
        from paddlemix.device import prepare_environment

        prepare_environment()
    try:
        module = importlib.import_module(f".{_MODULES[name]}", __name__)
    except ModuleNotFoundError as error:
        from paddlemix.packages import missing_text

        text = missing_text(error.name or "")
        if text is None:
            raise
        raise ModuleNotFoundError(text, name=error.name) from None
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *_MODULES])
