"""The table of families is the registry, on the command line and in its README."""

import re
from pathlib import Path

import pytest
from captum_dexar.cli import main
from captum_dexar.families import families_table, known_families
from tests.families.cases import CASES
from tests.families.test_gradients import model_of

README = Path(__file__).parents[2] / "captum_dexar/families/README.md"
# What the package promises to explain, by the model types of transformers.
PROMISED = {
    "aya_vision",
    "chameleon",
    "cohere2_vision",
    "florence2",
    "fuyu",
    "gemma3",
    "gemma4",
    "glm46v",
    "glm4v",
    "idefics3",
    "internvl",
    "lfm2_vl",
    "llama4",
    "llava",
    "llava_next",
    "llava_onevision",
    "mistral3",
    "mllama",
    "ovis2",
    "pix2struct",
    "pp_formulanet",
    "paligemma",
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_5",
    "qwen3_vl",
    "smolvlm",
    "video_llama_3",
    "vipllava",
    "vision-encoder-decoder",
}


def test_the_readme_has_the_table() -> None:
    pattern = r"<!-- families -->\n(.*?)\n<!-- /families -->"
    (table,) = re.findall(pattern, README.read_text(), re.DOTALL)
    # Model types that an older transformers lacks are listed below the table.
    assert table == families_table().split("\n\n")[0]


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["families"]) == 0
    assert capsys.readouterr().out.strip() == families_table()


def test_every_promised_family_is_there_and_has_a_case() -> None:
    known = {kind for adapter in known_families() for kind in adapter.model_types}
    assert known == PROMISED
    cases = {
        model_of(case, 0, case.implementations[0]).config.model_type for case in CASES
    }
    assert cases == PROMISED
