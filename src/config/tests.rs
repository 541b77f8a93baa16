use super::*;

fn sources(flags: &[(&str, &str)], environment: &[(&str, &str)], file: &str) -> Sources {
    let mut sources = Sources {
        file: Some(file.to_owned()),
        ..Sources::default()
    };
    for (key, value) in flags {
        sources
            .flags
            .entry((*key).to_owned())
            .or_default()
            .push((*value).to_owned());
    }
    sources.environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    sources
}

#[track_caller]
fn check_errors(sources: &Sources, expected: &[&str]) {
    let errors: Vec<String> = Config::parse(sources)
        .expect_err("refused")
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(errors, expected);
}

#[test]
fn without_any_source_the_defaults_hold() {
    let config = Config::parse(&Sources::default()).expect("defaults are valid");
    assert_eq!(config.listen.to_string(), "127.0.0.1:4000");
    assert_eq!(config.publications, ["supabase_realtime"]);
    assert_eq!(config.slot, "walcast");
    assert_eq!(config.deletes, Deletes::Key);
    assert_eq!(config.change_log_memory_bytes_max, 16 << 20);
    assert_eq!(config.change_log_bytes_max, 1 << 30);
    assert_eq!(config.spool_bytes_max, 4 << 30);
    assert_eq!(config.retained_wal_bytes_max, 4 << 30);
    assert_eq!(config.spool_directory, None);
    assert_eq!(config.channels_per_socket_max, 100);
    assert_eq!(config.payload_bytes_max, 3_000_500);
    assert_eq!(config.messages_per_second_per_socket_max, 0);
    assert_eq!(config.joins_per_second_per_socket_max, 100);
    assert_eq!(config.presence_calls_max, 5);
    assert_eq!(config.permission_recheck_interval, Duration::from_secs(60));
    assert_eq!(config.error_delay, Duration::from_secs(2));
    assert_eq!(config.slow_consumer_timeout, Duration::from_secs(30));
    assert_eq!(config.drain_grace, Duration::from_secs(10));
    assert_eq!(config.log_format, LogFormat::Text);
    assert_eq!(config.database_url(), Err(ConfigError::DatabaseMissing));
    assert_eq!(config.verification_key(), Err(ConfigError::KeyMissing));
    assert!(
        config.jwt_secret.is_none() && config.jwks.is_none() && config.metrics_secret.is_none()
    );
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    #[track_caller]
    fn check(sources: &Sources, expected: &str) {
        assert_eq!(Config::parse(sources).expect("valid").slot, expected);
    }
    let file = "slot = 'from_file'";
    let environment = [("WALCAST_SLOT", "from_environment")];
    let flag = [("slot", "from_flag")];
    check(&sources(&[], &[], ""), "walcast");
    check(&sources(&[], &[], file), "from_file");
    check(&sources(&[], &environment, file), "from_environment");
    check(&sources(&flag, &environment, file), "from_flag");
    check(
        &sources(&[("slot", "first"), ("slot", "second")], &[], ""),
        "second",
    );
}

#[test]
fn an_empty_value_counts_as_not_given() {
    let config = Config::parse(&sources(
        &[],
        &[("WALCAST_SLOT", ""), ("WALCAST_JWT_SECRET", "")],
        "slot = 'kept'",
    ))
    .expect("valid");
    assert_eq!(config.slot, "kept");
    assert_eq!(config.jwt_secret, None);
}

#[test]
fn every_setting_can_be_given_in_each_place() {
    let value = |setting: &Setting| match setting.key {
        "publishable_key" => "sb_publishable_0123456789".to_owned(),
        "secret_key" => "sb_secret_0123456789_ab".to_owned(),
        _ if setting.default.is_empty() => "some_text".to_owned(),
        _ => setting.default.to_owned(),
    };
    let mut from_flags = Sources::default();
    let mut from_environment = Sources::default();
    let mut file = String::new();
    for setting in SETTINGS {
        from_flags
            .flags
            .insert(setting.key.to_owned(), vec![value(setting)]);
        from_environment
            .environment
            .insert(setting.variable(), value(setting));
        file.push_str(&format!("{} = \"{}\"\n", setting.key, value(setting)));
    }
    let from_file = Sources {
        file: Some(file),
        ..Sources::default()
    };
    for sources in [from_flags, from_environment, from_file] {
        let config = Config::parse(&sources).expect("valid");
        assert_eq!(config.database_url().map(Secret::expose), Ok("some_text"));
        assert_eq!(config.jwks, Some(Jwks::File(PathBuf::from("some_text"))));
        assert_eq!(config.spool_directory, Some(PathBuf::from("some_text")));
        assert!(config.jwt_secret.is_some() && config.metrics_secret.is_some());
        assert!(config.publishable_key.is_some() && config.secret_key.is_some());
    }
}

