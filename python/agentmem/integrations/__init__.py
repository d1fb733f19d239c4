"""Drop-in replacements for what agent frameworks keep."""
