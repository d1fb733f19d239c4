//! The configuration file. `agentmemd.toml` beside this crate's source shows every knob with its default.

use crate::amounts::{duration_ms, port, size};
use crate::arguments::Settings;
use crate::paths::io;
use agentmem_core::{Backend, Error, ErrorKind, Result, policy};
use agentmem_store::{DomainQuota, Options, Terms, TokenHash, check_domain_name};
use serde::de::{Deserializer, Error as _, Unexpected};
use serde::{Deserialize, de};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The longest configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Every knob.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Budget of everything that is kept in RAM: all domains together, and the trees that supervisors manage. None:
    /// a store's default for the domains, and trees are not counted.
    #[serde(rename = "memory_max", deserialize_with = "some_bytes")]
    pub memory_max_bytes: Option<u64>,
    /// Port of the loopback where metrics can be had too.
    #[serde(deserialize_with = "some_port")]
    pub metrics_port: Option<u16>,
    /// Folder of the cold tier; none for a temporary one, which a clean end removes.
    pub path: Option<PathBuf>,
    /// Whether there is a cold tier.
    pub cold: bool,
    /// Unused for so long, hot content is compressed.
    #[serde(rename = "warm_after", deserialize_with = "time")]
    pub warm_after_ms: u64,
    /// Unused for so long, warm content goes to SSD.
    #[serde(rename = "cold_after", deserialize_with = "time")]
    pub cold_after_ms: u64,
    /// Size of an arena, as an agent's puts are written to it.
    #[serde(deserialize_with = "bytes")]
    pub arena_bytes: u64,
    /// zstd level from hot to warm.
    #[serde(deserialize_with = "level")]
    pub warm_level: i32,
    /// zstd level for content that ages into the cold tier.
    #[serde(deserialize_with = "level")]
    pub cold_level: i32,
    /// Whether to heed the kernel's pressure stall information.
    pub pressure: bool,
    /// Whether the kernel is told whom to kill first when memory has run out.
    pub oom_score: bool,
    /// What goes first.
    #[serde(deserialize_with = "policy_name")]
    pub policy: String,
    /// What holds sealed SMUs of a page or more in RAM: the kernel module only where nobody keeps the memory of the
    /// engine for a next one, and for no domain.
    #[serde(deserialize_with = "backend")]
    pub backend: Backend,
    /// Whether whoever names a domain that there is not makes it, with a token of its own.
    pub open_domains: bool,
    /// The most of everything.
    pub limits: Limits,
    /// Domains with a token, by name.
    #[serde(deserialize_with = "domains")]
    pub domains: BTreeMap<String, Domain>,
}

/// The most of everything; what is beyond is refused with `LimitReached`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections: each session has one, and a few more while its threads call at the same time.
    #[serde(deserialize_with = "count")]
    pub connections: u64,
    /// Domains beside the user's own.
    #[serde(deserialize_with = "count")]
    pub domains: u64,
    /// Of each domain beside the user's own, unless it says otherwise: its connections.
    #[serde(deserialize_with = "count")]
    pub domain_connections: u64,
    /// Likewise: contents of 1 MiB or more in RAM, each of which takes a descriptor.
    #[serde(deserialize_with = "count")]
    pub domain_large: u64,
    /// Likewise: logical bytes that its agents hold together.
    #[serde(rename = "domain_quota", deserialize_with = "some_bytes")]
    pub domain_quota_bytes: Option<u64>,
    /// Likewise: its agents.
    #[serde(deserialize_with = "some_count")]
    pub domain_agents: Option<u64>,
}

/// A domain of agents that know a token.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(try_from = "WrittenDomain")]
pub struct Domain {
    /// How the token is known here.
    pub token: Token,
    /// The most of the budget that the domain gets.
    pub memory_max_bytes: Option<u64>,
    /// The most logical bytes that its agents hold together.
    pub quota_bytes: Option<u64>,
    /// The most agents.
    pub agents: Option<u64>,
    /// The most connections.
    pub connections: Option<u64>,
}

/// How a token is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// The file holds it, on its first line.
    File(PathBuf),
    /// This is its SHA-256.
    Hash(TokenHash),
}

