//! `agentmem-supervisor`: what the `agentmem` command becomes when it runs something.
// Before its main function, Rust ignores SIGPIPE and opens standard descriptors that were closed. The
// command must find both as they were, so there is no such function.
#![no_main]

use agentmem_pager::arguments::{self, Arguments};
use agentmem_pager::equip::Paged;
use agentmem_pager::launch::{EXIT_OWN, Exit, LaunchError};
use agentmem_pager::registry::Registry;
use agentmem_pager::{copies, start};
use std::io::Write;

#[unsafe(no_mangle)]
extern "C" fn main(_count: i32, _words: *const *const std::ffi::c_char) -> i32 {
    agentmem_pager::sys::keep_memory_together();
    // A panic has said what it had to; whatever was open is closed on its way here.
    match std::panic::catch_unwind(supervise) {
        Ok(Ok(exit)) => exit.leave(),
        Ok(Err(error)) => {
            let _ = writeln!(std::io::stderr(), "agentmem: {}", error.text);
            error.code
        }
        Err(_) => EXIT_OWN,
    }
}

fn supervise() -> Result<Exit, LaunchError> {
    let own = |text: String| LaunchError { text, code: EXIT_OWN, errno: libc::EINVAL };
    match arguments::parse(std::env::args_os().skip(1)).map_err(own)? {
        Arguments::Run { settings, count: 1, command } => start::run(settings, &command, &Paged),
        Arguments::Run { settings, count, command } => copies::run(&settings, count, &command),
        Arguments::Adopt { settings, pid, tree } => start::adopt(settings, pid, tree, &Paged),
        Arguments::Sweep => sweep().map_err(|error| own(error.to_string())),
    }
}

/// Prints a JSON line for each supervisor that was killed.
fn sweep() -> agentmem_core::Result<Exit> {
    for lost in Registry::open()?.sweep()? {
        let line = serde_json::to_string(&lost).unwrap_or_default();
        let _ = writeln!(std::io::stdout(), "{line}");
    }
    Ok(Exit::Code(0))
}
