"""DeepSpeed's configuration: presets, keys, rules."""