impl Default for Config {
    fn default() -> Self {
        let store = Options::default();
        Config {
            memory_max_bytes: None,
            metrics_port: None,
            path: store.path,
            cold: store.cold,
            warm_after_ms: store.warm_after_ms,
            cold_after_ms: store.cold_after_ms,
            arena_bytes: 4 << 20,
            warm_level: store.warm_level,
            cold_level: store.cold_level,
            pressure: store.pressure,
            oom_score: true,
            policy: store.policy.name().to_owned(),
            backend: store.backend,
            open_domains: true,
            limits: Limits::default(),
            domains: BTreeMap::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let made = Terms::default();
        Limits {
            connections: 8192,
            domains: 64,
            domain_connections: made.connections as u64,
            domain_large: made.large,
            domain_quota_bytes: made.quota.logical_bytes,
            domain_agents: made.quota.agents,
        }
    }
}

impl Config {
    /// The file that the settings name, else the user's, if there is one, else the defaults; and over it what
    /// the settings say.
    pub fn load(settings: &Settings) -> Result<Self> {
        let mut config = match settings.config.clone().or_else(|| users_file().filter(|path| path.exists())) {
            Some(path) => Config::read(&path)?,
            None => Config::default(),
        };
        config.memory_max_bytes = settings.memory_max_bytes.or(config.memory_max_bytes);
        config.metrics_port = settings.metrics_port.or(config.metrics_port);
        config.path = settings.path.clone().or(config.path);
        config.to_options()?;
        Ok(config)
    }

    /// Reads a file. An error names the key and the line.
    pub fn read(path: &Path) -> Result<Self> {
        let found = std::fs::metadata(path).map_err(|error| io(path, error))?;
        if found.len() > FILE_BYTES_MAX {
            return Err(io(path, "too long for a configuration"));
        }
        let text = std::fs::read_to_string(path).map_err(|error| io(path, error))?;
        let mut config = Config::parse(&text)
            .map_err(|error| Error::new(ErrorKind::InvalidArgument, format!("{}:{error}", path.display())))?;
        // What is relative lies beside the file.
        let folder = path.parent().unwrap_or(Path::new("/"));
        config.path = config.path.map(|path| folder.join(path));
        for domain in config.domains.values_mut() {
            if let Token::File(file) = &mut domain.token {
                *file = folder.join(&*file);
            }
        }
        Ok(config)
    }

    /// Reads a text. An error begins with the number of the line, and names its key.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let config: Config = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start).min(text.len());
            let line = text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count();
            located(text, line, error.message())
        })?;
        if let Err(error) = config.to_options() {
            // What is wrong between two knobs is told at the first that the message speaks of.
            let line_of = |word: &str| text.lines().position(|line| key_of(line) == Some(word));
            let words = error.subject().split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            return Err(located(text, words.filter_map(line_of).next().unwrap_or(0), error.subject()));
        }
        Ok(config)
    }

    /// What a domain gets that is not listed.
    pub fn terms(&self) -> Terms {
        let Limits { domain_connections, domain_large, domain_quota_bytes, domain_agents, .. } = self.limits;
        Terms {
            memory_max_bytes: u64::MAX,
            quota: DomainQuota { logical_bytes: domain_quota_bytes, agents: domain_agents },
            connections: domain_connections as usize,
            large: domain_large,
        }
    }

    /// What a listed one gets.
    pub fn terms_of(&self, domain: &Domain) -> Terms {
        let unlisted = self.terms();
        Terms {
            memory_max_bytes: domain.memory_max_bytes.unwrap_or(unlisted.memory_max_bytes),
            quota: DomainQuota {
                logical_bytes: domain.quota_bytes.or(unlisted.quota.logical_bytes),
                agents: domain.agents.or(unlisted.quota.agents),
            },
            connections: domain.connections.map_or(unlisted.connections, |count| count as usize),
            large: unlisted.large,
        }
    }

    /// How the store is opened.
    pub fn to_options(&self) -> Result<Options> {
        let options = Options {
            path: self.path.clone(),
            memory_max_bytes: self.memory_max_bytes.unwrap_or(Options::default().memory_max_bytes),
            cold: self.cold,
            warm_after_ms: self.warm_after_ms,
            cold_after_ms: self.cold_after_ms,
            arena_bytes: self.arena_bytes,
            warm_level: self.warm_level,
            cold_level: self.cold_level,
            pressure: self.pressure,
            policy: policy::by_name(&self.policy)?,
            backend: self.backend,
            ..Options::default()
        };
        options.checked()
    }
}

