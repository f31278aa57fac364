"""The command line, ``captum-dexar``."""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from captum_dexar.result import VLMAttributionResult
    from torch import nn

# Between the paper's gradient (0) and its share of what was read (1).
READ_POWER = 0.5
SUCCESS, FAILURE, BAD_INPUT = 0, 1, 2
_DTYPES = ("auto", "float32", "float16", "bfloat16")


class InputError(Exception):
    """Something the user gave can't be used; the message says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments (sequence of str, optional): Default: those of the process

    Returns:
        0 on success, 1 if explaining failed, 2 for bad input.
    """
    options = _parser().parse_args(arguments)
    # Pictures go to files; no window is opened, and none is needed.
    os.environ["MPLBACKEND"] = "Agg"
    try:
        options.run(options)
    except InputError as error:
        print(f"captum-dexar: {error}", file=sys.stderr)
        return BAD_INPUT
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        print(f"captum-dexar: {type(error).__name__}: {error}", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        print("captum-dexar: interrupted", file=sys.stderr)
        return 130
    return SUCCESS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="captum-dexar",
        description="Which part of the picture made the model say that word?",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="explain the bundled model's description of a drawn scene, offline",
        description="Draws a scene, lets the bundled vision-language model describe "
        "it, and explains every word with DEX-AR.",
    )
    demo.add_argument("--seed", type=int, default=0, help="which scene (default: 0)")
    _add_layers(demo)
    _add_out(demo, "captum-dexar-demo")
    demo.set_defaults(run=_demo)

    explain = commands.add_parser(
        "explain",
        help="explain a model's answer to a question about an image",
        description="Loads a vision-language model of Hugging Face, lets it answer (or "
        "takes the answer given), and explains every token with DEX-AR. Only "
        "safetensors weights are loaded, and no code that comes with a model is run.",
    )
    explain.add_argument(
        "--model", required=True, metavar="ID_OR_FOLDER", help="the model to load"
    )
    explain.add_argument("--image", required=True, metavar="FILE", type=Path)
    explain.add_argument("--prompt", required=True, metavar="TEXT")
    explain.add_argument(
        "--target", metavar="TEXT", help="explain this answer (default: generate one)"
    )
    explain.add_argument(
        "--max-new-tokens",
        type=_positive,
        metavar="N",
        help="generate at most N tokens (default: 25)",
    )
    explain.add_argument(
        "--device", metavar="D", help="such as cpu or cuda:0 (default: cuda if there)"
    )
    explain.add_argument("--dtype", choices=_DTYPES, default="auto", metavar="T")
    explain.add_argument(
        "--attn",
        metavar="IMPL",
        help="attention implementation, such as sdpa, eager or flash_attention_2 "
        "(default: the model's own)",
    )
    explain.add_argument(
        "--attention-power",
        type=float,
        default=0.0,
        metavar="P",
        help="explain by gradient x attention^P: 0 is the paper (the default); 0.5 and "
        "1 say rather which patches were read",
    )
    _add_layers(explain)
    _add_out(explain, "captum-dexar-output")
    explain.set_defaults(run=_explain)

    evaluate = commands.add_parser(
        "evaluate",
        help="measure the bundled model and DEX-AR on it",
        description="On held-out scenes of the bundled world: how often the bundled "
        "model is exactly right, and how well the maps of colour and shape words find "
        "the object that they speak of, with chance beside it.",
    )
    evaluate.add_argument("--scenes", type=_positive, default=500, metavar="N")
    evaluate.add_argument("--first-seed", type=int, default=0, metavar="SEED")
    evaluate.set_defaults(run=_evaluate)
    return parser


def _add_layers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layers",
        default="all",
        metavar="WHICH",
        help="decoder layers to read: all (the paper; the default), last-half, or "
        "numbers such as 3,4",
    )


