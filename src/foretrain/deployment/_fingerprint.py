"""A fingerprint at the very end of a model file: one flipped bit, or one byte less, and the file is refused.

The entry is a metadata property like any other (protobuf reads the concatenation of two messages as their union), so
other programs read the file as before; and as it comes last, whoever checks it needs no protobuf.
"""

import hashlib

from foretrain._foundation import ForetrainError

KEY = b"fingerprint"
_DIGITS = 64
_VALUE = 7 + _DIGITS  # "sha256:" and the digits
# ModelProto.metadata_props, field 14, holds a StringStringEntryProto: key, field 1; value, field 2.
_ENTRY = 2 + len(KEY) + 2 + _VALUE
_PREFIX = bytes([14 << 3 | 2, _ENTRY, 1 << 3 | 2, len(KEY)]) + KEY + bytes([2 << 3 | 2, _VALUE]) + b"sha256:"
_LENGTH = len(_PREFIX) + _DIGITS
# ModelProto.producer_name, field 2, among the first bytes of the file.
_PRODUCER = bytes([2 << 3 | 2, 9]) + b"foretrain"
_HEAD = 64


def sealed(model: bytes) -> bytes:
    """The file with its fingerprint appended, one that it had replaced."""
    body = _body(model)
    return body + _PREFIX + hashlib.sha256(body).hexdigest().encode()


def require_untouched(model: bytes, source: str) -> None:
    """Refuses a file of this package that is not, to the last bit, what was exported.

    **A fingerprint guards against damage, not against malice:** who rewrites a file can seal it again.

    Arguments:
        model: content of the file; one of another exporter passes.
        source: what to call the file.

    Raises:
        ForetrainError: a fingerprint that is missing or another's.
    """
    body = _body(model)
    if len(body) < len(model):
        if hashlib.sha256(body).hexdigest().encode() != model[-_DIGITS:]:
            raise ForetrainError(
                f"{source}: expected an ONNX model that is as it was exported, came one changed since (its fingerprint "
                "differs); copy or export the model again"
            )
    elif _PRODUCER in model[:_HEAD]:
        raise ForetrainError(
            f"{source}: expected an ONNX model that is as it was exported, came one cut short or changed (its "
            "fingerprint is missing); copy or export the model again"
        )


def _body(model: bytes) -> bytes:
    """All but the fingerprint; the whole file where there is none."""
    return model[:-_LENGTH] if model[-_LENGTH:-_DIGITS] == _PREFIX else model