/// `message`, with line and key in front: `7: warm_after: ...`.
fn located(text: &str, line: usize, message: &str) -> String {
    let message = message.trim().replace('\n', " ");
    match text.lines().nth(line).and_then(key_of) {
        Some(key) if !message.contains(key) => format!("{}: {key}: {message}", line + 1),
        _ => format!("{}: {message}", line + 1),
    }
}

/// What a line sets, or the table that it begins.
fn key_of(line: &str) -> Option<&str> {
    let line = line.trim();
    let table = line.strip_prefix('[').and_then(|rest| rest.split(']').next());
    table.or_else(|| line.split_once('=').map(|(key, _)| key.trim())).filter(|key| !key.starts_with('#'))
}

fn users_file() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(folder.join("agentmem").join("agentmemd.toml"))
}

/// A number, or text that means one.
struct Amount(fn(&str) -> std::result::Result<u64, String>, u64);

impl de::Visitor<'_> for Amount {
    type Value = u64;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a number that is not negative, or text such as \"2G\" or \"5m\"")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> std::result::Result<u64, E> {
        let scaled = u64::try_from(value).ok().and_then(|value| value.checked_mul(self.1));
        scaled.ok_or_else(|| E::invalid_value(Unexpected::Signed(value), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<u64, E> {
        (self.0)(text).map_err(E::custom)
    }
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<u64, D::Error> {
    from.deserialize_any(Amount(size, 1))
}

fn time<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<u64, D::Error> {
    from.deserialize_any(Amount(duration_ms, 1000))
}

fn some_bytes<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<u64>, D::Error> {
    bytes(from).map(Some)
}

fn some_port<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<u16>, D::Error> {
    let said = from.deserialize_any(Amount(|text| port(text).map(u64::from), 1))?;
    port(&said.to_string()).map(Some).map_err(D::Error::custom)
}

fn level<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<i32, D::Error> {
    let level = i32::deserialize(from)?;
    let fits = (1..=19).contains(&level).then_some(level);
    fits.ok_or_else(|| D::Error::custom(format!("{level} is no level: give 1 to 19")))
}

fn count<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<u64, D::Error> {
    let count = u32::deserialize(from)?;
    if count > 0 { Ok(count.into()) } else { Err(D::Error::custom("0 leaves nothing to work with")) }
}

fn some_count<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<u64>, D::Error> {
    count(from).map(Some)
}

fn policy_name<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<String, D::Error> {
    let name = String::deserialize(from)?;
    policy::by_name(&name).map(|_| name).map_err(|error| D::Error::custom(error.subject()))
}

fn backend<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Backend, D::Error> {
    Backend::parse(&String::deserialize(from)?).map_err(|error| D::Error::custom(error.subject()))
}

fn domains<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<BTreeMap<String, Domain>, D::Error> {
    let domains = BTreeMap::<String, Domain>::deserialize(from)?;
    match domains.keys().find_map(|name| check_domain_name(name).err()) {
        Some(error) => Err(D::Error::custom(error.subject())),
        None => Ok(domains),
    }
}

/// A domain as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenDomain {
    token_file: Option<PathBuf>,
    token_sha256: Option<String>,
    #[serde(default, deserialize_with = "some_bytes")]
    memory_max: Option<u64>,
    #[serde(default, deserialize_with = "some_bytes")]
    quota: Option<u64>,
    #[serde(default, deserialize_with = "some_count")]
    agents: Option<u64>,
    #[serde(default, deserialize_with = "some_count")]
    connections: Option<u64>,
}

impl TryFrom<WrittenDomain> for Domain {
    type Error = String;

    fn try_from(written: WrittenDomain) -> std::result::Result<Self, String> {
        let token = match (written.token_file, written.token_sha256) {
            (Some(file), None) => Token::File(file),
            (None, Some(digits)) => {
                Token::Hash(TokenHash::parse(&digits).ok_or("token_sha256 is not 64 hexadecimal digits")?)
            }
            _ => return Err("a domain needs either token_file or token_sha256".into()),
        };
        Ok(Domain {
            token,
            memory_max_bytes: written.memory_max,
            quota_bytes: written.quota,
            agents: written.agents,
            connections: written.connections,
        })
    }
}

#[cfg(test)]
mod tests;
