"""Bodies of inference requests as a stranger might send them, for hypothesis: good ones, bent ones, broken bytes.

What each route takes is written down here by hand, with the types that OpenAI and vLLM give; bending puts any JSON
at any place of it. It knows no answer.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

ROUTES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/embeddings",
    "/score",
    "/rerank",
    "/classify",
    "/pooling",
    "/tokenize",
    "/detokenize",
)

_NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**30]),
    st.floats(allow_nan=False, allow_infinity=False),
)
# Half of a surrogate pair, NUL, other control characters and long text are among them.
_TEXT = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.sampled_from(
        ["\ud800", "\0", "\r\n\r\n", "x" * 3000, "tiny", "<|im_end|>", "{{ messages }}", "../../etc", "%s%n"]
    ),
)
ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXT),
    lambda part: st.one_of(st.lists(part, max_size=3), st.dictionaries(_TEXT, part, max_size=3)),
    max_leaves=8,
)

_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
_COMMON: dict[str, Any] = {
    "max_tokens": 4,
    "temperature": 0.5,
    "top_p": 0.9,
    "n": 1,
    "seed": 7,
    "stop": ["."],
    "stream": False,
    "stream_options": {"include_usage": True},
    "logit_bias": {"5": 1},
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "user": "u",
    # vLLM's own
    "top_k": 3,
    "min_p": 0.1,
    "min_tokens": 1,
    "repetition_penalty": 1.1,
    "ignore_eos": False,
    "stop_token_ids": [1],
    "bad_words": ["x"],
    "allowed_token_ids": [5, 6],
    "truncate_prompt_tokens": 5,
    "priority": 0,
    "request_id": "r",
    "return_token_ids": True,
    "cache_salt": "s",
    "vllm_xargs": {"a": 1},
    "structured_outputs": {"choice": ["a", "b"]},
    "kv_transfer_params": {},
    "skip_special_tokens": True,
    "logits_processors": [],
}
_CHAT: dict[str, Any] = _COMMON | {
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    "logprobs": True,
    "top_logprobs": 2,
    "tools": [_TOOL],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    "max_completion_tokens": 4,
    "chat_template": "{{ messages }}",
    "chat_template_kwargs": {"a": 1},
    "add_generation_prompt": True,
    "continue_final_message": False,
    "documents": [{"title": "t", "text": "x"}],
    "reasoning_effort": "low",
    "mm_processor_kwargs": {},
}
_SHAPES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": _COMMON
    | {"prompt": "Once", "logprobs": 2, "echo": True, "suffix": "x", "best_of": 1, "prompt_logprobs": 1},
    "/v1/responses": _COMMON
    | {
        "input": [{"role": "user", "content": "hi"}],
        "instructions": "i",
        "max_output_tokens": 4,
        "previous_response_id": "resp_x",
        "store": False,
        "text": {"format": {"type": "text"}},
        "tools": [],
        "reasoning": {"effort": "low"},
        "background": False,
        "include": [],
        "truncation": "auto",
    },
    "/v1/messages": _COMMON
    | {
        "messages": [{"role": "user", "content": "hi"}],
        "system": "s",
        "stop_sequences": ["."],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"},
        "metadata": {"user_id": "u"},
        "thinking": {"type": "disabled"},
    },
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "hi"}], "system": "s", "tools": []},
    "/v1/embeddings": {"input": ["a", "b"], "encoding_format": "float", "dimensions": 4, "user": "u"},
    "/score": {"text_1": "a", "text_2": ["b"]},
    "/rerank": {"query": "q", "documents": ["a", "b"], "top_n": 1},
    "/classify": {"input": ["a"]},
    "/pooling": {"input": "a"},
    "/tokenize": {"prompt": "Once", "add_special_tokens": True, "return_token_strs": True},
    "/detokenize": {"tokens": [1, 2, 3]},
}
# What an answer must fit: good, large, or such as compilers stumble over.
_BOUNDS = st.sampled_from([-1, 0, 1, 7, 64, 200, 1000, 10**9, 1.5, "7"])
_REGEXES = st.sampled_from(
    [
        "[a-z]+",
        "a{1,200}",
        "^[a-z0]{1,200}$",
        "(a{1,50}){1,50}",
        "(a",
        "[",
        "(a+)+b",
        "(?=x)a",
        r"\p{L}+",
        "",
        "a{9999}",
    ]
)
_EBNF = st.sampled_from(
    ['root ::= "a" | "b"', "root ::= [a-z]{1,300}", "root ::= nobody", "root ::= root", 'start: "a"', "::=", "x" * 3000]
)
_SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("string")}, optional={"minLength": _BOUNDS, "maxLength": _BOUNDS, "pattern": _REGEXES}
        ),
        st.fixed_dictionaries({"type": st.just("integer")}, optional={"minimum": _BOUNDS, "maximum": _BOUNDS}),
        st.sampled_from([{}, True, {"enum": []}, {"enum": ["a", 1, None]}, {"const": "x"}, {"$ref": "#/$defs/nobody"}]),
        st.sampled_from([{"type": "string", "format": "date-time"}, {"type": ["string", "null"]}, {"type": "no"}]),
    ),
    lambda part: st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("array"), "items": part}, optional={"minItems": _BOUNDS, "maxItems": _BOUNDS}
        ),
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("abc"), part, max_size=3)},
            optional={
                "required": st.just(["a"]),
                "additionalProperties": part,
                "patternProperties": st.just({"^x": {}}),
            },
        ),
        st.fixed_dictionaries({"anyOf": st.lists(part, max_size=3)}),
        st.fixed_dictionaries({"$ref": st.just("#/$defs/a"), "$defs": st.fixed_dictionaries({"a": part})}),
    ),
    max_leaves=5,
)
_GRAMMARS = st.one_of(
    st.fixed_dictionaries({"json": _SCHEMAS}),
    st.fixed_dictionaries({"regex": _REGEXES}),
    st.fixed_dictionaries({"grammar": _EBNF}),
    st.fixed_dictionaries({"choice": st.lists(_TEXT, max_size=3)}),
)

_NEEDED = {"messages", "prompt", "input", "text_1", "text_2", "query", "documents", "tokens", "max_tokens"}
_SIMPLE_CHAT = [{"role": "user", "content": "hi"}]


@st.composite
def requests(draw: st.DrawFn, model: str) -> tuple[str, bytes]:
    """A path and a body; `model` exists."""
    path = draw(st.sampled_from(ROUTES))
    shape = _SHAPES[path]
    optional = sorted(shape.keys() - _NEEDED)
    chosen = draw(st.lists(st.sampled_from(optional), max_size=4, unique=True)) if optional else []
    body = {"model": model} | {name: shape[name] for name in (*sorted(shape.keys() & _NEEDED), *chosen)}
    body = json.loads(json.dumps(body))
    if "structured_outputs" in shape and draw(st.integers(0, 3)) == 0:
        body["structured_outputs"] = draw(_GRAMMARS)
    for _ in range(draw(st.integers(0, 3))):
        _bend(draw, body)
    text = json.dumps(body).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        text = _broken(draw, text)
    return path, text


def _bend(draw: st.DrawFn, body: dict[str, Any]) -> None:
    """Put something else at one place of it, somewhere below."""
    place: Any = body
    for _ in range(4):
        keys: list[Any] = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = draw(st.sampled_from(keys))
        deeper = place[key]
        if isinstance(deeper, (dict, list)) and deeper and draw(st.booleans()):
            place = deeper
            continue
        how = draw(st.integers(0, 3))
        if how == 0 and isinstance(place, dict):
            del place[key]
        elif how == 1 and isinstance(place, dict):
            place[draw(_TEXT)] = draw(ANY)
        else:
            place[key] = draw(ANY)
        return


def _broken(draw: st.DrawFn, text: bytes) -> bytes:
    at = draw(st.integers(0, len(text)))
    match draw(st.integers(0, 4)):
        case 0:
            return text[:at]
        case 1:
            return text[:at] + draw(st.binary(max_size=8)) + text[at:]
        case 2:
            return b"[" * 5000 + text
        case 3:
            return text[:at] + draw(st.sampled_from([b"NaN", b"1e999", b'"\\ud800"', b"\xff", b"\x00"])) + text[at:]
        case _:
            return draw(st.binary(max_size=40))
