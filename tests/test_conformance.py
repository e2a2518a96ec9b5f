"Every registered model keeps the same promises, on a small random configuration of its row."
import pytest
from small import library_road, small
from test_moge import library  # noqa: F401  the stand-in

from synthdepth.models import model_names
from synthdepth.training import CHECKS, LEARNING, check_model
from synthdepth.training.conformance import five_rooms

TIMM = 'timm:mobilenetv3_small_050'
ONE_OF_EACH = (  # those that also learn
    'tiny', 'fastdepth', 'zoedepth-nk', 'depth-anything-v2-small',
    'depth-anything-v2-small-metric-indoor', 'glpn-nyu', 'depth-pro', 'moge-2-small', 'marigold',
    'marigold-e2e', 'hybriddepth', 'clip-depth')
LIBRARY = ('depth-anything', 'distill', 'dpt', 'glpn')
LR = {'fastdepth': 1e-2, 'clip-depth': 1e-2}  # random weights of these learn slowly
SAYS_NOTHING = {  # name -> checks that say nothing about it
    'hybriddepth': {'features'},  # the stack is as large
    'marigold': {'sign'}}         # what a random autoencoder calls depth is no depth


pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def rooms(tmp_path_factory): return five_rooms(tmp_path_factory.mktemp('rooms')/'set', (96, 128))


@pytest.mark.parametrize('name', [*(n for n in model_names() if n != 'toy'), TIMM])
def test_every_model_keeps_its_promises(name, rooms, tmp_path, monkeypatch):
    monkeypatch.setenv('SYNTHDEPTH_ACCEPT_LICENCE', '1')
    if name.startswith('marigold'): pytest.importorskip('diffusers')
    model = small(name)
    road = library_road(model, tmp_path/'theirs') if name.startswith(LIBRARY) else None
    silent = SAYS_NOTHING.get(name, set())
    checks = [c for c in CHECKS if name in ONE_OF_EACH or c not in LEARNING]
    found = check_model(model, data=rooms, reference=road, lr=LR.get(name, 1e-3),
                        checks=[c for c in checks if c not in silent - {'features'}])
    print(*found, sep='\n')
    assert [str(c) for c in found if c.holds is False] == []
    without = {c.name for c in found if c.holds is None}
    assert without - {'library'} <= silent
    assert ('library' in without) == (road is None)
