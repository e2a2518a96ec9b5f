"Weights from a hub: licences said once and kept, revisions, and errors of one line."
import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from small import GLPN, ZOEDEPTH
from test_dpt import SMALL as DPT

from synthdepth.models import create_model, load_model, model_names
from synthdepth.models.hub import ACCEPT, LicenceError, pinned, read_tensors, say_once, where_from
from synthdepth.models.registry import find_builder
from synthdepth.models.weights import is_pickle
from synthdepth.training import make_recipe, start_model
from synthdepth.training.record import describe_run

COMMIT = '0123456789abcdef'*2 + '01234567'
ROWS = {'zoedepth': ZOEDEPTH, 'glpn-nyu': GLPN, 'dpt-large': DPT['dpt-large'],
        'depth-anything-v2-small': DPT['depth-anything-v2-small']}
each = pytest.mark.parametrize('name', ROWS)


@pytest.fixture(autouse=True)
def nothing_was_said(monkeypatch):
    monkeypatch.delenv(ACCEPT, raising=False)
    say_once.cache_clear()


def download(name, folder, **config):
    "A folder as somebody else's checkpoint lies there: without our card."
    torch.manual_seed(0)
    create_model(name, 'none', **ROWS[name], **config).save(folder)
    (folder/'model.json').unlink()
    return folder


@each
def test_a_licence_is_said_once_and_stays_with_the_model(name, tmp_path, capsys):
    folder = download(name, tmp_path/'theirs')
    model = create_model(name, folder, accept_licence=True)
    create_model(name, folder)
    said = [x for x in capsys.readouterr().out.splitlines() if 'weights stand under' in x]
    assert len(said) == 1 and said[0].startswith(f'{name}: ')
    assert model.origin['licence'] in said[0] and model.origin['licence_source'] in said[0]
    assert 'accept_licence' not in model.origin  # there was nothing to accept
    again = load_model(model.save(tmp_path/'ours'))
    assert again.origin == model.origin
    assert str(tmp_path) not in (tmp_path/'ours'/'model.json').read_text()


@pytest.mark.parametrize('name', sorted({*model_names(), 'timm:mobilenetv3_small_050'}))
def test_every_name_takes_note_of_accept_licence(name):
    if name.startswith('marigold'): pytest.importorskip('diffusers')
    find_builder(name)  # it is the registry that takes the word
    with torch.device('meta'):
        if name in ('tiny', 'fastdepth', 'timm:mobilenetv3_small_050', 'glpn-nyu'):
            assert create_model(name, 'none', accept_licence=True).origin == {}


def test_a_run_keeps_the_origin_of_its_weights(tmp_path, monkeypatch):
    name, folder = 'depth-anything-v2-base', tmp_path/'theirs'
    create_model(name, 'none', **DPT[name]).save(folder)
    (folder/'model.json').unlink()
    with pytest.raises(Exception, match='accept_licence=True'): start_model(name, folder)
    model = start_model(name, folder, accept_licence=True)
    about = describe_run(model, str(folder), {}, make_recipe())
    assert about['origin'] == dict(licence='CC-BY-NC-4.0', licence_source='its card on the hub',
                                   accept_licence=True)
    assert 'origin' not in about['asked']  # a run goes on whatever was said
    monkeypatch.setenv(ACCEPT, '1')
    assert start_model(name, folder).origin['accept_licence']


def test_who_evaluates_a_run_is_not_asked_again(tmp_path):
    from synthdepth.evaluation.evaluate import RunDataGone, original_model
    name, folder = 'depth-anything-v2-base', tmp_path/'theirs'
    create_model(name, 'none', **DPT[name]).save(folder)
    (folder/'model.json').unlink()
    asked = dict(model=name, weights=str(folder))
    with pytest.raises(RunDataGone, match='accept_licence=True'): original_model(asked)
    assert original_model(asked, accept_licence=True).name == name


def test_the_commit_of_a_download(tmp_path):
    snapshot = tmp_path/'models--me--small'/'snapshots'/COMMIT
    download('depth-anything-v2-small', snapshot)
    assert create_model('depth-anything-v2-small', snapshot).origin['commit'] == COMMIT
    plain = shutil.copytree(snapshot, tmp_path/'plain')
    assert 'commit' not in create_model('depth-anything-v2-small', plain).origin
    note = plain/'.cache'/'huggingface'/'download'/'config.json.metadata'
    note.parent.mkdir(parents=True)
    note.write_text(f'{COMMIT}\n"etag"\n1700000000.0\n')
    assert create_model('depth-anything-v2-small', plain).origin['commit'] == COMMIT
    assert where_from('me/small@v1') == dict(source='me/small')


def test_a_revision_is_asked_of_the_cache(tmp_path):
    "In a process of its own: the hub's libraries read their folder when they are imported."
    cache = tmp_path/'hub'/'models--me--small'
    download('glpn-nyu', cache/'snapshots'/COMMIT)
    (cache/'refs').mkdir()
    (cache/'refs'/'v1').write_text(COMMIT)
    code = '''if True:
        import sys
        from synthdepth.models import create_model
        print(create_model('glpn-nyu', 'me/small', revision='v1').origin)
        print(create_model('glpn-nyu', 'me/small@v1').origin)
        try: create_model('glpn-nyu', 'me/small', revision='v2')
        except FileNotFoundError as e: print(e)
    '''
    env = os.environ | dict(HF_HUB_CACHE=str(tmp_path/'hub'), HF_HUB_OFFLINE='1')
    p = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr[-2000:]
    said, first, second, error = p.stdout.strip().splitlines()
    assert first == second and COMMIT in first and "'source': 'me/small'" in first
    assert "no checkpoint 'me/small'" in error


