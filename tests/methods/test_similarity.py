"""Pictures of similarity: maps against plain loops, panels."""

from __future__ import annotations

import numpy as np
import pytest

from ppvision.methods import similarity


def unit(count: int = 36, dim: int = 8, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal([count, dim])
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("f4")


def test_map_is_the_cosine_to_the_marked_patch():
    features = unit()
    found = similarity.similarity_map(features, 8)
    assert found.shape == (6, 6) and found[1, 2] == pytest.approx(1.0, abs=1e-6)
    assert found[4, 5] == pytest.approx(float(features[29] @ features[8]), abs=1e-6)
    for bad in (features[:35], features):
        with pytest.raises(ValueError, match="no square grid"):
            similarity.similarity_map(bad, 36)


def test_panel_shows_what_was_hidden():
    masked = np.zeros(36, bool)
    masked[:6] = True  # the upper row
    image = np.full([24, 24, 3], (10, 200, 30), np.uint8)
    picture = similarity.panel(image, masked, unit(), unit(), query=20, size=48)
    assert picture.shape == (48, 5 * 48 + 4 * similarity.GAP, 3) and picture.dtype == np.uint8
    seen = picture[:, 52:100]
    assert (seen[4, 20] == 127).all() and (seen[12, 20] == (10, 200, 30)).all()
    assert (picture[24:32, 16:24] == similarity.MARK).all(-1).any()
    agreement = picture[:, -48:]
    assert len(np.unique(agreement.reshape(-1, 3), axis=0)) == 1  # predictions equal targets: one colour, the brightest
    other = similarity.panel(image, masked, unit(), -unit(), query=20, size=48)
    assert agreement[0, 0].sum() > other[0, -1].sum()


def test_the_marked_patch_is_a_hidden_one_with_something_in_it():
    image = np.full([24, 24, 3], 20, np.uint8)
    image[4:8, 8:12] = 220  # patch 8
    image[20:24, 0:4] = 120  # patch 30
    masked = np.zeros(36, bool)
    masked[[3, 8, 30]] = True
    assert similarity.salient(image, masked) == 8
    masked[8] = False
    assert similarity.salient(image, masked) == 30
