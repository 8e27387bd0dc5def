"""The commands of `rlhf-studio`, one a file."""
