"""The reference page tells the truth about the config."""

import subprocess
import sys
from pathlib import Path

from tercet.config.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def test_the_page_in_docs_is_current():
    remedy = "make it anew: python -m tercet.config.reference > docs/config.md"
    assert PAGE.read_text(encoding="utf-8") == reference(), remedy


def test_a_row_names_key_range_default_and_use():
    page = reference()
    assert "| `lora.dropout` | a number, at least 0 and below 1 | `0.0` | Dropout on the input of" in page
    assert "| `data.train[0].path` | text, not empty | required |" in page
    assert "## lm: ppo" in page
    assert "## arm: bc" in page


def test_config_is_read_without_torch():
    code = "import sys, tercet.config.load, tercet.config.reference; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
