"""scikit-learn's handwritten digits, split into train and test."""

from __future__ import annotations

import hashlib

import numpy as np

from snn2chip.data.files import Arrays

_SALT = "snn2chip digits split 0"


def read_digits(split: str) -> Arrays:
    """scikit-learn's 1,797 digits: 20 % of every class is the test split (359), the rest train (1,438).

    Which ones is decided by a hash of each image's index, so no version of any library can change it.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.asarray(bunch.images).astype(np.uint8)[:, None]
    labels = np.asarray(bunch.target, dtype=np.int64)
    in_test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        members = [int(i) for i in np.flatnonzero(labels == label)]
        members.sort(key=lambda i: hashlib.sha256(f"{_SALT} {i}".encode()).digest())
        in_test[members[: round(0.2 * len(members))]] = True
    chosen = in_test if split == "test" else ~in_test
    classes = tuple(str(digit) for digit in range(10))
    return images[chosen], labels[chosen], classes, "scikit-learn's load_digits"
