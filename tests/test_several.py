"Layout `several`: a folder of datasets is one dataset."
import json
import shutil

import numpy as np
import pytest
from toy import write_flat, write_synthdepth

from synthdepth.data import DataError, check_data, check_split, open_data, pack_dataset
from synthdepth.data import split_by_scene
from synthdepth.data.focal import read_stack
from synthdepth.models import create_model
from synthdepth.training import finetune, make_recipe

QUICK = dict(epochs=1, batch_size=4, size=(48, 64), jitter=0.)


@pytest.fixture
def both(tmp_path):
    for preset, seed, scenes in (('homes', 1, 6), ('rooms', 2, 3)):
        write_synthdepth(tmp_path/'both'/preset, scenes=scenes, views=2, preset=preset, seed=seed)
    return tmp_path/'both'


def test_it_is_all_of_them(both):
    data, parts = open_data(both), [open_data(both/name) for name in ('homes', 'rooms')]
    assert data.layout == 'several' and len(data) == 18 and data.root == both
    assert list(data.scenes) == [scene for part in parts for scene in part.scenes]
    for found, expected in zip(data, (s for part in parts for s in part)):
        assert (found.rgb == expected.rgb).all() and (found.depth == expected.depth).all()
        assert found.capture == expected.capture and found.capture.meta == expected.capture.meta
    assert check_data(both, progress=False).ok


def test_splits_keep_scenes_whole(both):
    splits = split_by_scene(open_data(both), (.5, .25, .25), seed=3)
    check_split(splits)
    assert sum(map(len, splits.values())) == 18 and all(len(s) % 2 == 0 for s in splits.values())


def test_equal_names_are_kept_apart(both):
    shutil.copytree(both/'rooms', both/'more')
    scenes = open_data(both).scenes
    assert len(scenes) == 12 and 'homes-1-00000' in scenes
    assert {'rooms/rooms-2-00000', 'more/rooms-2-00000'} < scenes.keys()
    assert all(len(views) == 2 for views in scenes.values())


def test_the_incomplete_one_is_named(both):
    (both/'rooms/dataset.json').unlink()
    with pytest.raises(DataError, match='both/rooms: found no dataset.json, .* incomplete'):
        open_data(both)
    report = check_data(both, progress=False)
    assert not report.ok and [f.file for f in report.findings if f.kind == 'layout'] == ['rooms']


def test_a_file_that_is_missing_is_named(both):
    (both/'homes/depth/depth_00003.png').unlink()
    assert 'homes/depth/depth_00003.png' in str(check_data(both, progress=False).problems)


def test_a_folder_that_is_no_dataset_is_not_passed_over(both):
    (both/'notes').mkdir()
    with pytest.raises(DataError, match='both/notes: no layout recognised'): open_data(both)
    (both/'notes').rename(both/'.notes')
    assert len(open_data(both)) == 18


def test_depth_has_to_be_stored_in_one_way(both):
    info = json.loads((both/'rooms/dataset.json').read_text())
    info['depth']['metres_per_unit'] = .002
    (both/'rooms/dataset.json').write_text(json.dumps(info))
    with pytest.raises(DataError, match='rooms: metres_per_unit is 0.002, but 0.001 in .*homes'):
        open_data(both)


def test_what_is_stated_in_one_of_them_holds_for_it(both):
    info = json.loads((both/'rooms/dataset.json').read_text())
    info['depth']['metres_per_unit'] = .002
    (both/'rooms/dataset.json').write_text(json.dumps(info))
    (both/'rooms/synthdepth.json').write_text('{"metres_per_unit": 0.001}')
    assert len(open_data(both)) == 18


def test_packed_folders_are_datasets_too(both):
    pack_dataset(both/'rooms', both.parent/'packed')
    shutil.rmtree(both/'rooms')
    (both.parent/'packed').rename(both/'rooms')
    assert len(open_data(both)) == 18


def test_other_folders_are_not_taken_for_it(tmp_path):
    write_flat(tmp_path/'sets/a')
    with pytest.raises(DataError, match='no layout recognised'): open_data(tmp_path/'sets')


def test_slices_are_looked_for_in_their_own_folder(both):
    for part in ('homes', 'rooms'):
        rows = [json.loads(row) for row in (both/part/'metadata.jsonl').open()]
        for k, row in enumerate(rows):
            names = [f'focal/{k}-{n}.png' for n in range(2)]
            (both/part/'focal').mkdir(exist_ok=True)
            for name in names: shutil.copy(both/part/row['rgb_file_name'], both/part/name)
            row |= dict(focal_file_names=names, focal=dict(distances=[1., 3.], aperture=.01))
        (both/part/'metadata.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    data = open_data(both)
    for i in (0, 17):
        stack = read_stack(data, i, (48, 64))
        assert np.abs(stack[1].permute(1, 2, 0).numpy()*255 - data[i].rgb).max() < .01


def test_it_is_trained_on_and_opened_again(both, tmp_path):
    recipe = make_recipe('corrected', **QUICK)
    finetune(create_model('tiny', 'none'), both, recipe, tmp_path/'run', progress=False)
    asked = json.loads((tmp_path/'run/run.json').read_text())['asked']
    assert open_data(asked['data']['train']).layout == 'several'
    assert sum(asked['captures'].values()) == 18
