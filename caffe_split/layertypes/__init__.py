"""What is known of each layer type, one record per type, without PyTorch; and what follows for whole nets.

`records/` has the types by family; `record` says what a record holds, `table` finds the record of a type. Records of
several families share `shape_rules`, `batch_rules`, `checks` and `words`. `shapes`, `cost` and `summary` apply the
shape rules to nets.
"""
