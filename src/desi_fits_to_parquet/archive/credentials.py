"""Access to the archive: unsigned, unless `archive.profile` names an AWS profile.

DESI's archive is public. Without a profile every request is unsigned, and neither the `AWS_*`
environment variables nor `~/.aws` are read: keys, endpoints or regions that stand there for other
work would go to the wrong service or lead to it.
"""

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boto3.session import Session


TRUST = ("AWS_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables of the environment that name the file of trusted certificates, the first one first."""

KEPT = ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CA_BUNDLE")
"""Variables of the environment that say where profiles stand and whom to trust on the way."""


class NoAccess(Exception):
    """No keys for the profile, or no certificates to trust; the message holds no secret."""


def clear_environment(environment: MutableMapping[str, str]) -> None:
    """Remove the `AWS_*` variables but `KEPT`: obstore reads some thirty of them by itself.

    To be called before there are threads; processes that are started later inherit it.
    """
    for name in [n for n in environment if n.startswith("AWS_") and n not in KEPT]:
        del environment[name]


def trusted_file(environment: Mapping[str, str]) -> str | None:
    """Return the file of trusted certificates that the environment names; None for the system's.

    Raises
    ------
    NoAccess
        Where there is no such file.
    """
    name = next((name for name in TRUST if environment.get(name)), None)
    if name is None:
        return None
    if not Path(environment[name]).is_file():
        raise NoAccess(f"{name} names the file {environment[name]}, which is not there")
    return environment[name]


def open_session(profile: str | None, setting: str = "archive.profile") -> "Session":
    """Open a session of boto3 that knows the profile's keys, or nothing of this machine.

    Parameters
    ----------
    profile
        An AWS profile, or None for unsigned requests.
    setting
        What names the profile, for messages.

    Raises
    ------
    NoAccess
        Where there is no such profile, or it gives no keys.
    """
    import boto3
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    silent: dict[str, Any] = {}
    if profile is None:
        silent = {
            name: (key, [], default, convert)  # no environment variable
            for name, (key, _, default, convert) in Session.SESSION_VARIABLES.items()
        }
        for name in ("config_file", "credentials_file"):
            silent[name] = (None, [], os.devnull, None)
    try:
        core = Session(session_vars=silent, profile=profile)
        # nobody reads the times, and parsing them takes half the CPU of a listing
        core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
        session = boto3.Session(botocore_session=core)
        if profile is not None and session.get_credentials() is None:
            raise NoAccess(f"{setting}: the AWS profile {profile} holds no keys")
    except BotoCoreError as error:
        raise NoAccess(f"{setting}: {type(error).__name__}, {profile}") from error
    return session


def store_arguments(profile: str | None) -> dict[str, Any]:
    """Return how an `S3Store` of obstore is to sign: not at all, or with the profile's keys.

    The certificates to trust are named to obstore too, by the only way that it has: the variable
    `SSL_CERT_FILE` of this process. To be called before there are threads.

    Raises
    ------
    NoAccess
        See `open_session` and `trusted_file`.
    """
    if trusted := trusted_file(os.environ):
        os.environ["SSL_CERT_FILE"] = trusted
    if profile is None:
        return {"skip_signature": True}
    from botocore.exceptions import BotoCoreError

    found: Any = open_session(profile).get_credentials()
    try:
        keys = found.get_frozen_credentials()
    except BotoCoreError as error:  # a login that has expired
        raise NoAccess(f"archive.profile: {type(error).__name__}, {profile}") from error
    # through a provider, not as settings: a token in the environment cannot mix with these keys
    given = {
        "access_key_id": keys.access_key,
        "secret_access_key": keys.secret_key,
        "token": keys.token,
        "expires_at": None,
    }
    return {"skip_signature": False, "credential_provider": lambda: given}
