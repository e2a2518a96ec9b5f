"What a model needs besides the picture reaches it wherever it is used."
from base64 import b64encode
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from toy import write_synthdepth

from synthdepth.data import Focus, open_data, split_by_scene
from synthdepth.evaluation import SentinelError, evaluate_models, measure_robustness
from synthdepth.evaluation import perturb_data, predict_pictures, score_pictures
from synthdepth.evaluation.pictures import file_camera
from synthdepth.inspector import Comparisons, PredictPanel, predict_picture
from synthdepth.inspector.comparisons import change_conditions
from synthdepth.models import DepthModel, create_model, load_model
from synthdepth.training import finetune, make_recipe
from synthdepth.training.batches import apply_changes
from synthdepth.training.memory import largest_batch
from synthdepth.training.processes import start_accelerator


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return open_data(write_synthdepth(tmp_path_factory.mktemp('toy')/'set', scenes=6, views=2))


def hybrid():
    torch.manual_seed(0)
    return create_model('hybriddepth', 'none', size=(48, 64), widths=(8, 8, 8),
                        prior_config=dict(size=(64, 96)))


class Seen(DepthModel):
    "Answers with 2 m, and remembers what it was given."
    needs = 'rgb', 'focal', 'focus', 'intrinsics'

    def __init__(self):
        super().__init__()
        self.given, self.name = [], 'seen'

    def encoder_layers(self): return []

    def encode(self, rgb, **inputs):
        self.given.append(dict(rgb=rgb) | inputs)
        return [rgb]

    def decode(self, features, size, **inputs): return torch.full_like(features[0][:, 0], 2.)



def test_a_stack_reaches_training_and_the_run_goes_on_where_it_was(data, tmp_path):
    splits = split_by_scene(data, fractions=(.5, .25, .25))
    recipe = make_recipe('corrected', size=(48, 64), batch_size=2, epochs=2, lr=3e-4)
    whole = finetune(hybrid(), splits, recipe, tmp_path/'whole', progress=False)
    assert whole.train_loss[1:].notna().all() and list(whole.epoch) == [0, 1, 2]
    model = load_model(tmp_path/'whole'/'model')
    assert model.name == 'hybriddepth' and model.prior.name == 'tiny'


def test_training_is_given_the_distances_that_the_dataset_was_asked_for(data, tmp_path):
    asked = replace(data, focus=Focus((1., 2., 4.)))
    given, model = [], hybrid()
    model.register_forward_pre_hook(lambda m, a, inputs: given.append(inputs['focus']),
                                    with_kwargs=True)
    recipe = make_recipe('corrected', size=(48, 64), batch_size=2, epochs=1)
    finetune(model, asked, recipe, tmp_path/'run', progress=False)
    assert given and all((x == torch.tensor([1., 2., 4.])).all() for x in given)


def test_stored_stacks_are_missed_before_the_first_step(data, tmp_path):
    asked, model = replace(data, focus=Focus(stored=True)), hybrid()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    recipe = make_recipe('corrected', size=(48, 64), batch_size=2, epochs=1)
    with pytest.raises(ValueError, match='found no focal stack'):
        finetune(model, asked, recipe, tmp_path/'run', progress=False)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


def test_evaluation_hands_over_everything_and_shows_what_the_distances_tell(data):
    seen = Seen()
    result = evaluate_models({'seen': seen}, data, show_anyway=True)
    assert 'focus distances' in result['table'].index.get_level_values(0)
    batch = seen.given[0]
    assert batch['focal'].shape[:3] == (*batch['focus'].shape, 3)
    assert torch.isfinite(batch['intrinsics']).all()
    plain = evaluate_models({'tiny': create_model('tiny')}, data, show_anyway=True)
    assert 'focus distances' not in plain['table'].index.get_level_values(0)


def test_corruptions_spoil_the_slices_as_the_picture(data):
    seen = Seen()
    measure_robustness(seen, data.subset([0, 1]), corruptions=('dark',), severities=(5,),
                       show_anyway=True)
    clear, dark = seen.given
    for name in ('rgb', 'focal'): assert dark[name].mean() < .8*clear[name].mean()
    assert torch.equal(clear['focus'], dark['focus'])


def test_data_changed_as_they_are_read_are_refused(data):
    with pytest.raises(ValueError, match='no stack is'):
        score_pictures(Seen(), perturb_data(data, 'fog', 3))


