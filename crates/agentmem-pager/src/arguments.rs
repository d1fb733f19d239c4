//! What the supervisor was called with. The command line of people is the Python package's; this one
//! takes its long options only, and takes them literally.

use agentmem_core::smu::check_importance;
use std::ffi::OsString;
use std::path::PathBuf;

/// The most supervisors that one call starts, as many as the registry holds agents.
pub const COUNT_MAX: u32 = crate::registry::AGENTS_MAX as u32;

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Arguments {
    /// Start a command and supervise it.
    Run {
        /// How.
        settings: Settings,
        /// How many of it.
        count: u32,
        /// Program and arguments.
        command: Vec<OsString>,
    },
    /// Supervise a process that runs already.
    Adopt {
        /// How.
        settings: Settings,
        /// Which.
        pid: i32,
        /// With everything below it.
        tree: bool,
    },
    /// Clean up after supervisors that were killed.
    Sweep,
}

/// How to supervise.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The agent's name; none: chosen after the command.
    pub name: Option<String>,
    /// 0 to 100.
    pub importance: u8,
    /// How long an agent must be quiet before it is paged out.
    pub idle_after_ms: u64,
    /// The most memory that the agent may hold while it is awake.
    pub memory_max_bytes: Option<u64>,
    /// Whether idle agents are frozen: those that are not keep their memory, as nothing may run while a page is missing.
    pub freeze: bool,
    /// Where paging is not possible, freeze only instead of refusing to start.
    pub best_effort: bool,
    /// Where frames go that are not wanted in RAM.
    pub cold_dir: Option<PathBuf>,
    /// How often an agent away may run its timers for a second; 0: never.
    pub breath_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            name: None,
            importance: 50,
            idle_after_ms: 30_000,
            memory_max_bytes: None,
            freeze: true,
            best_effort: false,
            cold_dir: None,
            breath_ms: 600_000,
        }
    }
}

/// Reads the arguments behind the program's name. An error is one line.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, String> {
    let mut parser = lexopt::Parser::from_args(arguments);
    parse_from(&mut parser).map_err(|error| error.to_string())
}

fn parse_from(parser: &mut lexopt::Parser) -> Result<Arguments, lexopt::Error> {
    use lexopt::prelude::*;
    let verb = match parser.next()? {
        Some(Value(verb)) => verb.string()?,
        Some(other) => return Err(other.unexpected()),
        None => return Err("expected run, adopt or sweep".into()),
    };
    let (runs, adopts) = (verb == "run", verb == "adopt");
    if !runs && !adopts && verb != "sweep" {
        return Err(format!("{verb}: expected run, adopt or sweep").into());
    }
    let mut settings = Settings::default();
    let (mut count, mut pid, mut tree, mut command) = (1, None, false, Vec::new());
    while let Some(argument) = parser.next()? {
        match argument {
            Long("name") => settings.name = Some(parser.value()?.string()?),
            Long("importance") => {
                settings.importance = check_importance(parser.value()?.parse()?).map_err(|e| e.to_string())?;
            }
            Long("idle-after-ms") => settings.idle_after_ms = parser.value()?.parse()?,
            Long("memory-max-bytes") => settings.memory_max_bytes = Some(parser.value()?.parse()?),
            Long("no-freeze") => settings.freeze = false,
            Long("best-effort") => settings.best_effort = true,
            Long("cold-dir") => settings.cold_dir = Some(parser.value()?.into()),
            Long("breath-ms") => settings.breath_ms = parser.value()?.parse()?,
            Long("count") if runs => count = parser.value()?.parse()?,
            Long("pid") if adopts => pid = Some(parser.value()?.parse()?),
            Long("tree") if adopts => tree = true,
            Value(program) if runs => {
                command.push(program);
                command.extend(parser.raw_args()?);
            }
            other => return Err(other.unexpected()),
        }
    }
    match verb.as_str() {
        "run" if command.is_empty() => Err("run needs a command: run -- COMMAND".into()),
        "run" if !(1..=COUNT_MAX).contains(&count) => Err(format!("--count: expected 1 to {COUNT_MAX}").into()),
        "run" => Ok(Arguments::Run { settings, count, command }),
        "adopt" => match pid {
            Some(pid @ 1..) => Ok(Arguments::Adopt { settings, pid, tree }),
            _ => Err("adopt needs --pid=N".into()),
        },
        _ => Ok(Arguments::Sweep),
    }
}

impl Settings {
    /// The same as options, but for the name.
    pub fn to_options(&self) -> Vec<OsString> {
        let mut options: Vec<OsString> = vec![
            format!("--importance={}", self.importance).into(),
            format!("--idle-after-ms={}", self.idle_after_ms).into(),
            format!("--breath-ms={}", self.breath_ms).into(),
        ];
        options.extend(self.memory_max_bytes.map(|bytes| format!("--memory-max-bytes={bytes}").into()));
        options.extend((!self.freeze).then(|| "--no-freeze".into()));
        options.extend(self.best_effort.then(|| "--best-effort".into()));
        if let Some(folder) = &self.cold_dir {
            let mut option = OsString::from("--cold-dir=");
            option.push(folder);
            options.push(option);
        }
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
    fn everything_behind_the_command_is_the_commands() {
        let parsed = parse(words("run --name=a --no-freeze -- sh -c --name=b -- x")).unwrap();
        let Arguments::Run { settings, count, command } = parsed else { panic!("not a run") };
        assert_eq!((settings.name.as_deref(), settings.freeze, count), (Some("a"), false, 1));
        assert_eq!(command, words("sh -c --name=b -- x"));
    }

    #[test]
    fn adoption_needs_a_process() {
        let adopt = |pid, tree| Arguments::Adopt { settings: Settings::default(), pid, tree };
        assert_eq!(parse(words("adopt --pid=7 --tree")), Ok(adopt(7, true)));
        assert!(parse(words("adopt --tree")).unwrap_err().contains("--pid"));
        assert!(parse(words("adopt --pid=0")).is_err());
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        for line in [
            "",
            "walk",
            "run",
            "run --",
            "run --nmae=x -- true",
            "run --count=0 -- true",
            "run --count=1025 -- true",
            "run --importance=101 -- true",
            "run --idle-after-ms=soon -- true",
            "run --pid=1 -- true",
            "sweep now",
        ] {
            assert!(parse(words(line)).is_err(), "{line}");
        }
    }

    #[test]
    fn settings_survive_being_passed_on() {
        let settings = Settings {
            name: None,
            importance: 7,
            idle_after_ms: 1,
            memory_max_bytes: Some(2),
            freeze: false,
            best_effort: true,
            cold_dir: Some("/a b".into()),
            breath_ms: 3,
        };
        let mut line = vec![OsString::from("run")];
        line.extend(settings.to_options());
        line.extend(words("-- true"));
        let command = words("true");
        assert_eq!(parse(line), Ok(Arguments::Run { settings, count: 1, command }));
    }
}
