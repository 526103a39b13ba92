"""Arithmetic on whole lists of tensors at once: element by element, one kernel for many tensors.

PyTorch's own optimizers compute with these functions, which have no public names. This module is the only place that
uses their private ones; a name that ends in _ changes its first argument.
"""

from __future__ import annotations

from torch import _foreach_add as add
from torch import _foreach_add_ as add_
from torch import _foreach_addcmul_ as addcmul_
from torch import _foreach_div as div
from torch import _foreach_mul as mul
from torch import _foreach_mul_ as mul_
from torch import _foreach_norm as norm
from torch import _foreach_sign as sign
from torch import _foreach_sqrt as sqrt
from torch import _foreach_sub_ as sub_

__all__ = ["add", "add_", "addcmul_", "div", "mul", "mul_", "norm", "sign", "sqrt", "sub_"]
