"""Oracles: every loss as double loops over scalars, straight from the equations in its docstring.

Inputs are float64 leaf tensors, so that autograd through these loops is the gradient's oracle, too.
"""

from __future__ import annotations

import torch

from losses import Embeddings


def logits(rows, columns, scale):
    return [[scale * sum(a * b for a, b in zip(x, y, strict=True)) for y in columns] for x in rows]


def softmax(row):
    top = max(value.item() for value in row)
    powers = [torch.exp(value - top) for value in row]
    total = sum(powers)
    return [power / total for power in powers]


def both_directions(embeddings: Embeddings):
    scale = embeddings.logit_scale
    return (
        logits(embeddings.image, embeddings.text, scale),
        logits(embeddings.text, embeddings.image, scale),
    )


def zscores(row):
    mean = sum(row) / len(row)
    deviation = torch.sqrt(sum((value - mean) ** 2 for value in row) / len(row))
    return [(value - mean) / deviation for value in row]


def contrastive(student: Embeddings, multi_positive=False):
    total = 0.0
    for matrix in both_directions(student):
        for i, row in enumerate(matrix):
            q = softmax(row)
            right = [i]
            if multi_positive:
                right = [j for j in range(len(row)) if student.caption_id[j] == student.caption_id[i]]
            total = total - sum(torch.log(q[j]) for j in right) / len(right) / len(matrix) / 2
    return total


def distributions(student: Embeddings, teacher: Embeddings, temperature, standardize=False):
    for s_matrix, t_matrix in zip(both_directions(student), both_directions(teacher), strict=True):
        q, p = [], []
        for s_row, t_row in zip(s_matrix, t_matrix, strict=True):
            if standardize:
                s_row = [value / temperature for value in zscores(s_row)]
                t_row = zscores(t_row)
            q.append(softmax(s_row))
            p.append(softmax([value / temperature for value in t_row]))
        yield p, q


def decoupled(
    student, teacher, temperature, standardize=False, mask_duplicates=False, excluded=lambda *_: False
):
    """Return (diagonal, off-diagonal); `excluded` says which pairs the second leaves out."""
    B = len(student.image)
    diagonal, off_diagonal = 0.0, 0.0
    for p, q in distributions(student, teacher, temperature, standardize):
        for i in range(B):
            for j in range(B):
                value = -p[i][j] * torch.log(q[i][j]) / B / 2
                if i == j:
                    diagonal = diagonal + value
                elif not excluded(i, j) and not (
                    mask_duplicates and student.caption_id[i] == student.caption_id[j]
                ):
                    off_diagonal = off_diagonal + value
    return diagonal, off_diagonal


def divergence(student, teacher, temperature, standardize=False, smoothing=0.0, mask_duplicates=False):
    B = len(student.image)
    total = 0.0
    for p, q in distributions(student, teacher, temperature, standardize):
        for i in range(B):
            for j in range(B):
                if mask_duplicates and i != j and student.caption_id[i] == student.caption_id[j]:
                    continue
                target = (1 - smoothing) * p[i][j] + smoothing / B
                total = total + target * (torch.log(target) - torch.log(q[i][j])) / B / 2
    return total


def sigmoid(student: Embeddings, bias, multi_positive=False):
    B = len(student.image)
    total = 0.0
    for i, row in enumerate(logits(student.image, student.text, student.logit_scale)):
        for j, value in enumerate(row):
            same = i == j or (multi_positive and student.caption_id[i] == student.caption_id[j])
            sign = 1 if same else -1
            total = total + torch.log(1 + torch.exp(-sign * (value + bias))) / B
    return total


def unit(row):
    length = torch.sqrt(sum(value * value for value in row))
    return [value / length for value in row]


def projected(layer, rows):
    result = []
    for x in rows:
        mapped = [sum(w * a for w, a in zip(weights, x, strict=True)) for weights in layer.weight]
        result.append(unit([m + c for m, c in zip(mapped, layer.bias, strict=True)]))
    return result


def feature(student, teacher, heads, distance):
    total = 0.0
    for name in ("image", "text"):
        rows = projected(getattr(heads, name), getattr(student, name))
        for x, y in zip(rows, getattr(teacher, name), strict=True):
            if distance == "mse":
                total = total + sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / len(rows) / len(x)
            else:
                total = total + (1 - sum(a * b for a, b in zip(x, y, strict=True))) / len(rows)
    return total


def interactive(student, teacher, heads, scale, multi_positive=False):
    total = 0.0
    for rows, columns in (
        (projected(heads.image, student.image), teacher.text),
        (projected(heads.text, student.text), teacher.image),
    ):
        for i, row in enumerate(logits(rows, columns, scale)):
            right = [i]
            if multi_positive:
                right = [j for j in range(len(row)) if student.caption_id[j] == student.caption_id[i]]
            q = softmax(row)
            total = total - sum(torch.log(q[j]) for j in right) / len(right) / len(rows) / 2
    return total
