"""Accuracy of a model's answers: ``python -m captum_dexar.shapes.accuracy``."""

from collections.abc import Iterable

from captum_dexar.shapes.bundled import VLM_FOLDER
from captum_dexar.shapes.world import WORLD
from captum_dexar.worlds import accuracy
from captum_dexar.worlds.accuracy import Accuracy
from transformers import LlavaForConditionalGeneration, LlavaProcessor


def measure_accuracy(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    seeds: Iterable[int],
    batch_size: int = 64,
    show_progress: bool = False,
) -> dict[str, Accuracy]:
    """Asks a model for the caption of each scene and all questions about it.

    Answers are generated greedily and count as right only if they match exactly.

    Args:
        model (LlavaForConditionalGeneration): a model in eval mode
        processor (LlavaProcessor): its processor
        seeds (iterable of int): seeds of the scenes; below 1,000,000 they are held out
        batch_size (int, optional): number of answers generated together. Default: 64
        show_progress (bool, optional): shows a progress bar. Default: False

    Returns:
        *dict* of str to Accuracy by kind, ``"caption of 1"`` to ``"caption of 3"``
        (the number of objects) and the kinds of :class:`Question`; kinds that do not
        occur are absent

    Raises:
        ValueError: ``seeds`` is empty.

    Examples::

        >>> from captum_dexar.shapes import load_vlm
        >>> model, processor = load_vlm()
        >>> accuracy = measure_accuracy(model, processor, range(3))
        >>> accuracy["count"].share
        1.0
    """
    return accuracy.measure_accuracy(
        WORLD, model, processor, seeds, batch_size, show_progress
    )


if __name__ == "__main__":
    accuracy.main(WORLD, default_model=VLM_FOLDER)
