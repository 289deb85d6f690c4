"""Build one `Settings` from options, environment, `verani.toml` and defaults, in that order of precedence.

The fields of the Struct are the only list of settings: an option, a variable and a file key exist because
a field does. Every layer is checked, also where a higher one wins, so a typo never waits for its turn.
Secrets are read here too, into a type of their own, and never become settings.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, get_type_hints

import msgspec
from msgspec import Struct, inspect

from verani.errors import SettingsError
from verani.settings import NEVER, Settings

from .http.host_port import is_loopback
from .http.listener_names import is_host_name, is_host_pattern
from .http.origins import is_origin
from .http.proxies import is_proxy

__all__ = [
    "ADMIN_TOKEN",
    "CLUSTER_SECRET",
    "CONFIG_VARIABLE",
    "RPC_TOKEN",
    "SETTINGS",
    "Secrets",
    "Setting",
    "VARIABLES",
    "check",
    "check_tokens",
    "load",
    "load_secrets",
    "settings_of",
    "suggest",
    "unknown_variables",
]

_PREFIX: Final = "VERANI_"
CONFIG_VARIABLE: Final = "VERANI_CONFIG"
RPC_TOKEN: Final = "VERANI_RPC_TOKEN"
ADMIN_TOKEN: Final = "VERANI_ADMIN_TOKEN"
CLUSTER_SECRET: Final = "VERANI_CLUSTER_SECRET"
_SECRET_VARIABLES: Final = frozenset(
    variable + suffix for variable in (RPC_TOKEN, ADMIN_TOKEN, CLUSTER_SECRET) for suffix in ("", "_FILE")
)
_DEFAULT_FILE: Final = "verani.toml"

# The cluster secret keys what stands between a stranger and unpickling; a short one is soon guessed.
_SHORTEST_SECRET: Final = 16

# What a header can carry without quoting.
_TOKEN: Final = re.compile(r"[!-~]+")

# What the items of a list of texts must be, beyond text.
_ITEMS: Final[Mapping[str, tuple[Callable[[str], bool], str]]] = {
    "host": (bool, "addresses or host names, or one"),
    "internal_host": (bool, "addresses or host names, or one"),
    "allowed_origins": (
        is_origin,
        "origins such as https://app.example.com, https://*.example.com, file:// or null, without a path, or *",
    ),
    "trusted_proxies": (is_proxy, "IP addresses, networks such as 10.0.0.0/8, or unix"),
    "public_hosts": (
        is_host_pattern,
        "host names such as app.example.com or *.example.com without scheme or port, or *",
    ),
    "internal_hosts": (is_host_name, "host names without scheme or port"),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of the Struct, as the three sources spell and describe it."""

    name: str
    default: Any
    description: str
    kind: inspect.Type
    optional: bool
    annotation: Any

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return _PREFIX + self.name.upper()

    @property
    def is_list(self) -> bool:
        return isinstance(self.kind, inspect.VarTupleType)

    def items(self, *texts: str) -> list[str] | str:
        """Split what was given for a list at commas; where one text will do, one is that text."""
        items = [item.strip() for text in texts for item in text.split(",") if item.strip()]
        return items[0] if len(items) == 1 and isinstance(self.default, str) else items

    @property
    def is_flag(self) -> bool:
        return isinstance(self.kind, inspect.BoolType)

    @property
    def expected(self) -> str:
        """Say in words what a value must be."""
        match self.kind:
            case inspect.IntType(ge=low, le=high):
                words = "an integer" + _bounds(low, high)
            case inspect.FloatType(gt=above, ge=low, le=high):
                words = "a number" + (f" greater than {above:g}" if above is not None else _bounds(low, high))
            case inspect.BoolType():
                words = "true or false"
            case inspect.LiteralType(values=values):
                words = "one of " + ", ".join(map(str, values))
            case inspect.VarTupleType():
                words = "a list of " + _ITEMS.get(self.name, (None, "texts"))[1]
            case _:
                words = "a text that is not empty"
        return f"{words}, or {NEVER!r}" if self._spells_never else words

    @property
    def _spells_never(self) -> bool:
        # Where the default is None, leaving the setting out says None; only other optional ones need a word.
        return self.optional and self.default is not None

    def convert(self, value: Any, label: str, *, strict: bool) -> Any:
        """Turn a value of one source into the field's; `label` is how that source spells the setting."""
        if value == NEVER and self._spells_never:
            return None
        try:
            converted = msgspec.convert(value, self.annotation, strict=strict)
        except msgspec.ValidationError as error:
            raise self._refusal(value, label) from error
        if not self._fits(converted):
            raise self._refusal(value, label)
        return converted

    def _fits(self, converted: Any) -> bool:
        match converted:
            case None:  # msgspec reads the text "null" as None; here that has one spelling only
                return False
            case float():
                return math.isfinite(converted)
            case tuple():
                fits = _ITEMS[self.name][0] if self.name in _ITEMS else bool
                # What is something by default cannot be nothing at all.
                return all(map(fits, converted)) and bool(converted or not self.default)
            case str():
                return bool(converted)  # an empty host would mean every interface
            case _:
                return True

    def _refusal(self, value: Any, label: str) -> SettingsError:
        shown = repr(value)
        return SettingsError(
            f"{label}: expected {self.expected}, got {shown if len(shown) <= 80 else shown[:77] + '...'}"
        )


