"""The shared Optuna study: opening it by URL, the study server, the summary the operator reads."""
