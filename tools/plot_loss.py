#!/usr/bin/env python3
"""Draw training logs: `tools/plot_loss.py LOG... [--avg N] [--no_refresh] [--out FILE]`."""

from caffe_split.cli.plot_loss import main

if __name__ == "__main__":
    status = main()
    if status:  # a notebook's %run shows every SystemExit, so a good end raises none
        raise SystemExit(status)