def _bounds(low: float | None, high: float | None) -> str:
    match low, high:
        case None, None:
            return ""
        case _, None:
            return f" of at least {low}"
        case None, _:
            return f" of at most {high}"
        case _:
            return f" from {low} to {high}"


def settings_of(kind: type[Struct]) -> dict[str, Setting]:
    """List the settings that a Struct's fields are, by name."""
    information = inspect.type_info(kind)
    assert isinstance(information, inspect.StructType)
    annotations = get_type_hints(kind, include_extras=True)
    return {field.name: _setting(field, annotations[field.name]) for field in information.fields}


def _setting(field: inspect.Field, annotation: Any) -> Setting:
    kind, description = field.type, ""
    if isinstance(kind, inspect.Metadata):
        description = (kind.extra_json_schema or {}).get("description", "")
        kind = kind.type
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    optional = any(isinstance(each, inspect.NoneType) for each in kinds)
    # What may be one text or a list of texts is a list; only the file can tell the difference.
    kind = next(
        (each for each in kinds if isinstance(each, inspect.VarTupleType)),
        next(each for each in kinds if not isinstance(each, inspect.NoneType)),
    )
    return Setting(field.name, field.default, description, kind, optional, annotation)


SETTINGS: Final[Mapping[str, Setting]] = settings_of(Settings)
# All that is read of the environment.
VARIABLES: Final = {setting.variable for setting in SETTINGS.values()} | _SECRET_VARIABLES | {CONFIG_VARIABLE}


def load(options: Mapping[str, Any], environ: Mapping[str, str], *, config: str | None = None) -> Settings:
    """Build the settings of a service.

    `options` holds only what was given on the command line, by setting name: text, a list of texts for a
    list, a bool for a flag. `config` is the value of `--config`. Raises `SettingsError`, whose text names
    the setting the way its source spells it.
    """
    values = _from_file(environ, config)
    values |= _from_environment(environ)
    values |= _from_options(options)
    return Settings(**values)


def check(settings: Settings) -> None:
    """Refuse settings made in Python whose values do not fit; the error names the field."""
    for setting in SETTINGS.values():
        value = getattr(settings, setting.name)
        if value is not None or not setting.optional:
            setting.convert(value, f"Settings: {setting.name}", strict=True)
    if settings.tracing and find_spec("opentelemetry") is None:
        raise SettingsError("tracing: expected OpenTelemetry to be installed: pip install 'verani[otel]'")


def check_tokens(settings: Settings, secrets: Secrets) -> None:
    """Refuse to listen where others can reach the internal listener without both tokens."""
    reached = [host for host in settings.internal_addresses if not is_loopback(host)]
    if not reached:
        return
    tokens = {RPC_TOKEN: secrets.rpc_token, ADMIN_TOKEN: secrets.admin_token}
    if missing := [variable for variable, token in tokens.items() if token is None]:
        raise SettingsError(
            f"internal_host {', '.join(map(repr, reached))} is reachable from other machines: expected"
            f" {RPC_TOKEN} and {ADMIN_TOKEN} to be set, got no {' and no '.join(missing)}"
        )


def unknown_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """List the `VERANI_*` variables that mean nothing here; they deserve a warning."""
    return tuple(sorted(name for name in environ if name.startswith(_PREFIX) and name not in VARIABLES))