def test_the_inspector_hands_over_everything(data):
    seen = Seen()
    comparisons = Comparisons(data, {'seen': seen}, size=(24, 32))
    comparisons[3]
    change_conditions(comparisons, corruption='dark', severity=5)
    assert comparisons[3].problems == []
    clear, dark = seen.given
    assert clear['rgb'].shape == (1, 3, 24, 32) and clear['focal'].shape == (1, 5, 3, 24, 32)
    for name in ('rgb', 'focal'): assert dark[name].mean() < .8*clear[name].mean()
    sharp = (clear['focal'] - clear['rgb'][:, None]).abs().mean()
    assert 0 < sharp < .1


def test_a_picture_from_anywhere_has_no_stack_and_that_is_said(data, tmp_path):
    picture = data.captures[0].rgb
    found = predict_picture(picture, {'seen': Seen()})
    assert 'seen needs focal, focus beside the picture' in found.problems[0]
    done = predict_pictures(Seen(), [picture], tmp_path/'maps')
    assert 'needs focal, focus' in next(iter(done.failed.values()))


def test_a_camera_reaches_the_model_where_it_is_known_and_nan_where_not(data, tmp_path):
    class Camera(Seen): needs = 'rgb', 'intrinsics'
    seen = Camera()
    predict_pictures(seen, [data.root], tmp_path/'maps', size=(24, 32))
    predict_pictures(seen, [data.captures[0].rgb], tmp_path/'more')
    known, unknown = seen.given[0]['intrinsics'][0], seen.given[-1]['intrinsics'][0]
    camera, height = data.captures[0].intrinsics, data[0].rgb.shape[0]
    assert known[1].item() == pytest.approx(camera.fy*24/height)
    assert unknown.isnan().all()


def photograph(path, focal=None, size=(64, 48)):
    "A JPEG, perhaps with a focal length on 35 mm film."
    exif = Image.Exif()
    if focal: exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = focal
    Image.new('RGB', size, 'teal').save(path, exif=exif)
    return path


class Focal(DepthModel):
    "Answers with the focal length in pixels; 1 where it is not known."
    needs, late, name = ('rgb', 'intrinsics'), ('intrinsics',), 'focal'
    assumed_camera = '60 degrees vertically'

    def encoder_layers(self): return []
    def encode(self, rgb, intrinsics=None): return [rgb]

    def decode(self, features, size, intrinsics=None):
        focal = intrinsics[:, 1].nan_to_num(1.)
        return focal[:, None, None].expand(-1, *features[0].shape[-2:])


def test_predict_takes_the_camera_from_exif_then_from_the_option(tmp_path):
    told = photograph(tmp_path/'told.jpg', 26)
    turned = photograph(tmp_path/'turned.jpg', 26, (48, 64))
    mute = photograph(tmp_path/'mute.jpg')
    found = predict_pictures(Focal(), [told, turned, mute], tmp_path/'out', kinds=['npy'])
    focal = 26/(36**2 + 24**2)**.5*80
    for name in ('told', 'turned'):
        assert np.load(tmp_path/'out'/f'{name}.npy') == pytest.approx(focal, rel=1e-5)
    assert (np.load(tmp_path/'out'/'mute.npy') == 1).all()
    assert 'the camera of 1 of 3 pictures is not known and is taken for one of 60 deg' in str(found)
    assert {k: v['camera'] for k, v in found.record.items()} == dict(
        told='exif', turned='exif', mute='nobody')
    again = predict_pictures(Focal(), [told, mute], tmp_path/'fov', kinds=['npy'], fov=90.)
    assert np.load(tmp_path/'fov'/'mute.npy') == pytest.approx(24., rel=1e-5)
    assert np.load(tmp_path/'fov'/'told.npy') == pytest.approx(focal, rel=1e-5)
    assert 'not known' not in str(again)


def test_maps_under_another_field_of_view_are_not_mixed(tmp_path):
    mute = photograph(tmp_path/'mute.jpg')
    predict_pictures(Focal(), [mute], tmp_path/'out', kinds=['npy'], fov=90.)
    with pytest.raises(ValueError, match='holds npy with camera vertical field of view 90'):
        predict_pictures(Focal(), [mute], tmp_path/'out', kinds=['npy'], fov=50.)


