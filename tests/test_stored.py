import hashlib
import json

import pytest

from synthdepth.data import open_data
from synthdepth.scenes import RenderError, render_dataset, rerender, scene_sheet, stored_scene

SMALL = dict(preset='published', scenes=3, views=2, size=(48, 64), spp=2, seed=5, objects=[4, 8],
             workers=1, progress=False)


def digest(folder):
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in folder.rglob('*') if p.is_file()}


@pytest.fixture
def small(tmp_path):
    return render_dataset(tmp_path/'set', extras=('normal', 'focal'), focal=dict(slices=2), **SMALL)


def test_every_scene_comes_out_the_same(small):
    before = digest(small)
    for p in list(small.rglob('*.png')): p.write_bytes(b'')
    for i in range(3): assert len(rerender(small, f'published-5-{i:05d}')) == 2*5
    assert digest(small) == before


def test_a_scene_that_was_sampled_anew(tmp_path, monkeypatch):
    from synthdepth.scenes import write
    first = {'bad': True}
    def fault(v): return 'burnt' if first.pop('bad', False) else None
    monkeypatch.setattr(write, 'view_fault', fault)
    data = render_dataset(tmp_path/'set', **SMALL)
    monkeypatch.undo()
    assert json.loads((data/'metadata.jsonl').read_text().splitlines()[0])['attempt'] == 1
    before = digest(data)
    rerender(data, 'published-5-00000')
    assert digest(data) == before


def test_into_another_folder(small, tmp_path):
    before = digest(small)
    files = rerender(small, 'published-5-00002', tmp_path/'big', size=(96, 128),
                     extras=('distance',))
    assert digest(small) == before and len(files) == 6
    data = open_data(tmp_path/'big')
    assert len(data) == 2 and data[0].rgb.shape == (96, 128, 3)
    with pytest.raises(RenderError, match='not a dataset'):
        rerender(small, 'published-5-00001', tmp_path/'big')


def test_another_build_is_refused(small):
    info = json.loads((small/'dataset.json').read_text())
    info['generator']['mitsuba'] = '2.0'
    (small/'dataset.json').write_text(json.dumps(info))
    before = digest(small)
    with pytest.raises(RenderError, match='mitsuba: 2.0 there'):
        rerender(small, 'published-5-00000')
    assert digest(small) == before


def test_another_scene_is_refused(small):
    lines = (small/'metadata.jsonl').read_text().splitlines()
    row = json.loads(lines[0])
    row['pose'][0][3] += .1
    (small/'metadata.jsonl').write_text('\n'.join([json.dumps(row), *lines[1:]]) + '\n')
    before = digest(small)
    with pytest.raises(RenderError, match='pose of view 0'): rerender(small, 'published-5-00000')
    assert digest(small) == before


def test_not_a_rendered_dataset(tmp_path, small):
    with pytest.raises(RenderError, match='not a complete rendered dataset'):
        stored_scene(tmp_path, 'x')
    with pytest.raises(RenderError, match="no scene 'x'"): stored_scene(small, 'x')
    with pytest.raises(RenderError, match='unknown extras heat'):
        rerender(small, 'published-5-00000', tmp_path/'o', extras=('heat',))
    assert not (tmp_path/'o').exists()


def test_contact_sheet_of_a_folder(small, tmp_path):
    sheet = scene_sheet(small, n=3, columns=2, width=40)
    assert sheet.size == (2*46 - 6, 2*66 - 6)  # a gap of 6 pixels between captures
    with pytest.raises(RenderError, match='neither a finished dataset folder nor a preset'):
        scene_sheet(tmp_path)
