"""The fatal lines of an engine's start that are known, each with its fix: what `start_failure` looks for.

One rule per kind of fault. Words in braces are groups of the pattern; `{line}` is the exception's own words, `{error}`
the first line after it that has the word "error".
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """`passing`: what it tells of may be gone at the next try without anybody's doing. `weak`: another rule that fits
    any line of the log knows better: such a line is what a deeper fault looks like from above.
    """

    pattern: re.Pattern[str]
    cause: str
    fix: str
    passing: bool = False
    weak: bool = False


def _rule(pattern: str, cause: str, fix: str, *, passing: bool = False, weak: bool = False) -> Rule:
    return Rule(re.compile(pattern), cause, fix, passing, weak)


_MODEL = "give LORADOCK_MODEL a whole folder as transformers saves it: config, tokenizer and safetensors"

# How vLLM goes on after the reason: with flags of its own, which are not how one sets things here, and long lists.
ADVICE = re.compile(r" (?:Supported architectures:|To allow overriding|Try increasing|Decrease --|See https?://).*")

# The first line of the log that fits a rule is the root; of several that fit one line, the first here.
RULES: tuple[Rule, ...] = (
    _rule(
        r"^self-test failed, the engine will not serve: (?P<why>.+)",
        "the engine's self-test failed: {why}",
        "do not serve with this installation; docs/engine.md, Correctness, says what to look at",
    ),
    _rule(
        r"LLVM ERROR: (?P<why>.+)",
        "the compiler of a kernel gave up on this processor: LLVM ERROR: {why}",
        "report it with this line and the processor's name (grep -m1 'model name' /proc/cpuinfo)",
    ),
    _rule(
        r"KernelUnfit: (?P<why>.+?)(?:; leave it on auto)?$",
        "{why}",
        "set LORADOCK_CPU_KERNEL=auto, which takes the fastest that this machine has",
    ),
    _rule(
        r"\[Errno 28\]|No space left on device|[Dd]isk quota exceeded",
        "no space left on a device: {line}",
        "free some: compiled models go to HOME/cache, temporary files to TMPDIR, processes share /dev/shm",
    ),
    _rule(
        r"\[Errno 98\]|[Aa]ddress already in use",
        "the engine's address is in use: {line}",
        "stop what listens there (another engine?), or set another LORADOCK_ENGINE_URL",
        passing=True,
    ),
    _rule(
        r"fatal error: (?P<header>Python\.h|pyconfig\.h)",
        "the C++ compiler does not find Python's headers: {header}",
        "install python3-dev for this Python, or set LORADOCK_COMPILE=false",
    ),
    _rule(
        r"fatal error: (?P<why>[\w/.+-]+: No such file or directory)",
        "the C++ compiler lacks a header: {why}",
        "install the compiler's development packages (libc6-dev, libstdc++-dev), or set LORADOCK_COMPILE=false",
    ),
    _rule(
        r"InvalidCxxCompiler|No working C\+\+ compiler|(?:c|g|clang)\+\+[\w.-]*: (?:not found|No such file)",
        "no working C++ compiler: {line}",
        "install g++, set CXX to one, or set LORADOCK_COMPILE=false",
    ),
    _rule(
        r"CppCompileError",
        "the C++ compiler failed at the model: {error}",
        "see its words in the log and mend or replace it (CXX), or set LORADOCK_COMPILE=false",
        weak=True,
    ),
    _rule(
        r"can't allocate memory|DefaultCPUAllocator|\bMemoryError\b|std::bad_alloc|[Cc]annot allocate memory"
        r"|\[Errno 12\]|OutOfMemoryError|out of memory",
        "not enough memory: {line}",
        "lower LORADOCK_KV_CACHE_BYTES, take LORADOCK_DTYPE=bfloat16 or a smaller model, or give it more memory",
    ),
    _rule(
        r"KV cache is needed, which is larger than the available KV cache memory|No available memory for the cache",
        "{line}",
        "raise LORADOCK_KV_CACHE_BYTES, or lower LORADOCK_MAX_MODEL_LEN",
    ),
    _rule(
        r"Available memory on node .+ is less than",
        "not enough memory: {line}",
        "lower LORADOCK_KV_CACHE_BYTES, close other programs, or give it more memory",
    ),
    _rule(
        r"max_model_len .*is greater than the derived",
        "{line}",
        "lower LORADOCK_MAX_MODEL_LEN to what the model was made for",
    ),
    _rule(
        r"does not recognize this architecture|[Mm]odel architectures? .+ (?:is|are) not supported|"
        r"has no vLLM implementation|failed to be inspected",
        "vLLM cannot serve this model: {line}",
        "serve a model of a class that vLLM lists (docs.vllm.ai, supported models)",
    ),
    _rule(
        r"does not support LoRA",
        "this model takes no adapters in vLLM: {line}",
        "serve a model of a class that takes LoRA in vLLM (docs.vllm.ai, supported models)",
    ),
    _rule(
        r"^\S*: error: (?P<why>(?:unrecognized|argument|ambiguous|the following) .+)",
        "vLLM does not take a flag: {why}",
        "mend LORADOCK_ENGINE_ARGS; `vllm serve --help=all` lists the flags",
    ),
    _rule(
        r"SafetensorError|Cannot find any model weights|Error while deserializing header|Incomplete metadata",
        "the model's weights cannot be read: {line}",
        "fetch the model again; " + _MODEL,
    ),
    _rule(
        r"[Rr]epo id must be .*: '(?P<path>/[^']*)'",
        "there is no model in the folder {path}",
        _MODEL,
    ),
    _rule(
        r"Can't load tokenizer|Couldn't instantiate the backend tokenizer",
        "the model's folder has no tokenizer that transformers can read",
        _MODEL,
    ),
    _rule(
        r"is not a local folder|[Rr]epo id must be|"
        r"does not appear to have a file named|Can't load the configuration|No such file or directory(?!: '/psm_)|"
        r"not a valid JSON|JSONDecodeError|Invalid repository ID",
        "a file is missing or cannot be read: {line}",
        "put it where it was looked for; if it is the model's, " + _MODEL,
        weak=True,
    ),
    _rule(
        r"PermissionError|\[Errno 13\]|Read-only file system",
        "the engine may not write or read where it must: {line}",
        "let its user write to LORADOCK_HOME and read the model",
    ),
)
