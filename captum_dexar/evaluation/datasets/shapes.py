"""The synthetic scenes as a dataset."""

from captum_dexar.evaluation.datasets.drawn_scenes import DrawnScenesDataset
from captum_dexar.shapes.world import WORLD


class ShapesDataset(DrawnScenesDataset):
    """Drawn scenes, their true captions, and the objects that each word describes.

    Every region of a chosen kind has an exact mask:

    - ``"colour"``, ``"shape"``, ``"size"``: a word, and the object that it describes
    - ``"relation"``: a word of "above" or "left of", and both objects that it relates
    - ``"objects"``: the map of the whole answer, and all objects

    Each filler word is a region without a mask. Words of kinds that are not chosen are
    left out. Any fast tokenizer works, even if it splits words.

    Args:
        seeds (iterable of int): seeds of the scenes; the bundled model was not trained
            on those below 1,000,000
        processor (ProcessorMixin): the model's processor
        model (nn.Module, optional): as in :class:`ImagePromptInput`. Default: None
        kinds (sequence of str, optional): the kinds of regions, see above.
            Default: None, ``("colour", "shape")``

    Raises:
        ValueError: there is no such kind, or a seed is given twice.

    Examples::

        >>> from captum_dexar.evaluation import ShapesDataset
        >>> from captum_dexar.shapes import load_vlm
        >>> model, processor = load_vlm()
        >>> inp, target, regions = next(iter(ShapesDataset(range(3), processor)))
        >>> tokens, mask, kind = regions[4]
        >>> tokens, mask.shape, kind
        ([5], torch.Size([96, 96]), 'colour')
    """

    name = "shapes"
    world = WORLD
    word_kinds = ("colour", "shape", "size", "relation")
    default_kinds = ("colour", "shape")
