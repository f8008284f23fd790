"""Remove passwords and tokens from URLs and pipe commands before they are written to files or sent to servers."""

from __future__ import annotations

import argparse
import re
from typing import Any

MARK = "<redacted>"
PIPE = "pipe:"
USER_INFO = re.compile(r"""(?P<scheme>[A-Za-z][\w+.-]*://)[^\s/?#'"]*@""")
# Up to the end of the word, without quotation marks, brackets and punctuation after it; `::` joins several URLs.
QUERY = re.compile(
    r"""(?P<place>[A-Za-z][\w+.-]*://[^\s?#'"]*[?#])(?:(?!::)[^\s'"])+?(?=[:;,.)\]}]*(?:\s|['"]|\\?$|::))"""
)
# In the command of a pipe: curl's headers and users, and values of anything named like a secret.
VALUE = r"""(?:\\?(['"])(?:(?!\2).)*\2|\S+)"""
NAMES = r"[\w-]*(?:token|secret|passw|credential|signature|auth|api[-_]?key|access[-_]?key)[\w-]*"
SECRET = re.compile(
    rf"(?i)((?:(?<=\s)-[a-z]*[hu]|--(?:proxy-)?(?:header|user))[ =]?|--{NAMES}\s+"
    rf"|{NAMES}\s*[=:]\s*(?:(?:bearer|basic)\s+)?|bearer\s+){VALUE}"
)


def redacted(value: Any) -> Any:
    """Return a text, or dictionaries, lists and namespaces of texts, with `MARK` in place of secrets.

    Secrets are user-info, query and fragment of every URL, and in a ``pipe:`` command also the values of headers,
    users, and options and variables named like a token, secret, password, credential, signature, authorisation or key.
    """
    if isinstance(value, str):
        plain, pipe, command = value.partition(PIPE)
        return _urls(plain) + pipe + SECRET.sub(rf"\g<1>{MARK}", _urls(command))
    if isinstance(value, dict):
        return {redacted(name): redacted(part) for name, part in value.items()}
    if isinstance(value, argparse.Namespace):
        return type(value)(**{name: redacted(part) for name, part in vars(value).items()})
    if isinstance(value, list):
        return [redacted(part) for part in value]
    return value


def _urls(text: str) -> str:
    if "://" not in text:
        return text
    return QUERY.sub(rf"\g<place>{MARK}", USER_INFO.sub(rf"\g<scheme>{MARK}@", text))


def check_complete(settings: dict[str, Any]) -> None:
    """Reject settings, by dotted names, from a file in which they are redacted."""
    for name, value in settings.items():
        if MARK in str(value):
            raise ValueError(
                f"--{name}={value}: the run's files do not contain the user, query or password of this URL; "
                f"give the whole URL again: --{name}=..."
            )
