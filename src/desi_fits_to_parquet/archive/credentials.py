"""Credentials for the archive: none, unless `archive.profile` names an AWS profile.

DESI's archive is public. Without a profile every request is unsigned, and neither the `AWS_*`
environment variables nor `~/.aws` are read: keys, endpoints or regions that stand there for other
work would go to the wrong service or lead to it.
"""

import os
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from botocore.session import Session


KEPT = ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CA_BUNDLE")
"""Variables of the environment that say where profiles stand and whom to trust on the way."""


class NoCredentials(Exception):
    """The profile is not there or holds no keys; the message names the profile and no secret."""


def clear_environment(environment: MutableMapping[str, str]) -> None:
    """Remove the `AWS_*` variables but `KEPT`: obstore reads some thirty of them by itself.

    To be called before there are threads; processes that are started later inherit it.
    """
    for name in [n for n in environment if n.startswith("AWS_") and n not in KEPT]:
        del environment[name]


def open_session(profile: str | None) -> "Session":
    """Open a session of botocore that knows the profile's keys, or nothing of this machine.

    Parameters
    ----------
    profile
        `archive.profile`.

    Raises
    ------
    NoCredentials
        Where there is no such profile, or it gives no keys.
    """
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    if profile is None:
        silent: dict[str, Any] = {
            name: (key, [], default, convert)  # no environment variable
            for name, (key, _, default, convert) in Session.SESSION_VARIABLES.items()
            if name != "ca_bundle"  # tells whom to trust on the way, which is the network's matter
        }
        for name in ("config_file", "credentials_file"):
            silent[name] = (None, [], os.devnull, None)
        return Session(session_vars=silent)
    try:
        session = Session(profile=profile)
        found = session.get_credentials()
    except BotoCoreError as error:
        raise NoCredentials(f"archive.profile: {type(error).__name__}, {profile}") from error
    if found is None:
        raise NoCredentials(f"archive.profile: the AWS profile {profile} holds no keys")
    return session


def store_arguments(profile: str | None) -> dict[str, Any]:
    """Return how an `S3Store` of obstore is to sign: not at all, or with the profile's keys.

    Raises
    ------
    NoCredentials
        See `open_session`.
    """
    if profile is None:
        return {"skip_signature": True}
    from botocore.exceptions import BotoCoreError

    found: Any = open_session(profile).get_credentials()
    try:
        keys = found.get_frozen_credentials()
    except BotoCoreError as error:  # a login that has expired
        raise NoCredentials(f"archive.profile: {type(error).__name__}, {profile}") from error
    # through a provider, not as settings: a token in the environment cannot mix with these keys
    given = {
        "access_key_id": keys.access_key,
        "secret_access_key": keys.secret_key,
        "token": keys.token,
        "expires_at": None,
    }
    return {"skip_signature": False, "credential_provider": lambda: given}
