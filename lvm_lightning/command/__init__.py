"""The command ``lvm-lightning``: parsing, messages, run folders, checkpoints on the way in."""
