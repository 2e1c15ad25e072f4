"""The search: Optuna proposes, Ray runs, files remain. Ray and Optuna are imported only here."""
