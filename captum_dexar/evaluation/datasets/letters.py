"""Letters and digits over photographs as a dataset."""

from captum_dexar.evaluation.datasets.drawn_scenes import DrawnScenesDataset
from captum_dexar.letters.world import WORLD


class LettersDataset(DrawnScenesDataset):
    """Scenes of letters and digits, their true captions, and what each word refers to.

    Every region of a chosen kind has an exact mask:

    - ``"colour"``, ``"character"``, ``"size"``: a word, and the character that it
      describes
    - ``"count"``: a word of "one", "two" or "three", and all characters
    - ``"relation"``: a word of "above" or "left of", and both characters that it
      relates
    - ``"objects"``: the map of the whole answer, and all characters

    Each filler word is a region without a mask. Words of kinds that are not chosen are
    left out. Any fast tokenizer works, even if it splits words.

    Args:
        seeds (iterable of int): seeds of the scenes; those from 1,000,000 are for
            training
        processor (ProcessorMixin): the model's processor
        model (nn.Module, optional): as in :class:`ImagePromptInput`. Default: None
        kinds (sequence of str, optional): the kinds of regions, see above.
            Default: None, ``("colour", "character")``

    Raises:
        ValueError: there is no such kind, or a seed is given twice.

    Examples::

        >>> from captum_dexar.evaluation import LettersDataset
        >>> from captum_dexar.letters import build_processor
        >>> inp, target, regions = LettersDataset([11], build_processor())[0]
        >>> tokens, mask, kind = regions[-2]
        >>> tokens, mask.shape, kind
        ([8], torch.Size([96, 96]), 'character')
    """

    name = "letters"
    world = WORLD
    word_kinds = ("colour", "character", "size", "count", "relation")
    default_kinds = ("colour", "character")
