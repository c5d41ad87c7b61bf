"""Options of comparisons for tests, in one line."""

from pydantic import ValidationError

from vfmalign.client.messages.base import to_bad_option
from vfmalign.client.messages.mmd import ComputeOptions, Kernel, TestOptions


def make_options(pairing="paired", **fields):
    """Options from the fields of the record, of its kernel and of its test, side by side."""
    nested = {"pairing": pairing, "kernel": {}, "test": {}}
    for name, value in fields.items():
        if name == "kernel":
            nested["kernel"]["family"] = value
        elif name in Kernel.model_fields:
            nested["kernel"][name] = value
        elif name in TestOptions.model_fields:
            nested["test"][name] = value
        else:
            nested[name] = value
    try:
        return ComputeOptions.model_validate(nested)
    except ValidationError as error:
        raise to_bad_option(error) from error
