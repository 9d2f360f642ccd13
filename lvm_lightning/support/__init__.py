"""What every room may use: files, errors, argument types, randomness, portions; it knows nothing else here."""
