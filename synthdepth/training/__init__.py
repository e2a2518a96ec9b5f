"Recipes, training steps, checkpoints, and runs that can be resumed."
import lazy_loader

# Imported on use: the command line and the renderer start without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'recipes': ['RECIPES', 'RUN', 'FinetuneError', 'Recipe', 'make_recipe', 'make_splits',
        'recipe_protocol', 'refuse_unknown', 'start_model'],
    'averaging': ['average_checkpoints', 'last_epochs', 'mean_state'],
    'freezing': ['apply_freezing', 'make_optimizer'],
    'checkpoints': ['list_checkpoints', 'load_checkpoint', 'read_state'],
    'processes': ['choose_precision', 'start_accelerator'],
    'batches': ['train_batches'],
    'steps': ['batch_loss', 'train_step'],
    'memory': ['recompute_activations'],
    'record': ['data_fingerprint'],
    'finetuning': ['finetune', 'plot_loss'],
    'runs': ['list_runs', 'run_files', 'run_row', 'run_state'],
    'conformance': ['CHECKS', 'LEARNING', 'check_model'],
})
