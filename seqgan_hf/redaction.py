"""Settings as anybody may read them: without secrets, and without what tells where they come from."""

import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SECRET_ENDINGS = ("token", "secret", "password", "api_key", "access_key", "private_key", "authorization")


def publishable(values: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return settings as JSON can hold them and anybody may read them, however deep a value stands.

    Every token, secret and password is replaced; of an absolute path the last name is left; a URL loses its credentials
    and its query, where signatures are.

    Args:
        values (`Mapping`): Settings by name.

    Returns:
        `dict`
    """
    return {str(name): _publishable(str(name), value) for name, value in values.items()}


def is_secret(name: str) -> bool:
    """Tell whether a setting of this name is a token, a secret or a password."""
    return name.lower().endswith(_SECRET_ENDINGS)


def _publishable(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return publishable(value)
    if isinstance(value, (list, tuple)):
        return [_publishable(name, part) for part in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if hasattr(value, "to_dict"):  # a configuration of quantisation, say
        return publishable(value.to_dict())
    text = str(value)
    if is_secret(name):
        return f"<{name.upper()}>"
    if "://" in text:
        url = urllib.parse.urlsplit(text)
        return urllib.parse.urlunsplit((url.scheme, url.netloc.rpartition("@")[2], url.path, "", ""))
    return Path(text).name if Path(text).is_absolute() else text
