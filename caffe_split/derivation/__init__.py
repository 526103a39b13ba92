"""Deriving a net: which layers are split and how, as a plan, and the files that the plan writes."""
