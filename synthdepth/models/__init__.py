"One contract for every depth model, and the models."
import lazy_loader

# Imported on use: the command line and the renderer start without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'weights': ['load_weights', 'save_weights', 'weight_file'],
    'contract': ['Comparison', 'DepthModel', 'FIXED', 'INPUTS', 'check_rgb', 'picture_noise'],
    'registry': ['create_model', 'load_model', 'model_names', 'register'],
    'freezing': ['freeze', 'parameters_in', 'unfreeze'],
    'tiny': ['WEIGHTS', 'Tiny'],
    'features': ['FeatureCache', 'encoder_key', 'feature_bytes', 'feature_loader', 'predict_batch',
        'read_features', 'turn'],
})
