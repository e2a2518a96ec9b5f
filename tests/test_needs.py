"What a model needs besides the picture reaches it wherever it is used."
from dataclasses import replace

import pytest
import torch
from toy import write_synthdepth

from synthdepth.data import Focus, open_data, split_by_scene
from synthdepth.evaluation import SentinelError, evaluate_models, measure_robustness
from synthdepth.evaluation import perturb_data, predict_pictures, score_pictures
from synthdepth.inspector import Comparisons, predict_picture
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
