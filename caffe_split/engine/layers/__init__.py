"""The layers, one class per type."""