#[test]
fn publications_are_a_list_in_every_form() {
    #[track_caller]
    fn check(sources: &Sources) {
        assert_eq!(
            Config::parse(sources).expect("valid").publications,
            ["chat", "orders"]
        );
    }
    check(&sources(&[], &[], "publication = ['chat', 'orders']"));
    check(&sources(&[], &[], "publication = 'chat, orders,'"));
    check(&sources(
        &[],
        &[("WALCAST_PUBLICATION", "chat,orders,chat")],
        "",
    ));
    check(&sources(
        &[("publication", "chat"), ("publication", "orders")],
        &[],
        "",
    ));
    check_errors(
        &sources(&[("publication", ",")], &[], ""),
        &["--publication: expected at least one name"],
    );
}

#[test]
fn an_unknown_key_in_the_file_names_the_nearest_valid_one() {
    check_errors(
        &sources(&[], &[], "publications = 'a'\ncolour = 'red'"),
        &[
            r#"walcast.toml: there is no setting "colour""#,
            r#"walcast.toml: there is no setting "publications"; did you mean "publication"?"#,
        ],
    );
}

#[test]
fn all_that_is_wrong_is_said_at_once_with_its_place() {
    check_errors(
        &sources(
            &[("listen", "everywhere")],
            &[("WALCAST_DELETES", "no")],
            "sockets_max = 0\nerror_delay = 2.5",
        ),
        &[
            "walcast.toml: error_delay: expected a text, a number or a list of texts",
            r#"--listen: expected an address and a port such as 127.0.0.1:4000 or [::]:4000, found "everywhere""#,
            r#"WALCAST_DELETES: expected key or withhold, found "no""#,
            r#"walcast.toml: sockets_max: expected a number, at least 1, found "0""#,
        ],
    );
}

#[test]
fn numbers_of_the_file_need_no_quotes() {
    let config = Config::parse(&sources(
        &[],
        &[],
        "sockets_max = 7\nspool_bytes_max = 4096",
    ))
    .expect("valid");
    assert_eq!((config.sockets_max, config.spool_bytes_max), (7, 4096));
}

#[test]
fn no_error_shows_a_secret() {
    let file = "database_url = 'postgres://u:hunter2@h/d'\njwt_secret = 'hunter2";
    check_errors(
        &sources(&[], &[], file),
        &["walcast.toml, line 2: invalid literal string, expected `'`"],
    );
    check_errors(
        &sources(&[], &[("WALCAST_SECRET_KEY", "hunter2")], ""),
        &["WALCAST_SECRET_KEY: expected a key of at least 16 characters that begins with sb_"],
    );
    let config = Config::parse(&sources(
        &[],
        &[
            ("DATABASE_URL", "postgres://u:hunter2@h/d"),
            ("WALCAST_JWKS", "{hunter2}"),
        ],
        "",
    ));
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn one_key_cannot_stand_for_two_roles() {
    let key = "sb_same_key_for_everybody";
    check_errors(
        &sources(&[("publishable_key", key), ("secret_key", key)], &[], ""),
        &["publishable_key and secret_key are the same key: everybody would be service_role"],
    );
}

#[test]
fn keys_are_inline_json_or_a_file() {
    let parse = |text| {
        Config::parse(&sources(&[], &[("WALCAST_JWKS", text)], ""))
            .expect("valid")
            .jwks
    };
    assert_eq!(
        parse(" {\"keys\":[]}"),
        Some(Jwks::Inline(Secret::new(" {\"keys\":[]}".to_owned())))
    );
    assert_eq!(
        parse("/etc/walcast/jwks.json"),
        Some(Jwks::File(PathBuf::from("/etc/walcast/jwks.json")))
    );
}
