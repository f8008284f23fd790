"""Captions of an image, written from its record.

The wording is close to the zero-shot prompts in ``models/text/prompts.json``, so that training covers the words of the
evaluation. ``{spacing}`` is filled in once the model is known: the millimetres per pixel depend on the size that the
image is resized to.
"""

from __future__ import annotations

from datamodules.record import Record
from models.preprocessing import input_spacing

SPACING = "{spacing}"

_STRUCTURES = {
    "brain": "fetal brain",
    "abdomen": "fetal abdomen",
    "heart": "fetal heart",
    "femur": "fetal femur",
    "cervix": "maternal cervix",
}
_PLANE_TEMPLATES = (
    "ultrasound of the {structure}",
    "an ultrasound image showing the {structure}",
    "obstetric ultrasound, standard plane of the {structure}",
    "a view of the {structure} on prenatal ultrasound",
)
_HEART_TEMPLATES = (
    "ultrasound of the fetal thorax with the heart",
    "prenatal ultrasound showing the fetal chest and heart",
)
_OTHER_TEMPLATES = (
    "ultrasound of a fetus, not a standard plane",
    "an obstetric ultrasound image of another structure",
    "prenatal ultrasound without a standard view",
)
_BRAIN_PLANE_TEMPLATES = (
    "ultrasound of the fetal brain, {plane} plane",
    "{plane} plane of the fetal head on ultrasound",
    "an ultrasound image of the fetal brain in the {plane} plane",
    "obstetric ultrasound, {plane} view of the fetal brain",
)
_AGE_TEMPLATES = (
    "fetal head at {weeks} weeks and {days} days",
    "ultrasound of the fetal head, gestational age {weeks} weeks and {days} days",
    "an ultrasound image of the fetal brain at {weeks} weeks and {days} days",
)
_BIOMETRY_TEMPLATES = (
    "fetal head at {weeks} weeks and {days} days, pixel spacing {spacing} mm",
    "ultrasound of the fetal head, gestational age {weeks} weeks and {days} days, pixel spacing {spacing} mm",
    "an ultrasound image of the fetal brain at {weeks} weeks and {days} days, pixel spacing {spacing} mm",
    "prenatal ultrasound, {spacing} mm per pixel, fetal head, {weeks} weeks and {days} days",
)
# The most frequent captions: all facts of a brain image, hence distinct within a batch.
_FULL_TEMPLATES = (
    "ultrasound of the fetal brain, {plane} plane, at {weeks} weeks and {days} days, pixel spacing {spacing} mm",
    "{plane} plane of the fetal head at {weeks} weeks and {days} days, pixel spacing {spacing} mm",
    "fetal head at {weeks} weeks and {days} days, pixel spacing {spacing} mm, {plane} plane",
    "ultrasound of the fetal head, gestational age {weeks} weeks and {days} days, pixel spacing {spacing} mm, "
    "{plane} plane",
    "an ultrasound image of the fetal brain in the {plane} plane at {weeks} weeks and {days} days, "
    "pixel spacing {spacing} mm",
    "obstetric ultrasound, {plane} view of the fetal brain, {weeks} weeks and {days} days, {spacing} mm per pixel",
    "prenatal ultrasound, {spacing} mm per pixel, fetal head, {weeks} weeks and {days} days, {plane} plane",
    "{plane} plane of the fetal head on ultrasound, {weeks} weeks and {days} days, pixel spacing {spacing} mm",
)


def caption_templates(record: Record) -> tuple[str, ...]:
    """Return the captions that fit a record; ``{spacing}`` may be unfilled in them.

    Captions that come with the image are the only ones. Captions of brain images use the age, the pixel size and the
    sub-plane where known: age captions, sub-plane captions and, where all is known, full captions are alternatives.
    A caption that occurs several times in the tuple is drawn that many times more often.
    """
    if record.caption is not None:
        captions = (record.caption,) if isinstance(record.caption, str) else record.caption
        if not all(caption.strip() for caption in captions):
            raise ValueError(f"{record.name}: the caption is empty")
        return tuple(caption.strip() for caption in captions)
    if record.plane is None:
        raise ValueError(f"{record.name}: neither a caption nor a plane to write one from")
    if record.plane == "other":
        return _OTHER_TEMPLATES
    if record.plane not in _STRUCTURES:
        raise ValueError(
            f"{record.name}: no caption, and none can be written for the plane {record.plane!r}, only for "
            f"{', '.join(_STRUCTURES)} and other"
        )
    plain = tuple(template.format(structure=_STRUCTURES[record.plane]) for template in _PLANE_TEMPLATES)
    if record.plane == "brain":
        weeks, days = divmod(record.ga_days or 0, 7)
        facts = {"plane": record.brain_plane, "weeks": weeks, "days": days, "spacing": SPACING}
        knows_plane, knows_age = record.brain_plane not in (None, "other"), record.ga_days is not None
        knows_size = record.pixel_size_mm is not None
        age = (_BIOMETRY_TEMPLATES if knows_size else _AGE_TEMPLATES) if knows_age else ()
        plane = _BRAIN_PLANE_TEMPLATES if knows_plane else ()
        if knows_age and knows_plane and knows_size:
            # 1:2:6:1, tuned on a phantom of another seed. With fewer full captions the ages were learned first and
            # the sub-planes late or never.
            templates = age + 2 * plane + 3 * _FULL_TEMPLATES
        else:
            templates, plain = age + plane, plain[:2] if age or plane else plain
        return tuple(template.format(**facts) for template in templates) + plain
    return plain + (_HEART_TEMPLATES if record.plane == "heart" else ())


def render_spacing(caption: str, size: tuple[int, int], image_size: int, pixel_size_mm: float | None) -> str:
    """Fill ``{spacing}``, if the caption has it, with the millimetres per pixel at a model's resolution, two decimals.

    The image of `size` (width, height) pixels of `pixel_size_mm` is padded to a square and resized to `image_size`,
    hence spacing = max(width, height) / image_size * pixel_size_mm.
    """
    if SPACING not in caption:
        return caption
    if pixel_size_mm is None:
        raise ValueError(f"caption {caption!r} needs the pixel size, which this image does not have")
    return caption.replace(SPACING, f"{input_spacing(size, image_size, pixel_size_mm):.2f}")