def _add_out(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(default),
        metavar="DIR",
        help=f"where pictures, table and result go (default: {default})",
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _demo(options: argparse.Namespace) -> None:
    from captum_dexar import ImagePromptInput
    from captum_dexar.shapes import load_vlm, make_scene

    if options.seed < 0:
        raise InputError(f"--seed must not be negative, got {options.seed}.")
    model, processor = load_vlm()
    scene = make_scene(options.seed)
    inp = ImagePromptInput(scene.image, "Describe the image.", processor, model)
    result = _explained(model, processor, inp, options)
    read = _explained(
        model,
        processor,
        inp,
        options,
        target=result.target_ids,
        attention_power=READ_POWER,
    )
    print(f"\nThe scene:  {scene.caption}")
    _report(result, options.out)
    _save_figure(read.plot_tokens(), options.out / "tokens_read.png")
    print(
        f"The patches that were read, gradient x attention^{READ_POWER} (an extension "
        f"of the paper):  {options.out / 'tokens_read.png'}"
    )


def _explain(options: argparse.Namespace) -> None:
    if options.target is not None and options.max_new_tokens is not None:
        raise InputError(
            "--max-new-tokens is for generating an answer, but --target gives one."
        )
    image = _opened(options.image)
    from captum_dexar import ImagePromptInput

    model, processor = _loaded(options)
    inp = ImagePromptInput(image, options.prompt, processor, model)
    result = _explained(
        model,
        processor,
        inp,
        options,
        target=options.target,
        attention_power=options.attention_power,
    )
    print()
    _report(result, options.out)


def _evaluate(options: argparse.Namespace) -> None:
    from captum_dexar.evaluation import evaluate_on_shapes, localization_table
    from captum_dexar.shapes import load_vlm, measure_accuracy

    seeds = range(options.first_seed, options.first_seed + options.scenes)
    model, processor = load_vlm()
    accuracy = measure_accuracy(model, processor, seeds, show_progress=True)
    print("\n| answers | exactly right | asked | share |\n|---|---|---|---|")
    for kind, value in accuracy.items():
        print(f"| {kind} | {value.right} | {value.asked} | {value.share:.3f} |")
    scores = evaluate_on_shapes(model, processor, seeds, progress=True)
    counts = scores[0].num_words
    print(f"\nWords: {counts['colour']} of colour, {counts['shape']} of shape.\n")
    print(localization_table(scores))


def _opened(path: Path) -> Any:
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise InputError(f"there is no image file at {path}.")
    try:
        image = Image.open(path)
        image.load()
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path} is not a readable image: {error}") from None
    return image


def _loaded(options: argparse.Namespace) -> tuple[nn.Module, Any]:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        processor = AutoProcessor.from_pretrained(
            options.model, trust_remote_code=False
        )
        model = AutoModelForImageTextToText.from_pretrained(
            options.model,
            dtype=options.dtype,
            attn_implementation=options.attn,
            use_safetensors=True,
            trust_remote_code=False,
        )
        return model.to(device).eval(), processor
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise InputError(
            f"{options.model} could not be loaded as a vision-language model: {error}"
        ) from error


def _explained(
    model: nn.Module,
    processor: Any,
    inp: Any,
    options: argparse.Namespace,
    target: Any = None,
    attention_power: float = 0.0,
) -> VLMAttributionResult:
    from captum_dexar import LayerDexAR, VLMAttribution
    from captum_dexar.attention_gradients import find_layers

    method = LayerDexAR(model, _chosen_layers(find_layers(model), options.layers))
    gen_args = None
    if getattr(options, "max_new_tokens", None):
        gen_args = {"max_new_tokens": options.max_new_tokens, "do_sample": False}
    return VLMAttribution(method, processor).attribute(
        inp,
        target=target,
        gen_args=gen_args,
        progress=target is None,
        attention_power=attention_power,
    )


def _chosen_layers(layers: list[nn.Module], which: str) -> list[nn.Module]:
    if which == "all":
        return layers
    if which == "last-half":
        return layers[len(layers) // 2 :]
    try:
        indices = [int(part) for part in which.split(",")]
        return [layers[index] for index in indices]
    except (ValueError, IndexError):
        raise InputError(
            f"--layers must be all, last-half or numbers from 0 to {len(layers) - 1} "
            f"with commas between them, got {which!r}."
        ) from None


def _report(result: VLMAttributionResult, folder: Path) -> None:
    """Prints the words, and writes everything into ``folder``."""
    from captum_dexar.visualization import token_table

    words = result.words()
    print(f"The model:  {result.answer}\n")
    print(
        token_table(
            [word.text for word in words],
            [word.weight for word in words],
            [word.log_prob for word in words],
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    _save_figure(result.plot_tokens(), folder / "tokens.png")
    _save_figure(result.plot_sequence(), folder / "sequence.png")
    _save_figure(result.plot_layers(), folder / "layers.png")
    _write_table(result, folder / "tokens.csv")
    result.save(folder / "result.dexar")
    print(f"\nWhere each word comes from:  {folder / 'tokens.png'}")
    print("Beside it:  sequence.png, layers.png, tokens.csv, result.dexar")


def _save_figure(plotted: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, _ = plotted
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _write_table(result: VLMAttributionResult, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["position", "id", "token", "weight", "log_prob"])
        for position, token in enumerate(result.output_tokens):
            numbers = (result.token_weights, result.token_log_probs)
            writer.writerow(
                [
                    position,
                    int(result.target_ids[position]),
                    token,
                    *("" if n is None else float(n[position]) for n in numbers),
                ]
            )
