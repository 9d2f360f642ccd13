"""What is done with a trained model on request: one subcommand, one file."""
