"What the demo shows first: pictures beside the shipped model's metres."
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy import write_synthdepth

from synthdepth.data import open_data
from synthdepth.demo import PHOTOGRAPHS, look, see, seen_page
from synthdepth.models import create_model

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def homes(tmp_path):
    return write_synthdepth(tmp_path/'homes', scenes=2, views=1)


def test_photographs_come_with_their_lens_and_rooms_with_their_truth(homes):
    seen = see([ROOT/PHOTOGRAPHS, homes])
    assert [s.title for s in seen] == ['lens from EXIF']*3 + ['rendered']*2
    assert [s.truth is None for s in seen] == [True]*3 + [False]*2
    truths = [sample.depth for sample in open_data(homes)]
    for s, truth in zip(seen[3:], truths): np.testing.assert_array_equal(s.truth, truth)
    assert all(s.depth.shape == s.rgb.shape[:2] and (s.depth > 0).all() for s in seen)
    assert len(seen_page(seen).axes) == 3*5 + 1


def test_a_turned_photograph_without_a_lens(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path/'own').mkdir()
    Image.new('RGB', (64, 48), 'gray').save(tmp_path/'own'/'a.jpg', exif=exif)
    seen, = see([tmp_path/'own'])
    assert seen.title == 'lens assumed' and seen.rgb.shape == (64, 48, 3)


def test_without_photographs_and_again_with_other_weights(homes, tmp_path, monkeypatch):
    for weights in (None, 'none'):
        model = create_model('tiny', weights)
        monkeypatch.setattr('synthdepth.demo.create_model', lambda name, model=model: model)
        look(tmp_path/'figures', homes, tmp_path/'missing')
    assert [p.name for p in (tmp_path/'figures').iterdir()] == ['photographs.png']
