"""JSON schemas of the parts of a request that have several forms, for the OpenAPI description."""

TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
IMAGE_URL = {
    "type": "object",
    "properties": {
        "url": {"type": "string", "description": "data:image/...;base64,... or an http(s) URL of an allowed host"},
        "detail": {"enum": ["auto", "low", "high", None], "description": "low encodes one tile only"},
    },
    "required": ["url"],
}
IMAGE_PART = {
    "type": "object",
    "properties": {"type": {"const": "image_url"}, "image_url": {"anyOf": [IMAGE_URL, {"type": "string"}]}},
    "required": ["type", "image_url"],
}
TEXT_CONTENT = {"anyOf": [{"type": "string"}, {"type": "array", "items": TEXT_PART}]}
USER_CONTENT = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": [TEXT_PART, IMAGE_PART]}}]}


def _message(roles: list[str], content: dict) -> dict:
    return {
        "type": "object",
        "properties": {"role": {"enum": roles}, "content": content},
        "required": ["role", "content"],
    }


MESSAGES = {
    "type": "array",
    "minItems": 1,
    "items": {
        "anyOf": [
            _message(["system", "developer"], TEXT_CONTENT),
            _message(["user"], USER_CONTENT),
            _message(["assistant"], TEXT_CONTENT),
        ]
    },
    "description": "system texts first, then user and assistant in turn; neighbors of one role are joined",
    "examples": [[{"role": "user", "content": "Hello"}]],
}
TOKEN_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
PROMPT = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        TOKEN_IDS,
        {"type": "array", "items": TOKEN_IDS, "minItems": 1},
    ],
    "examples": ["The sky is"],
}
STOP_IDS = {"anyOf": [{"type": "array", "items": {"type": "integer", "minimum": 0}}, {"type": "null"}]}
BIASES = {
    "anyOf": [
        {
            "type": "object",
            "propertyNames": {"pattern": "^[0-9]{1,10}$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "description": "token ids as strings, and what their logits get",
        },
        {"type": "null"},
    ]
}
STOP = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}},
        {"type": "null"},
    ]
}
FORMAT = {
    "anyOf": [
        {
            "type": "object",
            "properties": {"type": {"enum": ["text", "json_object"]}},
            "required": ["type"],
        },
        {
            "type": "object",
            "properties": {
                "type": {"const": "json_schema"},
                "json_schema": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}, "schema": {"type": "object"}},
                    "required": ["schema"],
                },
            },
            "required": ["type", "json_schema"],
        },
        {"type": "null"},
    ]
}
