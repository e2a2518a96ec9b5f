"Real pictures and a really pretrained model, where they are at hand."
import pytest

from synthdepth.data import open_data
from synthdepth.models import create_model
from synthdepth.evaluation import score_pictures, find_faults


@pytest.fixture(scope='module')
def fastdepth(real): return create_model('fastdepth', real/'fastdepth'/'fastdepth_7.onnx')


def test_fastdepth_reproduces_its_published_figures_on_nyu(real, fastdepth):
    "Published on 654 pictures: d1 0.771, rmse 0.604 m; 8-bit copies of every second come close."
    rows = score_pictures(fastdepth, open_data(real/'nyuv2').subset(range(0, 327, 3)),
                          'nyu_fastdepth')
    assert rows.d1.mean() == pytest.approx(.756, abs=.03)
    assert rows.rmse.mean() == pytest.approx(.605, abs=.04)
    assert find_faults(rows, 'nyu_fastdepth') == []


def test_fastdepth_degrades_away_from_home(real, fastdepth):
    rows = score_pictures(fastdepth, open_data(real/'7scenes_redkitchen'), 'nyu_fastdepth')
    assert rows.d1.mean() == pytest.approx(.65, abs=.08)


def test_the_original_under_the_published_protocol_is_refused(real, fastdepth):
    rows = score_pictures(fastdepth, open_data(real/'nyuv2').subset(range(8)), 'published')
    assert any('multiplies predictions by 10' in f for f in find_faults(rows, 'published'))
