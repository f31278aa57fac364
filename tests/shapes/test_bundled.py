"""The bundled model loads anywhere, offline, and says what is true."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from captum_dexar.shapes import load_vlm, make_scene, measure_accuracy
from captum_dexar.shapes.bundled import VLM_FOLDER
from transformers import AutoModelForImageTextToText, AutoProcessor

# What the model card promises of 500 held-out scenes, asked here of a few.
FLOORS = {
    "caption of 1": 0.98,
    "caption of 2": 0.95,
    "caption of 3": 0.85,
    "shape": 0.95,
    "colour exists": 0.95,
    "shape exists": 0.95,
    "exists": 0.90,
    "count": 0.95,
    "left": 0.95,
}


def test_loads_offline_from_anywhere(tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise OSError('no network in this test')\n"
        "socket.socket.connect = refuse\n"
        "from captum_dexar.shapes import load_vlm\n"
        "model, processor = load_vlm()\n"
        "print(type(model).__name__, type(processor).__name__, model.training)\n"
    )
    root = str(Path(__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = "LlavaForConditionalGeneration LlavaProcessor False"
    assert run.stdout.strip() == expected


def test_loading_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    model, _ = load_vlm()
    assert torch.equal(torch.get_rng_state(), before)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training


def test_auto_classes_load_the_same_model() -> None:
    model, processor = load_vlm()
    other = AutoModelForImageTextToText.from_pretrained(VLM_FOLDER)
    for name, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    same = AutoProcessor.from_pretrained(VLM_FOLDER)
    assert same.chat_template == processor.chat_template
    assert same.tokenizer.get_vocab() == processor.tokenizer.get_vocab()


def test_generates_in_a_users_words() -> None:
    model, processor = load_vlm()
    scene = make_scene(12, num_objects=1)
    content = [{"type": "image"}, {"type": "text", "text": "Describe the image."}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = processor(images=scene.image, text=prompt, return_tensors="pt")
    ids = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    assert ids[-1] == model.generation_config.eos_token_id
    assert processor.decode(ids, skip_special_tokens=True) == scene.caption


def test_larger_images_are_resized() -> None:
    _, processor = load_vlm()
    image = make_scene(5).image.resize((240, 192))
    inputs = processor(images=image, text="<image>", return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 96, 96)


def test_accuracy_on_held_out_scenes() -> None:
    model, processor = load_vlm()
    accuracy = measure_accuracy(model, processor, range(2000, 2060))
    shares = {kind: accuracy[kind].share for kind in FLOORS}
    too_low = {kind: share for kind, share in shares.items() if share < FLOORS[kind]}
    assert not too_low


def test_untrained_weights_fail_the_measure() -> None:
    model, processor = load_vlm()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in model.lm_head.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    accuracy = measure_accuracy(model, processor, range(2000, 2003))
    assert sum(value.right for value in accuracy.values()) == 0


def test_no_scenes_are_refused() -> None:
    model, processor = load_vlm()
    with pytest.raises(ValueError, match="at least one scene"):
        measure_accuracy(model, processor, [])


def test_package_stays_small() -> None:
    size = sum(path.stat().st_size for path in VLM_FOLDER.iterdir())
    assert size < 8 * 2**20
