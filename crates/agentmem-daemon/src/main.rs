//! `agentmemd`: memory for all agents of one user.

use agentmem_daemon::{arguments, start};
use std::io::Write;

fn main() {
    let say = |text: &dyn std::fmt::Display| drop(writeln!(std::io::stderr(), "agentmemd: {text}"));
    let code = match arguments::parse(std::env::args_os().skip(1)) {
        Ok((verb, settings)) => start::start(verb, &settings).unwrap_or_else(|error| {
            say(&error);
            start::exit_code(&error)
        }),
        Err(text) => {
            say(&text);
            start::EXIT_USAGE
        }
    };
    std::process::exit(code);
}