@pytest.mark.parametrize('exif', [b'', b'Exif', b'Exif\0\0MM\0*\0\0\0\x08\xff\xff'])
def test_exif_that_says_nothing_is_no_camera(exif, tmp_path):
    Image.new('RGB', (64, 48)).save(tmp_path/'a.jpg', exif=exif)
    assert file_camera(tmp_path/'a.jpg', (48, 64)) is None
    assert file_camera(tmp_path/'none.jpg', (48, 64)) is None
    for said in (0, -3, 10**9):
        assert file_camera(photograph(tmp_path/'b.tiff', said), (48, 64)) is None


def test_a_zoom_is_told_to_the_model_and_a_turn_is_not_one(data):
    seen = []
    class Watched(Focal):
        def decode(self, features, size, intrinsics=None):
            seen.append(intrinsics[:, 1])
            return super().decode(features, size, intrinsics)
    measure_robustness(Watched(), data.subset([0]), corruptions=('fov', 'roll'), severities=(5,),
                       show_anyway=True)
    clear, closer, rolled = seen
    assert torch.allclose(closer, 2*clear) and torch.equal(rolled, clear)


def test_an_evaluation_says_what_was_assumed(data):
    blind = replace(data, captures=tuple(replace(c, intrinsics=None) for c in data.captures))
    said = evaluate_models({'focal': Focal()}, blind, show_anyway=True)['notes']
    assert any('the camera of 12 of 12 pictures is not known' in note for note in said)
    known = evaluate_models({'focal': Focal()}, data, show_anyway=True)['notes']
    assert not any('camera' in note for note in known)


def test_the_panel_takes_the_camera_from_exif_or_from_what_the_browser_sends(tmp_path):
    told = photograph(tmp_path/'told.jpg', 26)
    panel = PredictPanel({'focal': Focal()})
    focal = 26/(36**2 + 24**2)**.5*80
    assert panel.predict(told).comparison.shown['focal'][0, 0] == pytest.approx(focal, rel=1e-5)
    assert panel.note == ''
    smaller = Image.new('RGB', (32, 24))
    exif = b64encode(Image.open(told).getexif().tobytes()).decode()
    file = BytesIO()
    smaller.save(file, 'PNG')
    asked = dict(kind='predict', title='told.jpg', exif=exif)
    for message, expected in ((asked, focal/2), (asked | dict(exif=''), 1.)):
        panel.receive(None, message | dict(models=['focal']), [file.getvalue()])
        panel.receive(None, dict(kind='go'), [])
        found = panel.comparison.shown['focal'][0, 0]
        assert found == pytest.approx(expected, rel=1e-5)
    assert 'focal assume 60 degrees vertically' in panel.note
    wide = PredictPanel({'focal': Focal()}, fov=90.).predict(photograph(tmp_path/'mute.jpg'))
    assert wide.comparison.shown['focal'][0, 0] == pytest.approx(24.) and wide.note == ''


def test_a_prior_is_given_the_camera(data):
    model, given = hybrid(), []
    assert model.prior.needs == ('rgb', 'intrinsics') and 'intrinsics' in model.needs
    model.prior.register_forward_pre_hook(lambda m, a, k: given.append(k['intrinsics']),
                                          with_kwargs=True)
    score_pictures(model, data.subset([0, 1]))
    assert given and all(torch.isfinite(x).all() for x in given)


def test_a_batch_size_is_found_with_a_stack():
    recipe = make_recipe('corrected', size=(48, 64))
    assert largest_batch(hybrid(), recipe, start_accelerator(recipe), most=4) >= 1


def test_distances_that_tell_the_answer_stop_an_evaluation(data, monkeypatch):
    said = 'follow the true depth'
    monkeypatch.setattr('synthdepth.evaluation.assessment.find_focus_leak', lambda *a: [said])
    with pytest.raises(SentinelError, match=said): evaluate_models({'seen': Seen()}, data)
    evaluate_models({'tiny': create_model('tiny')}, data, show_anyway=True)


def test_a_mirrored_picture_has_a_mirrored_camera():
    batch = dict(rgb=torch.rand(2, 3, 4, 6), depth=torch.rand(2, 4, 6),
                 valid=torch.ones(2, 4, 6, dtype=bool),
                 intrinsics=torch.tensor([[5., 5., 2., 1.]]*2))
    turned = apply_changes(batch, dict(turn=torch.tensor([True, False])[:, None, None]))
    assert turned['intrinsics'].tolist() == [[5., 5., 4., 1.], [5., 5., 2., 1.]]
    assert torch.equal(turned['rgb'][0], batch['rgb'][0].flip(-1))
