"""Labels of patches, by the objects' masks."""

from captum_dexar.shapes import make_scene
from captum_dexar.shapes.world import WORLD
from captum_dexar.training.patches import IGNORED, patch_labels


def test_patch_labels_name_the_covering_object() -> None:
    scene = make_scene(11, num_objects=3)
    names = (
        ("circle", "square", "triangle", "star", "cross", "ring"),
        ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white"),
        ("small", "large"),
    )
    labels = patch_labels(WORLD, [scene])
    assert labels.shape == (3, 1, 144)
    for row in range(12):
        for column in range(12):
            window = (slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
            shares = [float(item.mask[window].mean()) for item in scene.objects]
            best = scene.objects[shares.index(max(shares))]
            found = labels[:, 0, 12 * row + column].tolist()
            if max(shares) == 0:
                assert found == [0, 0, 0]
            elif max(shares) < 0.2:
                assert found == [IGNORED] * 3
            else:
                values = (best.shape, best.colour, best.size)
                assert found == [n.index(v) + 1 for n, v in zip(names, values)]
