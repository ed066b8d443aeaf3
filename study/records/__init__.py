"""Where a study lives: its folder, lock, storage, uploads and Optuna study."""
