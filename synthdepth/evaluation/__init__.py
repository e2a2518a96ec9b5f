"Original against fine-tuned: scores, intervals, sentinels, corruptions, robustness."
import lazy_loader

# Imported on use: the command line and the renderer start without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'scores': ['FEW', 'Constant', 'SentinelError', 'bootstrap', 'evaluate_all', 'score_pictures',
        'trivial_predictors'],
    'statistics': ['combine_seeds', 'differences', 'paired_differences', 'paired_test',
        'scores_table', 'show_difference', 'sign_flip_p', 'write_rows'],
    'sentinels': ['check_predictions', 'find_faults', 'find_leaks', 'find_mask_faults',
        'find_mismatches', 'find_run_faults', 'find_unchanged', 'object_to'],
    'evaluate': ['compare', 'evaluate_model', 'evaluate_models', 'evaluate_run', 'prediction_grid',
        'report', 'show_table', 'write_results'],
    'corruptions': ['CORRUPTIONS', 'corrupt'],
    'robustness': ['CAMERA', 'CHANGES', 'ce_rr', 'change', 'corrupted', 'dee', 'expose',
        'measure_robustness', 'plot_curves', 'show_summary', 'summary', 'turn_camera'],
})
