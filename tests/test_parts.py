"A dataset rendered in parts, by several processes at once, and what may go wrong beside it."
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_render import SMALL, digest

from synthdepth.data import check_data, open_data, pack_dataset
from synthdepth.data.shards import files_of
from synthdepth.files import SUBMISSIONS
from synthdepth.scenes import RenderError, render_dataset
from synthdepth.scenes.dataset_folder import claim

ROOT = Path(__file__).resolve().parents[1]
HOW = dict(workers=1, progress=False)
WIDE = SMALL | dict(scenes=7)
COMMAND = ['-m', 'synthdepth', 'render', 'set', '--preset', 'published', '--scenes', 5, '--height',
           48, '--width', 64, '--spp', 2, '--seed', 5, '--workers', 1, '--set', 'views=2',
           '--set', 'objects=[4,8]']


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    return start(tmp_path_factory.mktemp('whole')).wait_for_it()


class Started(subprocess.Popen):
    def wait_for_it(self) -> Path:
        said, err = self.communicate(timeout=200)
        assert self.returncode == 0, err
        return Path(self.cwd)/said.strip()


def start(place: Path, *options) -> Started:
    p = Started([sys.executable, *map(str, (*COMMAND, *options))], cwd=place, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'))
    p.cwd = place
    return p


def test_three_parts_at_once_and_the_rest(whole, tmp_path):
    "One part twice, and the plain command beside them: the bytes are those of one process."
    parts = [start(tmp_path, '--part', f'{k}/3') for k in (1, 2, 3, 3)]
    out = [p.wait_for_it() for p in parts][0]
    assert not (out/'dataset.json').exists()
    assert len(list(out.glob('.render/scene_*'))) == 5
    start(tmp_path).wait_for_it()
    assert digest(out) == digest(whole)
    assert start(tmp_path, '--part', '2/3').wait_for_it() == out
    assert digest(out) == digest(whole)


def test_a_part_beside_the_plain_command(whole, tmp_path):
    both = [start(tmp_path), start(tmp_path, '--part', '1/2'), start(tmp_path, '--part', '1/1')]
    for p in both: out = p.wait_for_it()
    assert digest(out) == digest(whole)


def test_two_plain_commands_at_once(whole, tmp_path):
    "Both begin the folder; one of them renders, and the other says so or finds it done."
    both = [start(tmp_path), start(tmp_path)]
    said = [p.communicate(timeout=200)[1] for p in both]
    codes = [p.returncode for p in both]
    assert sorted(codes) in ([0, 1], [0, 0]), said
    if 1 in codes: assert 'another process is rendering into set' in said[codes.index(1)]
    assert digest(tmp_path/'set') == digest(whole)


def test_whoever_comes_first_begins(tmp_path):
    "Four processes claim a folder in the same moment: all succeed, and it is begun once."
    code = '''if True:
        import sys, time
        from pathlib import Path
        from synthdepth.scenes.dataset_folder import claim
        out, moment = Path(sys.argv[1]), float(sys.argv[2])
        generator = dict(preset='abstract', seed=0, scenes=1, factors={}, extras=['normal'])
        for n in range(50):
            while time.time() < moment + n*.02: pass
            assert claim(out/str(n), generator) is False'''
    moment = str(time.time() + 6)
    many = [subprocess.Popen([sys.executable, '-c', code, tmp_path, moment], cwd=ROOT)
            for _ in range(4)]
    assert [p.wait(100) for p in many] == [0]*4
    folders = sorted(p for p in tmp_path.iterdir())
    assert len(folders) == 50
    for out in folders:
        assert {p.name for p in out.iterdir()} == {'.render', 'rgb', 'depth', 'normal'}
        assert [p.name for p in (out/'.render').iterdir()] == ['generator.json']


def test_another_build_is_refused_by_name(tmp_path):
    render_dataset(tmp_path/'set', **WIDE, **HOW, part=(7, 7))
    begun = tmp_path/'set'/'.render'/'generator.json'
    generator = json.loads(begun.read_text())
    begun.write_text(json.dumps(generator | dict(variant='cuda_ad_rgb', mitsuba='3.9.9')))
    here = f'another build than that of {platform.node()} .mitsuba: 3.9.9 there, .* here; variant'
    with pytest.raises(RenderError, match=here):
        render_dataset(tmp_path/'set', **WIDE, **HOW, part=(1, 7))
    with pytest.raises(RenderError, match='begun with other arguments.*seed'):
        render_dataset(tmp_path/'set', **WIDE | dict(seed=6), **HOW, part=(1, 7))
    assert [p.name for p in (tmp_path/'set'/'.render').glob('scene_*')] == ['scene_00006.jsonl']


@pytest.mark.parametrize('part', [(0, 3), (4, 3), (1, 0), (-1, 3)])
def test_parts_that_are_none(tmp_path, part):
    with pytest.raises(RenderError, match='expected K/N with K from 1 to N'):
        render_dataset(tmp_path/'set', **WIDE, **HOW, part=part)
    p = start(tmp_path, '--part', '{}/{}'.format(*part))
    err = ' '.join(p.communicate(timeout=60)[1].split())
    assert p.returncode == 2 and 'expected K/N with K from 1 to N' in err
    assert not (tmp_path/'set').exists()


@pytest.mark.parametrize('workers', [1, 2])
def test_a_scene_that_fails_does_not_hide_the_others(tmp_path, workers):
    "Here a folder lies where its picture should."
    how, expected = dict(workers=workers, progress=False), tmp_path/'expected'
    in_the_way = tmp_path/'set'/'rgb'/'rgb_00003.png'
    in_the_way.mkdir(parents=True)
    (in_the_way/'x').touch()
    (tmp_path/'set'/'.render').mkdir()
    render_dataset(expected, **SMALL, **how)
    generator = json.loads((expected/'dataset.json').read_text())['generator']
    (tmp_path/'set'/'.render'/'generator.json').write_text(json.dumps(generator))
    failed = r'1 of 4 scenes could not be rendered.*published-5-00001: RenderError: cannot write'
    with pytest.raises(RenderError, match=failed):
        render_dataset(tmp_path/'set', **SMALL, **how)
    assert len(list((tmp_path/'set'/'.render').glob('scene_*'))) == 3
    assert not list((tmp_path/'set').rglob('*.part'))
    (in_the_way/'x').unlink()
    in_the_way.rmdir()
    assert digest(render_dataset(tmp_path/'set', **SMALL, **how)) == digest(expected)


def test_what_was_submitted_belongs_to_no_dataset(tmp_path):
    job = tmp_path/'set'/SUBMISSIONS/'render-1'
    job.mkdir(parents=True)
    for name in ('job.sh', 'tasks.jsonl', 'log-0.txt'): (job/name).write_text('{}')
    out = render_dataset(tmp_path/'set', **SMALL, **HOW)
    assert len(open_data(out)) == 8 and check_data(out).ok
    assert not any(SUBMISSIONS in name for name in files_of(out))
    packed = pack_dataset(out, tmp_path/'packed')
    assert not list(packed.rglob('*job*'))
    generator = json.loads((out/'dataset.json').read_text())['generator']
    assert claim(out, generator) and (job/'log-0.txt').exists()


def test_parts_that_died_elsewhere_leave_nothing(whole, tmp_path):
    "What a process of another machine had half written does not stay in the dataset."
    out = start(tmp_path, '--part', '1/2').wait_for_it()
    for name in ('rgb/rgb_00001.png', 'depth/depth_00002.png', 'metadata.jsonl'):
        (out/f'{name}.elsewhere.77.part').write_bytes(b'half')
    assert digest(start(tmp_path).wait_for_it()) == digest(whole)
