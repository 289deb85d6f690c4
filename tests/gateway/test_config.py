"""One name in three spellings, one order of precedence, and errors that say where the mistake stands."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta, Struct

from verani.errors import SettingsError
from verani.settings import Settings
from verani_gateway import config
from verani_gateway.config import (
    SETTINGS,
    Secrets,
    Setting,
    check,
    check_tokens,
    load,
    load_secrets,
    settings_of,
    unknown_variables,
)


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _write(text: str, name: str = "verani.toml") -> None:
    Path(name).write_text(text, encoding="utf-8")


def _refusal(
    options: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None, config: str | None = None
) -> str:
    with pytest.raises(SettingsError) as caught:
        load(options or {}, environ or {}, config=config)
    return str(caught.value)


def test_nothing_given_means_the_defaults() -> None:
    assert load({}, {}) == Settings()


def test_options_win_over_environment_over_file_over_defaults() -> None:
    _write("port = 1\nrate_limit = 1\nmax_unread = 1\n")
    settings = load({"port": "3"}, {"VERANI_PORT": "2", "VERANI_RATE_LIMIT": "2"})
    assert (settings.port, settings.rate_limit, settings.max_unread) == (3, 2.0, 1.0)
    assert settings.ping_interval == Settings().ping_interval


def test_every_field_is_a_setting_in_all_three_sources() -> None:
    assert list(SETTINGS) == list(Settings.__struct_fields__)
    for name, setting in SETTINGS.items():
        value = getattr(Settings(), name)
        text = {None: "7", (): ""}.get(value, str(value))
        options = {name: [text] if setting.is_list else text}
        from_option = getattr(load(options, {}), name)
        from_variable = getattr(load({}, {setting.variable: text}), name)
        _write(f"{name} = {msgspec.json.encode(from_option).decode()}")
        assert getattr(load({}, {}), name) == from_variable == from_option
        _write("")


def test_every_setting_is_described() -> None:
    assert [name for name, setting in SETTINGS.items() if not setting.description] == []


def test_one_name_has_one_spelling_a_source() -> None:
    setting = SETTINGS["rate_limit"]
    assert (setting.name, setting.option, setting.variable) == ("rate_limit", "--rate-limit", "VERANI_RATE_LIMIT")


def test_never_is_none_in_every_source() -> None:
    assert load({"hibernate_after": "never"}, {}).hibernate_after is None
    assert load({}, {"VERANI_HIBERNATE_AFTER": "never"}).hibernate_after is None
    _write('hibernate_after = "never"')
    assert load({}, {}).hibernate_after is None


def test_a_source_can_undo_never_of_a_lower_one() -> None:
    _write('hibernate_after = "never"')
    assert load({}, {"VERANI_HIBERNATE_AFTER": "2.5"}).hibernate_after == 2.5


def test_lists_are_repeated_or_comma_separated_outside_the_file() -> None:
    expected = ("https://a.com", "https://b.com", "https://c.com")
    options = {"allowed_origins": ["https://a.com, https://b.com", "https://c.com"]}
    assert load(options, {}).allowed_origins == expected
    variable = "https://a.com,https://b.com,,https://c.com,"
    assert load({}, {"VERANI_ALLOWED_ORIGINS": variable}).allowed_origins == expected
    _write('allowed_origins = ["https://a.com", "https://b.com", "https://c.com"]')
    assert load({}, {}).allowed_origins == expected


def test_a_host_is_one_text_or_several_in_every_source() -> None:
    assert load({"host": ["::1", "10.0.0.1"]}, {}).public_addresses == ("::1", "10.0.0.1")
    assert load({}, {"VERANI_HOST": "::1, 10.0.0.1"}).public_addresses == ("::1", "10.0.0.1")
    for line in ('host = "::1"', 'host = ["::1"]'):
        _write(line)
        assert load({}, {}).public_addresses == ("::1",)
    assert load({"host": ["127.0.0.1"]}, {"VERANI_INTERNAL_HOST": "127.0.0.1"}) == Settings()
    assert Settings(host="::").public_addresses == ("::",)
    assert Settings(internal_host=("a", "[::1]")).internal_addresses == ("a", "::1")
    check(Settings(host=("::", "10.0.0.1")))
    check(Settings(host="::"))


def test_without_any_host_nothing_is_listened_on_by_mistake() -> None:
    assert _refusal(environ={"VERANI_HOST": ""}).startswith("VERANI_HOST: expected a list of addresses")
    assert _refusal({"host": [""]}).startswith("--host: expected a list of addresses")
    with pytest.raises(SettingsError, match="^Settings: host: expected a list of addresses"):
        check(Settings(host=()))


def test_an_empty_variable_empties_a_list_of_the_file() -> None:
    _write('allowed_origins = ["https://a.com"]')
    assert load({}, {"VERANI_ALLOWED_ORIGINS": ""}).allowed_origins == ()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("port", "x", "expected an integer from 0 to 65535, got 'x'"),
        ("port", "70000", "expected an integer from 0 to 65535, got '70000'"),
        ("port", "-1", "expected an integer from 0 to 65535, got '-1'"),
        ("port", "", "expected an integer from 0 to 65535, got ''"),
        ("port", "never", "expected an integer from 0 to 65535, got 'never'"),
        ("internal_port", "null", "expected an integer from 0 to 65535, got 'null'"),
        ("max_frame_bytes", "0", "expected an integer of at least 1, got '0'"),
        ("hook_timeout", "0", "expected a number greater than 0, got '0'"),
        ("hook_timeout", "nan", "expected a number greater than 0, got 'nan'"),
        ("hook_timeout", "inf", "expected a number greater than 0, got 'inf'"),
        ("rate_limit", "-1", "expected a number of at least 0, got '-1'"),
        ("hibernate_after", "0", "expected a number greater than 0, or 'never', got '0'"),
        ("hibernate_after", "null", "expected a number greater than 0, or 'never', got 'null'"),
        ("rate_policy", "panic", "expected one of close, drop, throttle, got 'panic'"),
        ("log_level", "INFO", "expected one of debug, error, info, warning, got 'INFO'"),
        ("machine", "", "expected a text that is not empty, got ''"),
    ],
)
def test_a_wrong_value_is_named_as_its_source_spells_it(name: str, value: str, expected: str) -> None:
    setting = SETTINGS[name]
    assert _refusal({name: value}) == f"{setting.option}: {expected}"
    assert _refusal(environ={setting.variable: value}) == f"{setting.variable}: {expected}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('port = "8000"', "verani.toml: port: expected an integer from 0 to 65535, got '8000'"),
        ("port = true", "verani.toml: port: expected an integer from 0 to 65535, got True"),
        ("port = 8000.5", "verani.toml: port: expected an integer from 0 to 65535, got 8000.5"),
        ("port = {}", "verani.toml: port: expected an integer from 0 to 65535, got {}"),
        ("rate_limit = inf", "verani.toml: rate_limit: expected a number of at least 0, got inf"),
        ("machine = 1", "verani.toml: machine: expected a text that is not empty, got 1"),
        ("host = 1", "verani.toml: host: expected a list of addresses or host names, or one, got 1"),
        ('host = ""', "verani.toml: host: expected a list of addresses or host names, or one, got ''"),
        ("host = []", "verani.toml: host: expected a list of addresses or host names, or one, got []"),
        ('host = ["a", ""]', "verani.toml: host: expected a list of addresses or host names, or one, got ['a', '']"),
        (
            'allowed_origins = "https://a.com"',
            "verani.toml: allowed_origins: expected a list of origins such as https://app.example.com,"
            " https://*.example.com, file:// or null, without a path, or *, got 'https://a.com'",
        ),
        ("rate_limits = 5", "verani.toml: unknown key 'rate_limits'; did you mean rate_limit?"),
        ("[server]\nport = 1", "verani.toml: unknown key 'server'"),
        ("Port = 1", "verani.toml: unknown key 'Port'; did you mean port?"),
    ],
)
def test_a_mistake_in_the_file_names_file_and_key(line: str, expected: str) -> None:
    _write(line)
    assert _refusal() == expected


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("allowed_origins", "app.com"),
        ("allowed_origins", "https://app.com/page"),
        ("allowed_origins", "https://*"),
        ("public_hosts", "https://app.com"),
        ("public_hosts", "app.com:8000"),
        ("trusted_proxies", "proxy.internal"),
        ("internal_hosts", "verani:8001"),
    ],
)
def test_an_item_that_could_never_match_is_refused(name: str, item: str) -> None:
    assert _refusal({name: [item]}).endswith(f"got [{item!r}]")


def test_a_mistake_is_told_even_where_a_higher_source_wins() -> None:
    assert _refusal({"port": "1"}, {"VERANI_PORT": "x"}).startswith("VERANI_PORT: ")


def test_a_long_wrong_value_is_cut() -> None:
    assert len(_refusal({"port": "9" * 10_000})) < 200


def test_whole_numbers_of_the_file_are_numbers() -> None:
    _write("rate_limit = 5")
    assert load({}, {}).rate_limit == 5.0


def test_the_file_is_found_by_option_before_variable_before_name() -> None:
    _write("port = 1")
    _write("port = 2", "two.toml")
    _write("port = 3", "three.toml")
    assert load({}, {}).port == 1
    assert load({}, {"VERANI_CONFIG": "two.toml"}).port == 2
    assert load({}, {"VERANI_CONFIG": "two.toml"}, config="three.toml").port == 3


def test_a_file_that_was_asked_for_must_be_there() -> None:
    assert _refusal(config="gone.toml") == "--config: no such file: gone.toml"
    assert _refusal(environ={"VERANI_CONFIG": "gone.toml"}) == "VERANI_CONFIG: no such file: gone.toml"
    assert _refusal(config=".").startswith("--config: cannot read .: ")


@pytest.mark.parametrize("content", [b"port = ", b"\xff\xfe", b"port = 1\nport = 2"])
def test_a_file_that_is_no_toml_is_named(content: bytes) -> None:
    Path("verani.toml").write_bytes(content)
    assert _refusal().startswith("verani.toml: expected TOML, got an error: ")


def test_tracing_asks_for_the_package_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    check(Settings(tracing=True))
    monkeypatch.setattr(config, "find_spec", lambda name: None)
    check(Settings())
    with pytest.raises(SettingsError, match=r"pip install 'verani\[otel\]'"):
        check(Settings(tracing=True))


def test_unknown_variables_are_listed_and_known_ones_are_not() -> None:
    known = dict.fromkeys(("VERANI_PORT", "VERANI_CONFIG", "VERANI_RPC_TOKEN", "VERANI_ADMIN_TOKEN_FILE", "HOME"), "x")
    assert unknown_variables(known) == ()
    assert unknown_variables(known | {"VERANI_PROT": "1", "VERANI_": "2"}) == ("VERANI_", "VERANI_PROT")


class _Odd(Struct):
    flag: Annotated[bool, Meta(description="a switch")] = False
    names: tuple[str, ...] = ()
    bare: int = 0
    low: Annotated[int, Meta(le=3)] = 0


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("0", False), ("1", True), ("FALSE", False)])
def test_a_flag_is_read_from_text(text: str, expected: bool) -> None:
    assert settings_of(_Odd)["flag"].convert(text, "VERANI_FLAG", strict=False) is expected


def test_types_without_bounds_are_described_too() -> None:
    settings = settings_of(_Odd)
    assert settings["flag"].is_flag
    assert [setting.expected for setting in settings.values()] == [
        "true or false",
        "a list of texts",
        "an integer",
        "an integer of at most 3",
    ]


@pytest.mark.parametrize("value", ["yes please", "2", None])
def test_what_is_no_flag_is_refused(value: Any) -> None:
    with pytest.raises(SettingsError, match="expected true or false"):
        settings_of(_Odd)["flag"].convert(value, "VERANI_FLAG", strict=False)


def test_settings_made_in_python_are_checked_by_name() -> None:
    check(Settings(hibernate_after=None, internal_port=0))
    with pytest.raises(SettingsError, match=r"^Settings: trusted_proxies: expected a list of IP addresses"):
        check(Settings(trusted_proxies=("proxy",)))
    with pytest.raises(SettingsError, match=r"^Settings: port: "):
        check(Settings(port=-1))


def test_a_setting_is_a_value() -> None:
    assert isinstance(SETTINGS["port"], Setting)
    assert SETTINGS["port"] == settings_of(Settings)["port"]


# --- secrets -------------------------------------------------------------------------------------------


def _secret_refusal(environ: Mapping[str, str]) -> str:
    with pytest.raises(SettingsError) as caught:
        load_secrets(environ)
    return str(caught.value)


def test_secrets_come_from_variables_or_files() -> None:
    _write("from-file\n", "token")
    secrets = load_secrets({"VERANI_RPC_TOKEN": "from-variable", "VERANI_ADMIN_TOKEN_FILE": "token"})
    assert (secrets.rpc_token, secrets.admin_token) == ("from-variable", "from-file")
    assert load_secrets({}) == Secrets(None, None)


def test_secrets_never_show_themselves() -> None:
    secrets = Secrets("s3cret", None)
    assert repr(secrets) == str(secrets) == "<Secrets rpc_token=set admin_token=absent cluster_secret=absent>"


def test_a_secret_given_both_ways_is_refused() -> None:
    refusal = _secret_refusal({"VERANI_ADMIN_TOKEN": "s3cret", "VERANI_ADMIN_TOKEN_FILE": "token"})
    assert refusal == "expected one of VERANI_ADMIN_TOKEN and VERANI_ADMIN_TOKEN_FILE, got both"


def test_an_unreadable_secret_file_names_the_variable() -> None:
    refusal = _secret_refusal({"VERANI_RPC_TOKEN_FILE": "gone"})
    assert refusal == "VERANI_RPC_TOKEN_FILE: cannot read 'gone': No such file or directory"
    Path("binary").write_bytes(b"\xff\xfes3cret")
    refusal = _secret_refusal({"VERANI_RPC_TOKEN_FILE": "binary"})
    assert refusal == "VERANI_RPC_TOKEN_FILE: expected text in 'binary', got bytes that are not UTF-8"


@pytest.mark.parametrize("token", ["", " ", "two words", "tab\there", "snow☃", "line\nline"])
def test_what_is_no_token_is_refused_without_being_shown(token: str) -> None:
    refusal = _secret_refusal({"VERANI_ADMIN_TOKEN": token})
    assert refusal.startswith("VERANI_ADMIN_TOKEN: expected a token of visible ASCII characters, got ")
    assert not token.strip() or token not in refusal


def test_an_empty_secret_file_is_refused() -> None:
    _write("\n", "token")
    assert _secret_refusal({"VERANI_ADMIN_TOKEN_FILE": "token"}).endswith("got an empty text")


def test_the_secret_of_the_cluster_comes_from_the_environment_too() -> None:
    environ = {"VERANI_CLUSTER_SECRET": "0123456789abcdef"}
    assert load_secrets(environ).cluster_secret == "0123456789abcdef"
    assert unknown_variables(environ) == ()
    refusal = _secret_refusal({"VERANI_CLUSTER_SECRET": "s3cret"})
    assert refusal == "VERANI_CLUSTER_SECRET: expected at least 16 characters, got 6"


@pytest.mark.parametrize("key", ["admin_token", "rpc_token", "admin_token_file", "cluster_secret"])
def test_a_secret_in_the_file_is_refused_without_being_shown(key: str) -> None:
    _write(f'{key} = "s3cret"')
    refusal = _refusal()
    assert refusal.startswith(f"verani.toml: {key}: a secret is only taken from the environment (VERANI_")
    assert "s3cret" not in refusal


def test_no_setting_holds_a_secret() -> None:
    assert [name for name in SETTINGS if "token" in name or "secret" in name] == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_on_loopback_no_token_is_needed(host: str) -> None:
    check_tokens(Settings(internal_host=host), Secrets())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "verani.internal"])
@pytest.mark.parametrize("secrets", [Secrets(), Secrets(rpc_token="a"), Secrets(admin_token="b")])
def test_beyond_loopback_both_tokens_are_needed(host: str, secrets: Secrets) -> None:
    with pytest.raises(SettingsError, match=r"expected VERANI_RPC_TOKEN and VERANI_ADMIN_TOKEN to be set"):
        check_tokens(Settings(internal_host=host), secrets)
    check_tokens(Settings(internal_host=host), Secrets("a", "b"))
