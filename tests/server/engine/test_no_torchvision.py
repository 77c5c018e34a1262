"""The stand-in for torchvision: classes that import it can be imported, and nothing of it works."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

if find_spec("transformers") is None or find_spec("torchvision") is not None:
    pytest.skip("only where transformers is and torchvision is not", allow_module_level=True)

SCRIPT = """
from loradock_server.engine.no_torchvision import stand_in
stand_in(); stand_in()
from transformers.utils.import_utils import is_torchvision_available
assert not is_torchvision_available()
from transformers.models.gemma3.image_processing_gemma3 import Gemma3ImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize
import torchvision.transforms as T
try:
    T.functional.resize(1)
except RuntimeError as error:
    print(error)
"""


def test_image_processors_can_be_imported_and_pictures_are_refused_in_words() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "torchvision is not installed, so this server takes text only" in done.stdout
