//! A daemon as small as can be, for tests and for `make bench-c`: serves `serve SOCKET` until its stdin ends.

use agentmem_core::Result;
use agentmem_store::{Domains, Options, Server};
use std::io::Read;
use std::os::unix::net::UnixListener;

const MEMORY_MAX_BYTES: u64 = 256 << 20;

fn main() -> Result<()> {
    let socket = std::env::args_os().nth(1).expect("where to listen");
    let options = || Options { pressure: false, ..Options::default() };
    let server = Server::new(Domains::new(MEMORY_MAX_BYTES, Box::new(move |_| Ok(options())))?);
    let listener = UnixListener::bind(socket).expect("a socket that can be listened at");
    for governs in [true, false] {
        let (server, listener) = (server.clone(), listener.try_clone().expect("a descriptor"));
        std::thread::spawn(move || if governs { server.govern() } else { drop(server.run(&listener)) });
    }
    println!("ready");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    server.stop()
}
