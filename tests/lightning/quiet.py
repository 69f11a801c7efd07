"""Settings of a Trainer that runs on the CPU, shows nothing and saves no checkpoints."""

QUIET = {
    "accelerator": "cpu",
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
