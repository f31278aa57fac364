"""What the library says about a picture without the app, computed beforehand."""

import io
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from captum_dexar import ImagePromptInput, VLMAttribution
from captum_dexar.comparison.methods import METHODS
from captum_dexar.result.result import VLMAttributionResult
from captum_dexar.shapes import load_vlm
from PIL import Image
from tests.app.endurance.pictures import File
from tests.app.questions import assert_same_result

FAST = ("dexar", "dexar-rivals", "attention-gradient")
SLOW = "ig"
PROMPTS = ("Describe the image.", "how many objects ?", "what colour is the star ?")
LENGTHS = (3, 12, 25)


@dataclass(frozen=True)
class Asked:
    """A question that a user may ask, and its answer by every method.

    Attributes:
        file (File): the image
        prompt (str): the question
        length (int): largest number of tokens of the answer
        words (list of str): the answer's
        results (dict): the explanations of the whole answer, by method
    """

    file: File
    prompt: str
    length: int
    words: list[str]
    results: dict[str, "Expected"]


class Expected:
    """What is compared of an explanation, without its images."""

    def __init__(self, result: VLMAttributionResult) -> None:
        self.target_ids, self.output_tokens = result.target_ids, result.output_tokens
        self.answer, self.token_attr = result.answer, result.token_attr
        self.seq_attr, self.token_weights = result.seq_attr, result.token_weights


def known_questions(files: Sequence[File], each: int, slow: int) -> list[Asked]:
    """Questions about every file; the first ``slow`` short ones by IG as well."""
    model, processor = load_vlm()
    rng = random.Random(1)
    methods = {name: METHODS[name].make(model) for name in (*FAST, SLOW)}
    asked = []
    for file in files:
        image = Image.open(io.BytesIO(file.content))
        image.load()
        for prompt in rng.sample(PROMPTS, each):
            length = rng.choice(LENGTHS)
            is_slow = slow > 0 and length == LENGTHS[0]
            slow -= is_slow
            results: dict[str, Expected] = {}
            words: list[str] = []
            for name in (*FAST, SLOW) if is_slow else FAST:
                inp = ImagePromptInput(image, prompt, processor, model)
                attribution = VLMAttribution(methods[name], processor)
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "The map of the whole answer")
                    result = attribution.attribute(
                        inp,
                        gen_args={
                            "max_new_tokens": length,
                            "do_sample": False,
                            "num_beams": 1,
                        },
                        **METHODS[name].arguments,
                    )
                words = [word.text for word in result.words()]
                results[name] = Expected(result)
            asked.append(Asked(file, prompt, length, words, results))
    return asked


def check_result(content: bytes, asked: Asked, method: str) -> None:
    """Compares a downloaded explanation with the library's.

    Args:
        content (bytes): of the file
        asked (Asked): what was asked; of an answer that was stopped, its beginning is
            compared
        method (str): by which it was explained

    Raises:
        AssertionError: they differ.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "result.dexar"
        path.write_bytes(content)
        result = VLMAttributionResult.load(path)
    whole = asked.results[method]
    length = len(result.target_ids)
    assert 1 <= length <= len(whole.target_ids)
    if length == len(whole.target_ids):
        assert_same_result(result, cast(Any, whole))
        return
    assert result.target_ids.tolist() == whole.target_ids[:length].tolist()
    assert result.output_tokens == whole.output_tokens[:length]
    expected = whole.token_attr[:length]
    scale = float(expected.abs().max()) or 1.0
    assert float((result.token_attr - expected).abs().max()) <= 1e-5 * scale
