"""winnow: hyperparameter sweeps for supervised fine-tuning that stop losing trials early."""

__version__ = "0.1.0"