def test_revisions_that_make_no_sense(tmp_path):
    with pytest.raises(ValueError, match='in no hub; found revision'):
        create_model('tiny', 'none', revision='v1')
    with pytest.raises(ValueError, match='is here and in no hub'):
        create_model('glpn-nyu', download('glpn-nyu', tmp_path/'x'), revision='v1')
    with pytest.raises(ValueError, match='another revision'): pinned('me/x@a', 'b')
    assert pinned('me/x@a', 'a') == ('me/x', 'a') and pinned('me/x') == ('me/x', None)


@each
@pytest.mark.parametrize('damage, says', [
    ('truncated', 'damaged or cut short'), ('pickle', r'a pickle \(pytorch_model.bin\)'),
    ('gone', 'no model.safetensors'), ('other', "holds a '.*' model, expected "),
    ('file', 'is a pickle, expected a hub id'), ('no processor', 'not a complete checkpoint')])
def test_errors_are_one_line_that_names_the_place(name, damage, says, tmp_path):
    other = 'glpn-nyu' if name != 'glpn-nyu' else 'dpt-large'
    folder = download(other if damage == 'other' else name, tmp_path/'x')
    file, source = folder/'model.safetensors', folder
    if damage == 'truncated': file.write_bytes(file.read_bytes()[:5000])
    if damage == 'no processor': (folder/'preprocessor_config.json').unlink()
    if damage in ('pickle', 'file'): torch.save(load_file(file), folder/'pytorch_model.bin')
    if damage in ('pickle', 'gone'): file.unlink()
    if damage == 'file':
        source = folder/'pytorch_model.bin'
        if name in ('zoedepth', 'depth-anything-v2-small'): pytest.skip('opens its authors\' files')
    with pytest.raises((ValueError, FileNotFoundError), match=says) as e: create_model(name, source)
    assert '\n' not in str(e.value) and str(folder) in str(e.value) and name in str(e.value)


class Evil:
    def __reduce__(self): return print, ('it ran',)


def test_a_file_of_tensors_and_nothing_else(tmp_path, capsys):
    good, evil, odd = (tmp_path/f'{n}.pt' for n in ('good', 'evil', 'odd'))
    torch.save(dict(model={'module.a': torch.ones(2).half()}), good)
    assert read_tensors('x', good)['a'].equal(torch.ones(2)) and is_pickle(good)
    torch.save(dict(a=Evil()), evil)
    with pytest.raises(ValueError, match='holds more than tensors'): read_tensors('x', evil)
    evil.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ValueError, match='evil.pt'): read_tensors('x', evil)
    torch.save([torch.ones(2)], odd)
    with pytest.raises(ValueError, match='holds a list, expected tensors by name'):
        read_tensors('x', odd)
    good.write_bytes(good.read_bytes()[:300])
    with pytest.raises(ValueError, match='good.pt is damaged or cut short') as e:
        read_tensors('x', good)
    assert '\n' not in str(e.value) and 'it ran' not in capsys.readouterr().out


def test_the_command_accepts_for_as_long_as_it_runs(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from synthdepth.cli import app
    seen = []
    monkeypatch.setattr('synthdepth.evaluation.predicting.predict_pictures', None)

    def looked_at(*args, **options):
        seen.append(os.environ.get(ACCEPT))
        raise ValueError('enough')

    monkeypatch.setattr('synthdepth.evaluation.naming.named_model', looked_at)
    monkeypatch.setattr('synthdepth.evaluation.named_model', looked_at, raising=False)
    for flag in ([], ['--accept-licence']):
        place = str(tmp_path/'o')
        CliRunner().invoke(app, ['predict', 'tiny', str(tmp_path), '--out', place, *flag])
    assert seen == [None, '1'] and ACCEPT not in os.environ


def test_an_accepted_licence_reaches_the_training_notebook(tmp_path):
    from synthdepth.runner import notebook_path, parameters_of
    assert parameters_of(notebook_path('finetune'))['accept_licence'] is False
    assert make_recipe(accept_licence=True) == make_recipe()
    assert LicenceError.__mro__[1] is ValueError and json.dumps(dict(create_model('tiny').origin))


def test_pickles_of_our_own_networks_are_named_as_such(tmp_path):
    torch.save(dict(a=torch.ones(1)), tmp_path/'pytorch_model.bin')
    with pytest.raises(ValueError, match='pytorch_model.bin: a pickle, which could run') as e:
        create_model('tiny', tmp_path/'pytorch_model.bin')
    assert '\n' not in str(e.value)
    with pytest.raises(FileNotFoundError, match=r'its weights are a pickle \(pytorch_model') as e:
        create_model('tiny', tmp_path)
    assert '\n' not in str(e.value)
