"""RLHF Studio's front end: the command line and the page."""
