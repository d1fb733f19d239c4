//! What the daemon was called with.

use crate::amounts::{port, size};
use std::ffi::OsString;
use std::path::PathBuf;

/// What `--help` prints.
pub const HELP: &str = "\
agentmemd: memory for AI agents, one daemon per user

usage: agentmemd [options]
  --foreground       stay in the foreground (the default)
  --background       return once agents are served
  --stop             end the one that runs, and wait until it has
  --socket PATH      where to listen, instead of $AGENTMEM_SOCKET
  --config FILE      instead of $XDG_CONFIG_HOME/agentmem/agentmemd.toml
  --memory-max SIZE  budget of the fleet: everything that is kept in RAM here, and managed trees, such as 8G
  --metrics-port N   serve metrics on this port of 127.0.0.1 too, and not only on the socket
  --path DIR         folder of the cold tier
  --no-keeper        no parent that starts the engine again: systemd does
  --version          print the version
";

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verb {
    /// Serve, and return when that is over.
    Foreground,
    /// Start a daemon, and return when it serves.
    Background,
    /// End the daemon that runs.
    Stop,
    /// Serve in a session of its own: what a background start starts.
    Detached,
    /// Be the engine: what a keeper starts.
    Engine,
    /// Print the version.
    Version,
    /// Print how to call it.
    Help,
}

/// How to do it. What is none is as the configuration says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// The socket.
    pub socket: Option<PathBuf>,
    /// The configuration.
    pub config: Option<PathBuf>,
    /// Budget of everything that is kept in RAM.
    pub memory_max_bytes: Option<u64>,
    /// Port of the loopback for metrics.
    pub metrics_port: Option<u16>,
    /// Folder of the cold tier.
    pub path: Option<PathBuf>,
    /// Whether there is no keeper.
    pub no_keeper: bool,
}

/// Reads the arguments behind the program's name. An error is one line.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<(Verb, Settings), String> {
    parse_from(&mut lexopt::Parser::from_args(arguments)).map_err(|error| error.to_string())
}

fn parse_from(parser: &mut lexopt::Parser) -> Result<(Verb, Settings), lexopt::Error> {
    use lexopt::prelude::*;
    let mut verb = None;
    let mut settings = Settings::default();
    while let Some(argument) = parser.next()? {
        let found = match argument {
            Long("foreground") => Verb::Foreground,
            Long("background") => Verb::Background,
            Long("stop") => Verb::Stop,
            Long("detached") => Verb::Detached,
            Long("engine") => Verb::Engine,
            Long("version") => Verb::Version,
            Long("help") | Short('h') => Verb::Help,
            other => {
                match other {
                    Long("socket") => settings.socket = Some(absolute(parser.value()?)?),
                    Long("config") => settings.config = Some(absolute(parser.value()?)?),
                    Long("path") => settings.path = Some(absolute(parser.value()?)?),
                    Long("memory-max") => settings.memory_max_bytes = Some(parser.value()?.parse_with(size)?),
                    Long("metrics-port") => settings.metrics_port = Some(parser.value()?.parse_with(port)?),
                    Long("no-keeper") => settings.no_keeper = true,
                    other => return Err(other.unexpected()),
                }
                continue;
            }
        };
        if verb.replace(found).is_some_and(|before| before != found) {
            return Err("--foreground, --background and --stop exclude each other".into());
        }
    }
    Ok((verb.unwrap_or(Verb::Foreground), settings))
}

/// Whoever it is passed on to may be in another folder.
fn absolute(path: OsString) -> Result<PathBuf, lexopt::Error> {
    std::path::absolute(&path).map_err(|error| format!("{}: {error}", path.display()).into())
}

impl Settings {
    /// The same as options.
    pub fn to_options(&self) -> Vec<OsString> {
        let paths = [("--socket=", &self.socket), ("--config=", &self.config), ("--path=", &self.path)];
        let given = paths.into_iter().filter_map(|(option, path)| Some((option, path.as_ref()?)));
        let mut options: Vec<OsString> = given
            .map(|(option, path)| {
                let mut option = OsString::from(option);
                option.push(path);
                option
            })
            .collect();
        options.extend(self.memory_max_bytes.map(|bytes| format!("--memory-max={bytes}").into()));
        options.extend(self.metrics_port.map(|port| format!("--metrics-port={port}").into()));
        options.extend(self.no_keeper.then(|| "--no-keeper".into()));
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn settings_survive_being_passed_on() {
        let line = "--background --socket=/a/b --config /c --path=/d --memory-max 2G --metrics-port=9 --no-keeper";
        let (verb, settings) = parse(words(line)).unwrap();
        assert_eq!((verb, settings.memory_max_bytes), (Verb::Background, Some(2 << 30)));
        assert_eq!(parse(settings.to_options()), Ok((Verb::Foreground, settings)));
        assert!(Settings::default().to_options().is_empty());
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        for line in [
            "x",
            "--sokcet=a",
            "--memory-max=big",
            "--memory-max",
            "--stop --background",
            "--stop=1",
            "--metrics-port=0",
        ] {
            assert!(parse(words(line)).is_err(), "{line}");
        }
    }

    #[test]
    fn paths_do_not_depend_on_where_one_is() {
        let (_, settings) = parse(words("--path=cold")).unwrap();
        assert_eq!(settings.path, Some(std::env::current_dir().unwrap().join("cold")));
    }
}
