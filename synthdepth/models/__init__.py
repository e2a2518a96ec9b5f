"One contract for every depth model, and the models."
import lazy_loader

# Imported on use: the command line and the renderer start without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'weights': ['load_weights', 'read_config', 'save_weights', 'weight_file'],
    'contract': ['FIXED', 'Comparison', 'DepthModel', 'picture_noise'],
    'registry': ['create_model', 'is_model_name', 'load_model', 'model_names', 'register'],
    'freezing': ['freeze', 'parameters_in', 'unfreeze'],
    'hub': ['ACCEPT'],
    'encoders': ['PACKAGED'],
    'tiny': ['WEIGHTS', 'Tiny', 'file_config'],
    'features': ['FeatureCache', 'bare_model', 'encoder_key', 'feature_bytes', 'feature_loader',
        'frozen_stage', 'inputs_of', 'predict_batch', 'read_features', 'run_batch', 'turn'],
    'export': ['ExportError', 'OnnxDepth', 'export_model', 'faster'],
})
