"Recipes, training steps, checkpoints, and runs that can be resumed."
import lazy_loader

# Imported on use: the command line and the renderer start without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'recipes': ['RECIPES', 'FinetuneError', 'Recipe', 'apply_freezing', 'choose_precision',
        'make_recipe', 'make_splits', 'start_model'],
    'checkpoints': ['SIGNALS', 'Interrupted', 'Watch', 'list_checkpoints', 'read_state'],
    'steps': ['make_optimizer', 'recompute_activations', 'start_accelerator', 'train_batches',
        'train_step'],
    'record': ['hold_run'],
    'finetuning': ['finetune', 'plot_loss'],
    'runs': ['list_runs', 'run_state'],
})
