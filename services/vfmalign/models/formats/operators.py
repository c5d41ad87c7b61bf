"""The operators that a stored program may call.

When a network of timm, torchvision or MONAI is exported in evaluation mode, it consists of these operators. The list
also contains some closely related operators. Each entry names an operator with its overload. An operator is listed only
if it

- has no effect other than its result or a change of its first argument in place, - initialises its whole result, whose
shape follows from the shapes of its arguments, - draws no random numbers, - and checks its arguments itself, unlike
many of the operators (`native_batch_norm`, `as_strided`) into which torch
  decomposes the listed operators.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, cast

import torch
from torch._ops import OpOverload

from vfmalign.models.formats.program_graph import Argument, reject

Operator: TypeAlias = "OpOverload[..., object]"

_LISTED = {
    "convolutions": """
        conv1d.default conv2d.default conv3d.default conv1d.padding conv2d.padding conv3d.padding convolution.default
        conv_transpose1d.default conv_transpose2d.input conv_transpose3d.input""",
    "products": """
        addmm.default baddbmm.default bmm.default einsum.default linear.default matmul.default mm.default
        scaled_dot_product_attention.default""",
    "normalisation": """
        batch_norm.default group_norm.default instance_norm.default layer_norm.default linalg_vector_norm.default
        norm.ScalarOpt_dim rms_norm.default""",
    "activations": """
        celu.default elu.default elu_.default gelu.default glu.default hardsigmoid.default hardsigmoid_.default
        hardswish.default hardswish_.default hardtanh.default hardtanh_.default leaky_relu.default leaky_relu_.default
        log_softmax.int mish.default mish_.default prelu.default relu.default relu6.default relu_.default selu.default
        selu_.default sigmoid.default sigmoid_.default silu.default silu_.default softmax.int softplus.default
        tanh.default tanh_.default""",
    # in evaluation mode, where they return their argument
    "dropout": "alpha_dropout.default dropout.default dropout_.default feature_dropout.default",
    "pooling and resampling": """
        adaptive_avg_pool1d.default adaptive_avg_pool2d.default adaptive_avg_pool3d.default avg_pool1d.default
        avg_pool2d.default avg_pool3d.default max_pool1d.default max_pool2d.default max_pool3d.default
        pixel_shuffle.default pixel_unshuffle.default _upsample_bicubic2d_aa.vec _upsample_bilinear2d_aa.vec
        upsample_bicubic2d.vec upsample_bilinear2d.vec
        upsample_linear1d.vec upsample_nearest1d.vec upsample_nearest2d.vec upsample_nearest3d.vec
        upsample_trilinear3d.vec""",
    "reductions": """
        amax.default amin.default cumsum.default logsumexp.default max.dim mean.default mean.dim min.dim prod.dim_int
        std.correction std.dim sum.default sum.dim_IntList var.correction var.dim""",
    "arithmetic": """
        abs.default add.Scalar add.Tensor add_.Scalar add_.Tensor addcdiv.default addcmul.default clamp.Tensor
        clamp.default clamp_.default clamp_max.default clamp_min.default cos.default div.Scalar div.Tensor
        div.Tensor_mode div_.Scalar div_.Tensor erf.default exp.default expm1.default floor.default floor_divide.default
        lerp.Scalar lerp.Tensor log.default log1p.default log2.default maximum.default minimum.default mul.Scalar
        mul.Tensor mul_.Scalar mul_.Tensor neg.default pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor reciprocal.default
        remainder.Scalar rsqrt.default rsub.Scalar sin.default sqrt.default square.default sub.Scalar sub.Tensor
        sub_.Scalar sub_.Tensor""",
    "comparisons": """
        bitwise_and.Tensor bitwise_not.default bitwise_or.Tensor eq.Scalar eq.Tensor ge.Scalar ge.Tensor gt.Scalar
        gt.Tensor le.Scalar le.Tensor logical_and.default logical_not.default logical_or.default lt.Scalar lt.Tensor
        masked_fill.Scalar masked_fill.Tensor masked_fill_.Scalar ne.Scalar ne.Tensor where.ScalarOther
        where.ScalarSelf where.self""",
    "shapes": """
        cat.default chunk.default expand.default expand_as.default flatten.using_ints flip.default movedim.int
        movedim.intlist narrow.default pad.default constant_pad_nd.default permute.default repeat.default
        repeat_interleave.self_int reshape.default reshape_as.default roll.default select.int slice.Tensor split.Tensor
        split_with_sizes.default squeeze.default squeeze.dim squeeze.dims stack.default swapaxes.default t.default
        tensor_split.indices tensor_split.sections tile.default transpose.int unbind.int unflatten.int unfold.default
        unsqueeze.default view.default view_as.default""",
    "copies": """
        alias.default clone.default contiguous.default copy_.default detach.default detach_.default fill_.Scalar
        fill_.Tensor lift_fresh_copy.default to.device to.dtype to.dtype_layout to.other type_as.default
        zero_.default""",
    "new tensors": """
        arange.default arange.start arange.start_step full.default full_like.default linspace.default meshgrid.indexing
        new_full.default new_ones.default new_zeros.default ones.default ones_like.default scalar_tensor.default
        tril.default triu.default zeros.default zeros_like.default""",
    "indices": "embedding.default index.Tensor index_select.default",
}
# torch's serialised enumerations (torch/_export/serde/schema.py), as far as an encoder may use them.
DTYPES = {2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32}
DTYPES |= {1: torch.uint8, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16}
FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}

ALLOWED_OPERATORS = frozenset(name for names in _LISTED.values() for name in names.split())
"""Operator and overload, without the namespace `aten`."""

ASSERTIONS = {"_assert_async.msg", "_assert_scalar.default", "_assert_tensor_metadata.default"}
"""Operators of an exported program that return nothing. The import drops them."""

INDEX_ARGUMENTS = {
    "embedding.default": ("weight", "indices"),
    "index.Tensor": ("self", "indices"),
    "index_select.default": ("self", "index"),
}
"""Maps each operator that selects elements by index to two argument names: the elements and the index."""

TEXT_ARGUMENTS = {
    "approximate": "none|tanh",
    "equation": r"[a-zA-Z.,> -]+",
    "indexing": "ij|xy",
    "mode": "constant|reflect|replicate|circular",
    "padding": "same|valid",
    "rounding_mode": "trunc|floor",
}
"""Maps each argument that may be text to its allowed values."""

_REQUIRED_VALUES: dict[str, dict[str, bool | float]] = {
    "alpha_dropout.default": {"train": False},
    "batch_norm.default": {"training": False},
    "dropout.default": {"train": False},
    "dropout_.default": {"train": False},
    "feature_dropout.default": {"train": False},
    "scaled_dot_product_attention.default": {"dropout_p": 0.0},
}
_INFINITE_ARGUMENTS = {"fill_value", "max", "max_val", "min", "min_val", "other", "self", "value"}
_MAX_SCALE = 64.0
"""Maximum factor of an upsampling. Kernels compute positions in their input from this factor."""


def find_operator(operator: str, overload: str, subject: str) -> Operator:
    """Looks up an operator.

    Raises:
        BadCheckpoint: the operator is not allowed, or this version of torch does not have it.
    """
    name = f"{operator}.{overload}"
    if name not in ALLOWED_OPERATORS:
        raise reject(f"the graph calls 'aten.{name[:96]}', which is not allowed", subject)
    function: Operator | None = getattr(getattr(torch.ops.aten, operator, None), overload, None)
    if function is None:
        raise reject(f"this torch has no operator 'aten.{name}'", subject)
    return function


def check_arguments(function: Operator, arguments: Iterable[tuple[str, Argument]], subject: str) -> None:
    """Checks all arguments of an allowed operator that are not tensors.

    Raises:
        BadCheckpoint: an argument is unknown, occurs twice, or has a value that is not allowed.
    """
    pairs = list(arguments)
    given, schema = dict(pairs), {argument.name: argument for argument in function._schema.arguments}
    if len(given) != len(pairs) or not schema.keys() >= given.keys():
        raise reject(f"{function} has an argument twice, or one that it does not take", subject)
    for name, value in _get_required_values(str(function), given).items():
        content = given[name][1] if name in given else schema[name].default_value
        if content != value and not (content is None and value is False):
            raise reject(f"{function} must have {name} {value}: export it in evaluation mode", subject)
    for name, argument in pairs:
        if not _is_valid(str(function), name, argument):
            raise reject(f"{function} has an argument {name[:32]!r} that is not allowed", subject)


def _get_required_values(operator: str, arguments: Mapping[str, Argument]) -> Mapping[str, bool | float]:
    if "pin_memory" in arguments:
        return {"pin_memory": False}
    if operator == "aten.batch_norm.default" and arguments.get("running_mean", ("value", None))[1] is None:
        return {}  # normalises by its own input (weight standardisation): there are no statistics to change
    return _REQUIRED_VALUES.get(operator.removeprefix("aten."), {})


def _is_valid(operator: str, name: str, argument: Argument) -> bool:
    kind, content = cast(tuple[str, Any], argument)
    if kind == "number":
        return name in _INFINITE_ARGUMENTS
    if isinstance(content, str) and kind == "value":
        return name in TEXT_ARGUMENTS and re.fullmatch(TEXT_ARGUMENTS[name], content) is not None
    if kind == "dtype":
        return content in DTYPES
    if kind == "format":
        return content in FORMATS
    if "upsample" in operator and name.startswith("scale") and kind == "value" and content is not None:
        factors = content if isinstance(content, list) else [content]
        return all(isinstance(factor, float | int) and 1 / _MAX_SCALE <= factor <= _MAX_SCALE for factor in factors)
    return True