def _from_options(options: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in options.items():
        setting = SETTINGS[name]
        values[name] = setting.convert(
            setting.items(*value) if setting.is_list else value, setting.option, strict=False
        )
    return values


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        if (value := environ.get(setting.variable)) is not None:
            values[name] = setting.convert(
                setting.items(value) if setting.is_list else value, setting.variable, strict=False
            )
    return values


def _from_file(environ: Mapping[str, str], config: str | None) -> dict[str, Any]:
    table, path = _read_file(environ, config)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if _PREFIX + key.upper() in _SECRET_VARIABLES:
            raise SettingsError(f"{path}: {key}: a secret is only taken from the environment ({_spelled(key)})")
        if key not in SETTINGS:
            raise SettingsError(f"{path}: unknown key {key!r}{suggest(key, SETTINGS)}")
        # A file has types of its own, so text is not read as a number.
        values[key] = SETTINGS[key].convert(value, f"{path}: {key}", strict=True)
    return values


def _read_file(environ: Mapping[str, str], config: str | None) -> tuple[dict[str, Any], str]:
    asked = config or environ.get(CONFIG_VARIABLE)
    path = asked or _DEFAULT_FILE
    try:
        with Path(path).open("rb") as file:
            return tomllib.load(file), path
    except FileNotFoundError as error:
        if not asked:
            return {}, path
        raise SettingsError(f"{_source(config)}: no such file: {path}") from error
    except OSError as error:
        raise SettingsError(f"{_source(config)}: cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # both a TOML and a UTF-8 error are one
        raise SettingsError(f"{path}: expected TOML, got an error: {error}") from error


def _source(config: str | None) -> str:
    return "--config" if config else CONFIG_VARIABLE


def _spelled(key: str) -> str:
    variable = _PREFIX + key.upper().removesuffix("_FILE")
    return f"{variable} or {variable}_FILE"


def suggest(word: str, known: Iterable[str], *, likeness: float = 0.6) -> str:
    """Give "; did you mean ...?" when a known word is close, else nothing; `likeness` is at most 1."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=likeness)
    return f"; did you mean {close[0]}?" if close else ""


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """The tokens of the internal listener and the secret of the cluster; None where none was given."""

    rpc_token: str | None = None
    admin_token: str | None = None
    cluster_secret: str | None = None

    def __repr__(self) -> str:
        """Say only which secrets there are, so that no log or traceback can show one."""
        return (
            f"<Secrets rpc_token={_presence(self.rpc_token)} admin_token={_presence(self.admin_token)}"
            f" cluster_secret={_presence(self.cluster_secret)}>"
        )


def _presence(token: str | None) -> str:
    return "absent" if token is None else "set"


def load_secrets(environ: Mapping[str, str]) -> Secrets:
    """Read the secrets from `VERANI_X` or from the file that `VERANI_X_FILE` names.

    Raises `SettingsError` for a secret given both ways, an unreadable file, or a text that is no token; it
    names the variable and never shows the value.
    """
    cluster_secret = _secret(CLUSTER_SECRET, environ)
    if cluster_secret is not None and len(cluster_secret) < _SHORTEST_SECRET:
        raise SettingsError(
            f"{CLUSTER_SECRET}: expected at least {_SHORTEST_SECRET} characters, got {len(cluster_secret)}"
        )
    return Secrets(
        rpc_token=_secret(RPC_TOKEN, environ),
        admin_token=_secret(ADMIN_TOKEN, environ),
        cluster_secret=cluster_secret,
    )


def _secret(variable: str, environ: Mapping[str, str]) -> str | None:
    token, path = environ.get(variable), environ.get(f"{variable}_FILE")
    if token is not None and path is not None:
        raise SettingsError(f"expected one of {variable} and {variable}_FILE, got both")
    source = variable
    if path is not None:
        source = f"{variable}_FILE"
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError(f"{source}: cannot read {path!r}: {error.strerror}") from error
        except ValueError:
            # Not chained: a decoding error carries the bytes.
            raise SettingsError(f"{source}: expected text in {path!r}, got bytes that are not UTF-8") from None
    # An empty token is refused, not taken for none: it is what a missing secret looks like in a deployment.
    if token is not None and not _TOKEN.fullmatch(token):
        raise SettingsError(
            f"{source}: expected a token of visible ASCII characters, got "
            + ("an empty text" if not token else "a text with other characters")
        )
    return token
