use super::*;

const EXAMPLE: &str = include_str!("../../agentmemd.toml");

#[test]
fn the_example_says_what_the_defaults_are() {
    assert_eq!(Config::parse(EXAMPLE).unwrap(), Config::default());
    assert_eq!(Config::parse("").unwrap(), Config::default());
}

/// What has no default is shown behind a `#`, and is right as well.
#[test]
fn the_example_is_right_in_its_comments_too() {
    let shown = |line: &str| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).map(str::to_owned);
    let all: Vec<_> = EXAMPLE.lines().map(|line| shown(line).unwrap_or(line.to_owned())).collect();
    let config = Config::parse(&all.join("\n")).unwrap();
    assert!(config.path.is_some());
    assert_eq!(config.domains.len(), 2);
}

#[test]
fn amounts_are_numbers_or_text() {
    let text = "memory_max = \"3G\"\narena_bytes = 1048576\nwarm_after = 90\ncold_after = \"36h\"\ncold = false";
    let config = Config::parse(text).unwrap();
    assert_eq!((config.memory_max_bytes, config.arena_bytes), (Some(3 << 30), 1 << 20));
    assert_eq!((config.warm_after_ms, config.cold_after_ms), (90_000, 36 * 3_600_000));
    assert!(!config.to_options().unwrap().cold);
}

#[test]
fn an_error_names_the_line_and_the_key() {
    for (text, line, key) in [
        ("memory_max = \"2G\"\nmemroy = 1", 2, "memroy"),
        ("\n\nwarm_after = \"soon\"", 3, "warm_after"),
        ("memory_max = -1", 1, "memory_max"),
        ("metrics_port = 65536", 1, "metrics_port"),
        ("metrics_port = \"0.0.0.0:9464\"", 1, "metrics_port"),
        ("memory_max = \"1K\"", 1, "memory_max"),
        ("# one\nmemory_max = [1]", 2, "memory_max"),
        ("cold = \"no\"", 1, "cold"),
        ("warm_level = 3\ncold_level = 20", 2, "cold_level"),
        ("cold = false\npath = \"/a\"", 2, "path"),
        ("arena_bytes = 10", 1, "arena_bytes"),
        ("policy = \"best\"", 1, "policy"),
        ("backend = \"gpu\"", 1, "backend"),
        ("[limits]\ndomains = 10\nconnections = 0", 3, "connections"),
        ("[limits]\ndomain = 10", 2, "domain"),
        ("cold = true\n[domains.a]\nmemory_max = \"1G\"", 2, "domains.a"),
        ("[domains.a]\ntoken_file = \"/a\"\ntoken = \"secret\"", 3, "token"),
        ("[domains.a]\ntoken_sha256 = \"12\"", 1, "token_sha256"),
        ("[domains.a]\ntoken_file = \"/a\"\nmemory_max = \"lots\"", 3, "memory_max"),
        ("[domains.\"a b\"]\ntoken_file = \"/a\"", 1, "a b"),
        ("cold = true\ncold = true", 2, "cold"),
        ("a = ", 1, "a"),
    ] {
        let error = Config::parse(text).unwrap_err();
        assert!(error.starts_with(&format!("{line}: ")) && error.contains(key), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn relative_paths_lie_beside_the_file_and_the_command_line_counts_more() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.toml");
    std::fs::write(&file, "path = \"cold\"\nmemory_max = \"1G\"\n[domains.a]\ntoken_file = \"token\"").unwrap();
    let mut settings = Settings { config: Some(file.clone()), ..Settings::default() };
    let config = Config::load(&settings).unwrap();
    assert_eq!(config.path, Some(folder.path().join("cold")));
    assert_eq!(config.domains["a"].token, Token::File(folder.path().join("token")));
    settings.memory_max_bytes = Some(3 << 30);
    assert_eq!(Config::load(&settings).unwrap().memory_max_bytes, Some(3 << 30));
    settings.memory_max_bytes = Some(1);
    assert_eq!(Config::load(&settings).unwrap_err().kind(), ErrorKind::InvalidArgument);
    settings.config = Some(folder.path().join("none.toml"));
    assert_eq!(Config::load(&settings).unwrap_err().kind(), ErrorKind::Io);
    std::fs::write(&file, "warm_after = 1\nno_such = 2").unwrap();
    let error = Config::read(&file).unwrap_err();
    assert!(error.subject().starts_with(&format!("{}:2: ", file.display())), "{error}");
}
