"""What a reader of an evaluation's figures has to know, in words: what was scored, what was left out, what went worst."""

from typing import Any

from linear_eval.scored_run import note_on_trained_images
from simclr.commands import command
from simclr.names import numbered

__all__ = ["COMMONEST", "class_notes", "notes_on", "scored_images", "test_classes"]


COMMONEST = "always the commonest class"
"""What the row is called that takes no look at an image."""


def scored_images(data: dict[str, Any], classes: int) -> str:
    """What was scored, in words: test images that have a label, of how many classes, and training images.

    >>> part = {"images": 20, "without_label_left_out": 2}
    >>> scored_images({"train": {"images": 3080, "without_label_left_out": 12}, "test": part}, 10)
    '18 test images of 10 classes (2 without left out), 3,068 training images with a label (12 without left out)'
    """

    def counted(part: dict[str, Any]) -> tuple[str, str]:
        left_out = part.get("without_label_left_out", 0)
        return f"{part['images'] - left_out:,}", f" ({left_out:,} without left out)" if left_out else ""

    test, without = counted(data["test"])
    said = f"{test} test images of {classes:,} classes{without}"
    if data.get("train") is None:
        return said
    train, without = counted(data["train"])
    return f"{said}, {train} training images with a label{without}"


def test_classes(linear: dict[str, Any]) -> int:
    """How many classes have test images, by a row's confusion matrix."""
    return sum(1 for row in linear["confusion"] if sum(row))


def notes_on(result: dict[str, Any]) -> list[str]:
    """A line for each thing that a reader of the table has to know."""
    notes = []
    linear = result["rows"]["encoder"]["linear"]
    tried = linear["strengths"]
    if len(tried) > 1 and linear["strength"] in (min(tried), max(tried)):
        notes.append(f"the chosen strength {linear['strength']:g} is the end of the sweep; widen --eval.strengths")
    for name, row in result["rows"].items():
        if not row["linear"]["converged"]:
            notes.append(f"the linear probe of the row '{name}' stopped before its tolerance")
    notes += class_notes(linear, result["data"]["classes"])
    for part in ("train", "test"):
        left_out = result["data"][part]["without_label_left_out"]
        if left_out:
            notes.append(f"{left_out} images of the {part} set have no label and were left out")
    if numbers := numbered(result["data"]["classes"]):
        notes.append(numbers)
    test = result["data"]["test"]
    scored = test["images"] - test["without_label_left_out"]
    if test.get("near_copies"):
        notes.append(
            f"{test['near_copies']} of {scored} test images have a near-copy in training: the score is too good for new images; "
            f"{command('check_data')} names them, and --data.group keeps images that belong together in one part"
        )
    return notes + note_on_trained_images(test.get("trained_on"), scored)


def class_notes(linear: dict[str, Any], names: list[str] | tuple[str, ...]) -> list[str]:
    """Classes that training or the test set lacks, and those that are recognised worst."""

    def called(label: int) -> str:
        return str(names[label]) if label < len(names) else str(label)

    support = [sum(row) for row in linear["confusion"]]
    images = dict(zip(linear["classes"], support, strict=True))
    notes = []
    if unseen := linear["unseen_classes"]:
        count = sum(images[label] for label in unseen)
        named = [f"{called(label)} ({images[label]})" for label in unseen]
        notes.append(
            f"{len(unseen)} test classes have no training image, and their {count} test images count as wrong: "
            + _some(named, 12)
        )
    if absent := [called(label) for label, count in images.items() if not count]:
        notes.append(f"{len(absent)} classes have no test image and count for nothing: {_some(absent, 12)}")
    shares = {
        label: share for label, share in zip(linear["classes"], linear["per_class"], strict=True) if share is not None
    }
    seen = [label for label in shares if label not in unseen]
    if len(seen) > 5:
        worst = sorted(seen, key=lambda label: shares[label])[:3]
        named = [f"{called(label)} {100 * shares[label]:.0f} % of {images[label]}" for label in worst]
        notes.append(f"the classes recognised worst: {', '.join(named)}; all of them are in result.json")
    elif shares:
        named = [f"{called(label)} {100 * shares[label]:.0f} % of {images[label]}" for label in seen]
        notes.append(f"recognised of each class: {', '.join(named)}")
    return notes


def _some(named: list[str], most: int) -> str:
    return ", ".join(named[:most]) + (f" and {len(named) - most} more" if len(named) > most else "")
