"""Write a caption for an image from what its corpus says about it.

Wording stays close to the zero-shot prompts in ``protocols/default.json``, so that evaluation asks in
words that training has used. ``{spacing}`` stays open in a template until the model is known: the
millimetres that one pixel covers depend on the size the image is shrunk to.
"""

from __future__ import annotations

from datamodules.record import Record

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
# Said most often: all that a brain image shows, and in words that no other image of the batch has.
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
    """Return the captions that fit a record; ``{spacing}`` may still be open in them.

    A caption that came with the image stands alone. Brain images use the age, the pixel size and the
    sub-plane where known: age captions, sub-plane captions and, where all is known, full ones are alternatives.
    A caption that stands several times in the tuple is drawn as many times more often.

    Raises:
        ValueError: The record has neither a caption nor a plane, or an empty caption.
    """
    if record.caption is not None:
        if not record.caption.strip():
            raise ValueError(f"{record.name}: the caption is empty")
        return (record.caption.strip(),)
    if record.plane is None:
        raise ValueError(f"{record.name}: neither a caption nor a plane to write one from")
    if record.plane == "other":
        return _OTHER_TEMPLATES
    plain = tuple(template.format(structure=_STRUCTURES[record.plane]) for template in _PLANE_TEMPLATES)
    if record.plane == "brain":
        age, plane, full = _age_captions(record), _brain_plane_captions(record), _full_captions(record)
        if full:
            # 1:2:6:1, chosen on a phantom of another seed. With fewer full captions the ages were learned first and
            # the sub-planes late or never.
            return age + 2 * plane + 3 * full + plain
        if age or plane:
            return age + plane + plain[:2]
    return plain + (_HEART_TEMPLATES if record.plane == "heart" else ())


def render_spacing(
    caption: str, *, width: int, height: int, image_size: int, pixel_size_mm: float | None
) -> str:
    """Fill ``{spacing}`` with the millimetres per pixel at a model's resolution, two decimals.

    The image is padded to a square of max(width, height) pixels and shrunk to `image_size`, hence
    spacing = max(width, height) / image_size * pixel_size_mm.

    Args:
        caption: A caption, with or without ``{spacing}``.
        width: Width of the original image in pixels.
        height: Height of the original image in pixels.
        image_size: Side of the model's input in pixels.
        pixel_size_mm: Side of a pixel of the original image in millimetres.

    Raises:
        ValueError: The caption asks for the spacing and the pixel size is unknown.
    """
    if SPACING not in caption:
        return caption
    if pixel_size_mm is None:
        raise ValueError(f"caption {caption!r} needs the pixel size, which this image does not have")
    return caption.replace(SPACING, f"{max(width, height) / image_size * pixel_size_mm:.2f}")


def _age_captions(record: Record) -> tuple[str, ...]:
    if record.ga_days is None:
        return ()
    weeks, days = divmod(record.ga_days, 7)
    templates = _AGE_TEMPLATES if record.pixel_size_mm is None else _BIOMETRY_TEMPLATES
    return tuple(template.format(weeks=weeks, days=days, spacing=SPACING) for template in templates)


def _brain_plane_captions(record: Record) -> tuple[str, ...]:
    if record.brain_plane in (None, "other"):
        return ()
    return tuple(template.format(plane=record.brain_plane) for template in _BRAIN_PLANE_TEMPLATES)


def _full_captions(record: Record) -> tuple[str, ...]:
    if record.ga_days is None or record.pixel_size_mm is None or record.brain_plane in (None, "other"):
        return ()
    weeks, days = divmod(record.ga_days, 7)
    return tuple(
        template.format(plane=record.brain_plane, weeks=weeks, days=days, spacing=SPACING)
        for template in _FULL_TEMPLATES
    )
