"""The records of layer types, a file per family. Each file has its types with all that is known of them in `RECORDS`."""
