"Original against fine-tuned: scores, intervals, sentinels, corruptions, robustness."
import lazy_loader

# Imported on use: the command line and the renderer start without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'prediction': ['PredictionError', 'camera_note', 'needs_of', 'predict', 'predict_alone',
        'predict_captures', 'sees_camera', 'unknown_cameras'],
    'matching': ['MatchError', 'find_maps', 'maps_of_their_own', 'match_maps'],
    'stored_predictions': ['StoredError', 'StoredPredictions'],
    'scores': ['SentinelError', 'score_models', 'score_pictures', 'scores_table', 'write_rows'],
    'trivial': ['ConstantDepth', 'FocusDistances', 'MeanDepthMap', 'NothingToScore',
        'trivial_predictors'],
    'statistics': ['BETTER', 'MIN_BOOTSTRAP_SCENES', 'bootstrap', 'combine_seeds', 'differences',
        'paired_differences', 'paired_test', 'show_difference', 'sign_flip_p'],
    'sentinels': ['check_predictions', 'find_faults', 'find_focus_leak', 'find_leaks',
        'find_mask_faults', 'find_mismatches', 'find_run_faults', 'find_unchanged',
        'stop_at_faults'],
    'panels': ['BAR_HEIGHT', 'GAP', 'HEAD', 'PredictedCapture', 'depth_limits', 'error_limit',
        'panel_page', 'prediction_grid'],
    'reporting': ['PAIR', 'SHOWN', 'compare', 'print_report', 'report', 'show_table', 'to_markdown',
        'write_results'],
    'assessment': ['evaluate_models'],
    'naming': ['distinct_ends', 'named_model'],
    'evaluate': ['evaluate_model', 'evaluate_run', 'given_size', 'original_model', 'with_range'],
    'filters': ['BatchRandom', 'disc_kernel', 'filter_pictures', 'gaussian_kernel',
        'motion_kernels'],
    'corruptions': ['CORRUPTIONS', 'corrupt', 'corrupt_sample', 'picture_key'],
    'cameras': ['CAMERA_PERTURBATIONS', 'PERTURBATIONS', 'adjust_exposure', 'perturb',
        'perturb_data', 'turn_camera'],
    'robustness': ['ce_rr', 'depth_estimation_error', 'measure_robustness', 'plot_curves',
        'show_summary', 'summary'],
    'pictures': ['PictureError', 'asked_camera', 'exif_camera', 'list_pictures'],
    'predicting': ['predict_pictures'],
})
