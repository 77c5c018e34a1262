"""Reading examples, and which of their tokens are learned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loradock_adapters.training.data import IGNORED, read_examples, tokenize, tokenize_one
from loradock_adapters.training.errors import DataError
from loradock_adapters.training.formats import Example, Message
from tests.adapters.training.conftest import CHAT_TEMPLATE, byte_tokenizer


def line(*messages: tuple[str, str]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in messages]})


GOOD = line(("user", "hi"), ("assistant", "hello"))


def written(folder: Path, *lines: str) -> Path:
    path = folder / "data.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_examples_come_in_file_order_and_blank_lines_do_not_count(tmp_path: Path) -> None:
    other = line(("system", "be kind"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))

    found = read_examples(written(tmp_path, GOOD, "", other, ""))

    assert [example.answer for example in found.examples] == ["hello", "d"]
    assert [message["role"] for message in found.examples[1].context] == ["system", "user", "assistant", "user"]


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    first = read_examples(written(tmp_path, GOOD)).digest

    assert read_examples(written(tmp_path, GOOD, "")).digest != first


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("{", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("[]", "line 2: a JSON list; an example is an object"),
        ('{"prompt": "a", "answer": "b"}', "line 2: no example: it has 'prompt', 'answer'"),
        (line(("assistant", "alone")), 'line 2: no "messages" list with a question and an answer'),
        (line(("user", "a"), ("user", "b")), "line 2: the last message is the user's"),
        (line(("human", "a"), ("assistant", "b")), "line 2: message 1 has role 'human'"),
        (line(("user", "a"), ("assistant", "  ")), "line 2: message 2 has no text"),
        ('{"messages": [{"from": "user", "value": "a"}, {"from": "gpt", "value": "b"}]}', "line 2: message 1 is not"),
        ('{"messages": ["a", "b"]}', "line 2: message 1 is not"),
    ],
    ids=lambda value: value[:24],
)
def test_a_line_that_is_no_example_is_told_by_its_number(tmp_path: Path, bad: str, told: str) -> None:
    with pytest.raises(DataError) as caught:
        read_examples(written(tmp_path, GOOD, bad))

    assert told in str(caught.value)


def test_all_faulty_lines_count_and_the_first_ten_are_shown(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_examples(written(tmp_path, *["x"] * 13))

    assert str(caught.value).count("not JSON") == 10
    assert "and 3 more" in str(caught.value)


def test_an_empty_file_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no examples"):
        read_examples(written(tmp_path, "", ""))
    with pytest.raises(DataError, match=r"no data at .*; run prepare\.py"):
        read_examples(tmp_path / "nothing.jsonl")


def test_the_answer_and_its_stop_token_are_learned_and_nothing_else() -> None:
    tokenizer = byte_tokenizer()

    tokens = tokenize_one(tokenizer, Example((Message("user", "hi"), Message("assistant", "hello"))))

    learned = [label for label in tokens.labels if label != IGNORED]
    assert tokenizer.decode(learned) == "hello<|im_end|>"
    assert learned[-1] == tokenizer.eos_token_id
    assert tokens.input_ids[-len(learned) :] == learned
    assert (
        tokenizer.decode(tokens.input_ids) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>"
    )


def test_the_context_has_the_very_tokens_a_server_will_make_of_it() -> None:
    tokenizer = byte_tokenizer()
    example = Example((Message("user", "hi"), Message("assistant", "hello")))

    tokens = tokenize_one(tokenizer, example)

    served = tokenizer.apply_chat_template(example.context, add_generation_prompt=True, tokenize=False)
    context = tokens.labels.count(IGNORED)
    assert tokens.input_ids[:context] == tokenizer.encode(served, add_special_tokens=False)


def test_an_answer_that_holds_the_stop_token_is_learned_to_its_end() -> None:
    tokenizer = byte_tokenizer()

    tokens = tokenize_one(tokenizer, Example((Message("user", "hi"), Message("assistant", "a<|im_end|>b"))))

    assert tokenizer.decode([label for label in tokens.labels if label != IGNORED]) == "a<|im_end|>b<|im_end|>"


def test_long_examples_are_left_out_and_counted_never_cut() -> None:
    short = Example((Message("user", "hi"), Message("assistant", "hello")))
    long = Example((Message("user", "hi" * 100), Message("assistant", "hello")))

    found = tokenize(byte_tokenizer(), [short, long, short], max_length=80)

    assert (len(found.examples), found.too_long) == (2, 1)
    assert 0 < found.trained_share < 1
    with pytest.raises(DataError, match=r"all 1 examples have more than 80 tokens; raise data\.max_length"):
        tokenize(byte_tokenizer(), [long], max_length=80)


def test_a_template_without_a_stop_token_is_refused() -> None:
    tokenizer = byte_tokenizer("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}")

    with pytest.raises(DataError, match="would never stop"):
        tokenize_one(tokenizer, Example((Message("user", "hi"), Message("assistant", "hello"))))


def test_a_template_that_rewrites_the_context_is_refused() -> None:
    tokenizer = byte_tokenizer("{{ messages | length }}" + CHAT_TEMPLATE)

    with pytest.raises(DataError, match="renders the context differently"):
        tokenize_one(tokenizer, Example((Message("user", "hi"), Message("assistant", "hello"))))
