"One contract for every depth model, and the models."
import lazy_loader

# Imported on use: the command line and the renderer start without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'registry': ['DepthModel', 'create_model', 'freeze', 'load_model', 'load_weights',
        'model_names', 'parameters_in', 'register', 'save_weights', 'unfreeze', 'weight_file'],
    'tiny': ['WEIGHTS', 'Tiny'],
    'features': ['FeatureCache', 'encoder_key', 'feature_bytes', 'feature_loader', 'predict',
        'turn'],
})
